"""Give a node an image without the layers that it has: of gigabytes, what changed is often a few megabytes."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_TYPE = "application/vnd.oci.image."
Json = dict[str, Any]


def load(archive: Path, ctr: Sequence[str | Path]) -> None:
    """Import an image archive (docker or OCI); `ctr` is the beginning of a command that talks to the node.

    Raises:
        RuntimeError: containerd did not take it; the message says why.
    """
    if not named_by_content(archive):
        _finished(subprocess.run([*ctr, "images", "import", archive], capture_output=True, check=False))
        return
    listed = subprocess.run([*ctr, "content", "ls", "--quiet"], capture_output=True, check=False)
    _finished(listed)
    command = [*ctr, "images", "import", "-"]
    with tempfile.TemporaryFile() as said:
        importing = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        with suppress(BrokenPipeError), importing:  # if it ends early, it says why
            write_lacking(archive, listed.stdout.decode().split(), importing.stdin or io.BytesIO())
        said.seek(0)
        _finished(subprocess.CompletedProcess(command, importing.returncode, stderr=said.read()))


def write_lacking(archive: Path, present: Collection[str], out: IO[bytes]) -> None:
    """Write a docker archive as an OCI one without the layers whose digests are `present`."""
    with tarfile.open(archive) as source, tarfile.open(fileobj=out, mode="w|", bufsize=1 << 20) as target:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))

        def blob(kind: str, content: bytes) -> Json:
            digest = hashlib.sha256(content).hexdigest()
            add(f"blobs/sha256/{digest}", content)
            return {"mediaType": f"{_TYPE}{kind}", "digest": f"sha256:{digest}", "size": len(content)}

        written = set(present)
        manifests = []
        for image in json.loads(_read(source, "manifest.json")):
            config = _read(source, image["Config"])
            layers = []
            for name, digest in zip(image["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
                layer = source.getmember(name)
                layers.append({"mediaType": f"{_TYPE}layer.v1.tar", "digest": digest, "size": layer.size})
                if digest not in written:
                    member = tarfile.TarInfo(f"blobs/{digest.replace(':', '/')}")
                    member.size = layer.size
                    target.addfile(member, source.extractfile(layer))
                    written.add(digest)
            manifest = {
                "schemaVersion": 2,
                "mediaType": f"{_TYPE}manifest.v1+json",
                "config": blob("config.v1+json", config),
                "layers": layers,
            }
            described = blob("manifest.v1+json", json.dumps(manifest).encode())
            manifests += [described | {"annotations": {"io.containerd.image.name": tag}} for tag in image["RepoTags"]]
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
        add("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())


def named_by_content(archive: Path) -> bool:
    """Whether it is a docker archive whose layers are not compressed and carry their digests as names."""
    with tarfile.open(archive) as source:
        if "manifest.json" not in source.getnames():
            return False
        for image in json.loads(_read(source, "manifest.json")):
            digests = json.loads(_read(source, image["Config"]))["rootfs"]["diff_ids"]
            named = zip(image["Layers"], digests, strict=True)
            if not all(digest.removeprefix("sha256:") in name for name, digest in named):
                return False
    return True


def _read(source: tarfile.TarFile, name: str) -> bytes:
    content = source.extractfile(name)
    if content is None:
        raise RuntimeError(f"{source.name!r} is no image archive: {name} is no file")
    return content.read()


def _finished(done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, done.args))}: {done.stderr.decode().strip()}")
