"""What is sent to a node of an image whose layers it may have."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from hack.cluster.images import write_archive
from hack.cluster.importing import named_by_content, write_lacking

NAME = "localhost/try:1"


def contents(archive: io.BytesIO) -> dict[str, bytes]:
    archive.seek(0)
    with tarfile.open(fileobj=archive) as opened:
        return {member.name: (opened.extractfile(member) or io.BytesIO()).read() for member in opened}


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_layers_that_are_there_are_left_out_and_still_named(tmp_path: Path) -> None:
    write_archive(tmp_path / "image.tar", NAME, b"a program")
    whole, lean = io.BytesIO(), io.BytesIO()
    write_lacking(tmp_path / "image.tar", [], whole)
    files = contents(whole)
    (described,) = json.loads(files["index.json"])["manifests"]
    assert described["annotations"] == {"io.containerd.image.name": NAME}

    blobs = {path.removeprefix("blobs/sha256/"): content for path, content in files.items() if path.startswith("blobs")}
    assert all(digest(content) == f"sha256:{name}" for name, content in blobs.items())
    manifest = json.loads(blobs[described["digest"].removeprefix("sha256:")])
    (layer,) = manifest["layers"]
    assert layer["size"] == len(blobs[layer["digest"].removeprefix("sha256:")])
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]

    write_lacking(tmp_path / "image.tar", [layer["digest"]], lean)
    assert files.keys() - contents(lean).keys() == {f"blobs/{layer['digest'].replace(':', '/')}"}
    assert contents(lean).items() <= files.items()


def test_layers_are_left_out_only_where_names_tell_what_they_are(tmp_path: Path) -> None:
    write_archive(tmp_path / "image.tar", NAME, b"a program")
    assert named_by_content(tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as ours, tarfile.open(tmp_path / "other.tar", "w") as other:
        for member in ours.getmembers():
            content = (ours.extractfile(member) or io.BytesIO()).read()
            if member.name == "manifest.json":
                (image,) = json.loads(content)
                (layer,) = image["Layers"]
                content = json.dumps([image | {"Layers": ["layer.tar"]}]).encode()
                member.size = len(content)
            other.addfile(member, io.BytesIO(content))
    assert layer.endswith(".tar")
    assert not named_by_content(tmp_path / "other.tar")
