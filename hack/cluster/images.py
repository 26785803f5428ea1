"""Image archives of one static program, made without a registry or a container tool."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from hack.cluster import tools

PAUSE_IMAGE = "localhost/llmops-pause:1"
_PAUSE_SOURCE = Path(__file__).parent / "pause" / "main.go"


def pause_archive() -> Path:
    """The archive of the image that holds a pod's namespaces, built when its source changed."""
    source_hash = hashlib.sha256(_PAUSE_SOURCE.read_bytes()).hexdigest()[:12]
    archive = tools.cache() / "images" / f"pause-{source_hash}.tar"
    if not archive.exists():
        write_archive(archive, PAUSE_IMAGE, static_program(_PAUSE_SOURCE))
    return archive


def static_program(source: Path) -> bytes:
    """One Go file, that needs only the standard library, compiled to a program that needs no file beside it."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    target = tools.cache() / "images" / f".{source.parent.name}-{os.getpid()}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        command: list[str | Path] = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", target, source]
        subprocess.run(command, env=environment, check=True)
        return target.read_bytes()
    finally:
        target.unlink(missing_ok=True)


def write_archive(path: Path, image: str, program: bytes) -> None:
    """Write an archive, as ``docker save`` would, of an image that holds and starts one program, ``/program``."""
    layer = _tar({"program": (program, 0o755)})
    layer_hash = hashlib.sha256(layer).hexdigest()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_hash}"]},
    }
    config_name = f"{hashlib.sha256(_json(config)).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [image], "Layers": [f"{layer_hash}.tar"]}]
    files = {config_name: _json(config), f"{layer_hash}.tar": layer, "manifest.json": _json(manifest)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(_tar({name: (content, 0o644) for name, content in files.items()}))
    partial.rename(path)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
