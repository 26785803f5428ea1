"""Reads a tar archive that a stranger made: regular files only, names judged by `names`, sizes bounded."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol, Self, cast

import zstandard

from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights import names
from llmops_serving.jobs.weights.sources.source import RemoteFile

CHUNK_BYTES = 1 << 20
MAX_EXTENSION_BYTES = 1 << 20  # long names and pax records are read into memory at once
MAX_RATIO = 20  # weights hardly compress; what grows more than that is a bomb
SMALL_BYTES = 64 << 20  # below this, growth harms nobody
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Header(tarfile.TarInfo):
    """Refuses a header by its own words before tarfile acts on them."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark of the end
            # tarfile takes any other flaw for the end too, and the model for complete.
            raise Failure(Reason.CHECKSUM_MISMATCH, f"The archive is cut off or damaged ({error}).") from error
        if header.size < 0 or (header.type in EXTENSIONS and header.size > MAX_EXTENSION_BYTES):
            raise Failure(Reason.UNSAFE_MODEL, f"The archive has a header of {header.size} bytes.")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise Failure(Reason.UNSAFE_MODEL, "The archive has a sparse file.")
        return header


class Bounded:
    """A decompressed stream that may not become much larger than what it came from."""

    def __init__(self, stream: Readable, packed_bytes: int) -> None:
        self._stream, self._left = stream, max(SMALL_BYTES, MAX_RATIO * packed_bytes)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Failure(Reason.UNSAFE_MODEL, f"The archive unpacks to more than {MAX_RATIO} times its size.")
        return data


def listing(path: Path, packed: RemoteFile) -> tuple[RemoteFile, ...]:
    """The archive's files, a folder around all of them left out. Raises UnsafeModel or ChecksumMismatch."""
    found: list[RemoteFile] = []
    with _opened(path) as tar:
        for member in _members(tar):
            if len(found) >= names.MAX_FILES:
                raise Failure(Reason.UNSAFE_MODEL, f"The archive has more than {names.MAX_FILES} files.")
            found.append(RemoteFile(member.name, member.size, f"{packed.identity}#{member.name}#{member.size}"))
    names.checked(file.path for file in found)
    prefix = _common_folder([file.path for file in found])
    return tuple(
        RemoteFile(file.path.removeprefix(prefix), file.size_bytes, file.identity, key=file.path) for file in found
    )


def contents(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Key (as `listing` gives it) and bytes of each file, in the archive's order; to be consumed in that order."""
    with _opened(path) as tar:
        for member in _members(tar):
            stream = cast("IO[bytes]", tar.extractfile(member))
            yield member.name, _chunks(stream)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        if count > 2 * names.MAX_FILES:
            raise Failure(Reason.UNSAFE_MODEL, f"The archive has more than {2 * names.MAX_FILES} entries.")
        member.name = member.name.removeprefix("./")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            kind = "link" if member.issym() or member.islnk() else "device, pipe or sparse file"
            raise Failure(Reason.UNSAFE_MODEL, f"The archive's {member.name[:60]!a} is a {kind}.")
        yield member


def _common_folder(paths: list[str]) -> str:
    folder = paths[0].split("/", 1)[0] + "/" if paths and "/" in paths[0] else ""
    return folder if folder and all(path.startswith(folder) for path in paths) else ""


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            magic = raw.read(4)
            raw.seek(0)
            stream: Readable = raw
            if magic[:2] == b"\x1f\x8b":
                stream = stack.enter_context(gzip.GzipFile(fileobj=raw))
            elif magic == b"\x28\xb5\x2f\xfd":
                decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
                stream = stack.enter_context(decompressor.stream_reader(raw, read_across_frames=True))
            bounded = cast("IO[bytes]", Bounded(stream, path.stat().st_size))
            yield stack.enter_context(tarfile.open(fileobj=bounded, mode="r|", tarinfo=Header, errorlevel=2))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, ValueError) as error:
        message = f"The archive is damaged or no tar archive ({type(error).__name__}: {error})."
        raise Failure(Reason.CHECKSUM_MISMATCH, message) from error
