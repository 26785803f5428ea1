"""http(s):// against a plain web server, pvc:// and oci:// on a directory, and volumes that are full."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hack.hub import Hub
from tests.integration.conftest import eventually
from tests.integration.weights.job import Job, model_files, on_disk, write


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


def tarred(files: dict[str, bytes], *, mode: str, folder: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_base_url_is_explored(web: tuple[str, Path], job: Job, shards: int) -> None:
    url, folder = web
    files = model_files(shards=shards)
    write(folder / "models" / "m", files)
    ended = job.run("--source", f"{url}/models/m")
    assert (ended.code, on_disk(job.dest)) == (0, files), ended.output


def test_sums_beside_the_files_are_checked(web: tuple[str, Path], job: Job) -> None:
    url, folder = web
    files = model_files()
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    write(folder, files | {"SHA256SUMS": lines.encode()})
    assert job.run("--source", url).code == 0
    data = bytearray(files["model.safetensors"])
    data[-9] ^= 1
    write(folder, {"model.safetensors": bytes(data)})
    ended = Job(job.dest.with_name("other"), job.termination).run("--source", url)
    assert (ended.reason, ended.code) == ("ChecksumMismatch", 40), ended.output


@pytest.mark.parametrize(("name", "mode"), [("m.tar", "w"), ("m.tar.gz", "w:gz"), ("m.tgz", "w:gz")])
@pytest.mark.parametrize("folder", ["", "my-model/"], ids=["flat", "in a folder"])
def test_an_archive_is_unpacked_once(web: tuple[str, Path], job: Job, name: str, mode: str, folder: str) -> None:
    url, root = web
    files = model_files(shards=2)
    (root / name).write_bytes(tarred(files | {"x.bin": b"pickle", "x.py": b"code"}, mode=mode, folder=folder))
    ended = job.run("--source", f"{url}/{name}")
    assert (ended.code, on_disk(job.dest)) == (0, files), ended.output
    assert not (job.dest / ".llmops" / "partial").exists()


def test_a_hostile_archive_leaves_nothing(web: tuple[str, Path], job: Job) -> None:
    url, root = web
    files = model_files() | {"../../escaped.json": b"{}"}
    (root / "m.tar").write_bytes(tarred(files, mode="w"))
    ended = job.run("--source", f"{url}/m.tar")
    assert (ended.reason, ended.code) == ("UnsafeModel", 40), ended.output
    assert on_disk(job.dest) == {}
    assert not list(job.dest.parents[1].rglob("escaped.json"))


def test_one_safetensors_file_is_a_model(web: tuple[str, Path], job: Job) -> None:
    url, root = web
    files = {"adapter.safetensors": model_files()["model.safetensors"]}
    write(root, files)
    ended = job.run("--source", f"{url}/adapter.safetensors")
    assert (ended.code, on_disk(job.dest)) == (0, files), ended.output


@pytest.mark.parametrize("scheme", ["pvc://claim/m", "oci://registry.example/m:1"])
def test_a_mounted_model_is_proven_in_place(tmp_path: Path, job: Job, scheme: str) -> None:
    files = model_files(shards=2)
    folder = write(tmp_path / "mounted", files)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ended = job.run("--source", scheme, "--dest", str(folder))
    assert (ended.code, ended.reason) == (0, "Complete"), ended.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    digest = ended.outcome["digest"]
    assert job.run("--source", scheme, "--dest", str(folder), "--expect-digest", digest).code == 0
    (folder / "config.json").write_bytes(b'{"architectures": ["Other"]}')
    changed = job.run("--source", scheme, "--dest", str(folder), "--expect-digest", digest)
    assert (changed.reason, changed.code) == ("ChecksumMismatch", 40)


MOUNTED = [
    ("a cut file", {"model.safetensors": model_files()["model.safetensors"][:-5]}, "ChecksumMismatch"),
    ("remote code", {"config.json": b'{"auto_map": {}}'}, "UnsafeModel"),
    ("a missing shard", {"model.safetensors.index.json": b'{"weight_map": {"w": "absent"}}'}, "ModelNotFound"),
]


@pytest.mark.parametrize(("files", "reason"), [case[1:] for case in MOUNTED], ids=[case[0] for case in MOUNTED])
def test_a_mounted_model_that_must_not_be_served(
    tmp_path: Path, job: Job, files: dict[str, bytes], reason: str
) -> None:
    folder = write(tmp_path / "mounted", model_files() | files)
    ended = job.run("--source", "pvc://claim", "--dest", str(folder))
    assert (ended.reason, ended.code) == (reason, 40), ended.output


def test_a_link_out_of_a_mounted_model_is_refused(tmp_path: Path, job: Job) -> None:
    folder = write(tmp_path / "mounted", model_files())
    (folder / "extra.json").symlink_to("/etc/passwd")
    assert job.run("--source", "pvc://claim", "--dest", str(folder)).reason == "UnsafeModel"


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("making a small file system needs the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_volume_that_is_too_small_is_refused_with_numbers(
    web: tuple[str, Path], job: Job, small_volume: Path
) -> None:
    url, root = web
    write(root, model_files(30 << 20))
    ended = job.run("--source", url, "--dest", str(small_volume / "m"))
    assert (ended.reason, ended.code) == ("DiskFull", 40), ended.output
    assert "30.0 MiB" in ended.outcome["message"]
    assert os.statvfs(small_volume).f_bavail * 4096 > 20 << 20


def test_a_volume_that_fills_while_downloading(web: tuple[str, Path], job: Job, small_volume: Path) -> None:
    """The archive fits by its own size; what is in it does not."""
    url, root = web
    (root / "m.tar.gz").write_bytes(tarred(model_files(40 << 20), mode="w:gz"))
    ended = job.run("--source", f"{url}/m.tar.gz", "--dest", str(small_volume / "m"))
    assert (ended.reason, ended.code) == ("DiskFull", 40), ended.output


def test_a_volume_that_another_fills_meanwhile(hub: Hub, hub_root: Path, job: Job, small_volume: Path) -> None:
    write(hub_root / "acme" / "model", model_files(6 << 20))
    hub.bytes_per_second = 2 << 20
    dest = small_volume / "m"
    arguments = ("--source", "hf://acme/model", "--endpoint", hub.url, "--allow-private", "--dest", str(dest))
    process = job.start(*arguments)
    eventually(lambda: any("/cdn/" in seen.target for seen in hub.requests))
    filler = small_volume / "filler"
    filler.write_bytes(b"x" * (20 << 20))
    process.communicate(timeout=60)
    assert (process.returncode, json.loads(job.termination.read_text())["outcome"]) == (40, "DiskFull")
    filler.unlink()
    assert job.run(*arguments).code == 0
    assert on_disk(dest) == model_files(6 << 20)
