"""Archives that strangers made: 40 kinds of hostility, each packed three ways."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights import archive, names
from llmops_serving.jobs.weights.sources.source import RemoteFile

PACKED = RemoteFile("m.tar", None, "etag")
ZERO_BLOCKS = b"\0" * 1024


def plain(data: bytes) -> bytes:
    return data


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "tar": plain,
    "tar.gz": lambda data: gzip.compress(data, compresslevel=1),
    "tar.zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}


def entry(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + b"\0" * (-len(data) % 512)


def raw_header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(fields: dict[str, str], name: str = "x.json") -> bytes:
    info = tarfile.TarInfo(name)
    info.pax_headers = fields
    return info.tobuf(tarfile.PAX_FORMAT)


GOOD = entry("config.json", b"{}")
HOSTILE: list[tuple[str, bytes]] = [
    ("climbs out", entry("../x.json")),
    ("climbs out from within", entry("a/../../x.json")),
    ("climbs far out", entry("../" * 40 + "etc/passwd")),
    ("absolute", entry("/etc/passwd")),
    ("absolute with slashes", entry("//etc/passwd")),
    ("a drive", entry("C:/x.json")),
    ("a backslash", entry("..\\x.json")),
    ("a control character", entry("a\x1b]0;x\x07.json")),
    ("our marker", entry(".llmops-complete.json", b"{}")),
    ("our work folder", entry(".llmops/done/x", b"{}")),
    ("our marker behind a dot", entry("./.llmops-complete.json", b"{}")),
    ("a symbolic link out", entry("a", kind=tarfile.SYMTYPE, link="/etc")),
    ("a symbolic link up", entry("a", kind=tarfile.SYMTYPE, link="..")),
    ("a symbolic link inside", entry("a", kind=tarfile.SYMTYPE, link="config.json")),
    ("a link and a file through it", entry("a", kind=tarfile.SYMTYPE, link="/tmp") + entry("a/x.json", b"{}")),
    ("a hard link out", entry("a", kind=tarfile.LNKTYPE, link="/etc/passwd")),
    ("a hard link inside", entry("a", kind=tarfile.LNKTYPE, link="config.json")),
    ("a link to itself", entry("a", kind=tarfile.SYMTYPE, link="a")),
    ("a link with a long target", entry("a", kind=tarfile.SYMTYPE, link="../" * 60)),
    ("a character device", entry("a", kind=tarfile.CHRTYPE)),
    ("a block device", entry("a", kind=tarfile.BLKTYPE)),
    ("a pipe", entry("a", kind=tarfile.FIFOTYPE)),
    ("a sparse file", raw_header("a", tarfile.GNUTYPE_SPARSE, 0)),
    (
        "a sparse file by pax record",
        pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "999"}),
    ),
    ("a path by pax record", pax({"path": "../../x.json"})),
    ("an absolute path by pax record", pax({"path": "/etc/passwd"})),
    ("a NUL by pax record", pax({"path": "x\0.json"})),
    ("a giant pax header", raw_header("a", tarfile.XHDTYPE, 1 << 33)),
    ("a giant global header", raw_header("a", tarfile.XGLTYPE, 1 << 31)),
    ("a giant long name", raw_header("a", tarfile.GNUTYPE_LONGNAME, 1 << 30)),
    ("a giant long link", raw_header("a", tarfile.GNUTYPE_LONGLINK, 1 << 30)),
    ("the same file twice", entry("config.json", b"{}")),
    ("the same file in capitals", entry("CONFIG.JSON", b"{}")),
    ("the same file behind a dot", entry("./config.json", b"{}")),
    ("a file that is also a folder", entry("a", b"x") + entry("a/b", b"x")),
    ("too deep", entry("/".join("a" * 40))),
    ("a name without end", entry("a" * 2000)),
    ("cut within a file", entry("a", b"x", size=5000)[:-512]),
    ("cut within a header", entry("a", b"x")[:100]),
    ("a file of a negative size", entry("a")[:124] + b"\xff" * 12 + entry("a")[136:]),
    ("no archive at all", b""),
]


def hostile(what: str, data: bytes) -> bytes:
    if what == "no archive at all":
        return b"GIF89a" * 500
    cut = what.startswith("cut")
    return GOOD + data + (b"" if cut else ZERO_BLOCKS)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("what", "data"), HOSTILE, ids=[case[0] for case in HOSTILE])
def test_a_hostile_archive_is_refused_before_anything_is_unpacked(
    tmp_path: Path, packing: str, what: str, data: bytes
) -> None:
    file = tmp_path / f"m.{packing}"
    file.write_bytes(PACKINGS[packing](hostile(what, data)))
    with pytest.raises(Failure) as failure:
        archive.listing(file, PACKED)
    assert failure.value.reason in (Reason.UNSAFE_MODEL, Reason.CHECKSUM_MISMATCH)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("packing", ["tar.gz", "tar.zst"])
def test_a_bomb_is_stopped(tmp_path: Path, packing: str) -> None:
    file = tmp_path / "m"
    data = entry("a", size=66 << 20) + b"\0" * (66 << 20)
    file.write_bytes(PACKINGS[packing](data))
    with pytest.raises(Failure, match="times its size"):
        archive.listing(file, PACKED)


def test_too_many_entries_are_stopped(tmp_path: Path) -> None:
    file = tmp_path / "m"
    file.write_bytes(b"".join(entry(f"{index}") for index in range(names.MAX_FILES + 1)) + ZERO_BLOCKS)
    with pytest.raises(Failure, match="more than"):
        archive.listing(file, PACKED)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("folder", ["", "./", "my-model/"])
def test_an_ordinary_archive_reads_as_its_files(tmp_path: Path, packing: str, folder: str) -> None:
    files = {"config.json": b"{}", "a/vocab.txt": b"x" * 3000, "empty.txt": b""}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    file = tmp_path / "m"
    file.write_bytes(PACKINGS[packing](buffer.getvalue()))
    listed = archive.listing(file, PACKED)
    assert {entry.path: entry.size_bytes for entry in listed} == {name: len(data) for name, data in files.items()}
    paths = {entry.key: entry.path for entry in listed}
    assert {paths[key]: b"".join(chunks) for key, chunks in archive.contents(file)} == files
