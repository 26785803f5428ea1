"""The model directory on the volume: its lock, what is partial, what has landed, and how the one becomes the other.

Layout: files at their final names, `.llmops-complete.json` last; `.llmops/` holds the lock, the intent, `partial/`
(bytes so far, by path and identity) and `done/` (a record per landed file). A kill between any two steps leaves a state
that the next run continues: bytes in `partial/` are hashed again and extended, a file without its record is fetched
again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights.marker import Done, Intent, Landed, Marker, sync_directory
from llmops_serving.jobs.weights.names import MARKER, WORK
from llmops_serving.jobs.weights.sources.source import Expected, RemoteFile

RESERVE_BYTES = 16 << 20  # records, directories, and what the file system keeps for itself
HASH_CHUNK_BYTES = 4 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ModelDirectory:
    """One model's directory; only used between `locked()`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / WORK
        self._partial, self._done = self.work / "partial", self.work / "done"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits for any other job on this directory. The kernel drops the lock of a killed one."""
        with _full_disk(self.root):
            for folder in (self._partial, self._done):
                folder.mkdir(parents=True, exist_ok=True)
        with (self.work / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def intent(self) -> Intent | None:
        return Intent.read(self.work / "intent.json")

    def intend(self, intent: Intent) -> None:
        """Recorded before the first byte: what comes back after a kill fetches the same revision."""
        with _full_disk(self.root):
            intent.write(self.work / "intent.json")

    def landed(self, file: RemoteFile) -> Landed | None:
        """The record of `file` if it is in place as the source lists it now."""
        done = Done.read(self._done / _name(file.path))
        if done is None or done.identity != file.identity or done.landed.path != file.path:
            return None
        place = self.root / file.path
        with suppress(OSError):
            if not place.is_symlink() and place.stat().st_size == done.landed.size_bytes:
                return done.landed
        return None

    def forget(self, path: str) -> None:
        """Take a file out of the directory, so that it is fetched again."""
        (self._done / _name(path)).unlink(missing_ok=True)
        (self.root / path).unlink(missing_ok=True)

    def partial(self, file: RemoteFile) -> Partial:
        return Partial(self._partial / _name(f"{file.path}\0{file.identity}"), file)

    def partial_bytes(self, file: RemoteFile) -> int:
        with suppress(OSError):
            return (self._partial / _name(f"{file.path}\0{file.identity}")).stat().st_size
        return 0

    def land(self, partial: Partial) -> Landed:
        """Move a finished file to its name: bytes durable, then the record, then the rename."""
        landed = Landed(path=partial.file.path, size_bytes=partial.size, sha256=partial.sha256)
        place = self.root / landed.path
        with _full_disk(self.root):
            partial.close()
            self._make_folders(place.parent)
            Done(landed=landed, identity=partial.file.identity).write(self._done / _name(landed.path))
            partial.path.rename(place)
            sync_directory(place.parent)
        return landed

    def need(self, more_bytes: int) -> None:
        """Raise DiskFull, with numbers, when the volume cannot take so many bytes more."""
        stat = os.statvfs(self.root)
        free = stat.f_bavail * stat.f_frsize
        if more_bytes + RESERVE_BYTES > free:
            raise Failure(
                Reason.DISK_FULL,
                f"The model needs {_gib(more_bytes)} more, the volume has {_gib(free)} free of "
                f"{_gib(stat.f_blocks * stat.f_frsize)}. Raise spec.model.storage.size.",
            )

    def incomplete(self) -> None:
        """Take the marker away before anything it vouches for changes."""
        (self.root / MARKER).unlink(missing_ok=True)
        sync_directory(self.root)

    def keep_only(self, paths: set[str]) -> None:
        """Remove files that the model does not have (an earlier revision's), and folders that are then empty."""
        for place in sorted(self.root.rglob("*"), reverse=True):
            path = place.relative_to(self.root).as_posix()
            if path == WORK or path.startswith(f"{WORK}/") or path in paths:
                continue
            if place.is_dir() and not place.is_symlink():
                with suppress(OSError):
                    place.rmdir()
            elif path not in (MARKER, "lost+found"):
                place.unlink()

    def complete(self, marker: Marker) -> None:
        """The marker last; then the partial files go away, an unpacked archive among them."""
        with _full_disk(self.root):
            for folder in {self.root / Path(file.path).parent for file in marker.files}:
                sync_directory(folder)
            marker.write(self.root / MARKER)
        shutil.rmtree(self._partial, ignore_errors=True)  # the records stay: a repair fetches only what is damaged

    def _make_folders(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        inner = folder
        while inner != self.root:
            if inner.is_symlink():
                raise Failure(Reason.UNSAFE_MODEL, f"{inner.name} is a symbolic link on the volume.")
            inner = inner.parent


class Partial:
    """A file's bytes so far, always with the digest of exactly what is on disk."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path, self.file = path, file
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _full_disk(path):
            self._handle = os.open(path, flags, 0o644)
        self.size = 0
        self._begin()
        while chunk := os.read(self._handle, HASH_CHUNK_BYTES):
            self._count(chunk)

    def _begin(self) -> None:
        self._sha256 = hashlib.sha256()
        self._other = _other(self.file.expected, self.file.size_bytes)

    def _count(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if self._other:
            self._other.update(chunk)
        self.size += len(chunk)

    def append(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with _full_disk(self.path):
            while rest:
                written = os.write(self._handle, rest)
                self._count(bytes(rest[:written]) if written < len(chunk) else chunk)
                rest = rest[written:]

    def restart(self) -> None:
        """Drop every byte."""
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        self.size = 0
        self._begin()

    def close(self) -> None:
        """Make the bytes durable; nothing can be appended afterwards."""
        with _full_disk(self.path):
            os.fsync(self._handle)
        os.close(self._handle)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def matches(self) -> bool:
        """Whether the bytes are those that the source vouches for; True where it vouches for none."""
        expected = self.file.expected
        if expected is None:
            return True
        found = self._other.hexdigest() if self._other else self.sha256
        return found == expected.hexdigest


def sha256_of(path: Path) -> str:
    """The file's digest, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _other(expected: Expected | None, size_bytes: int | None) -> hashlib._Hash | None:
    if expected is None or expected.algorithm == "sha256":
        return None
    if expected.algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha1(b"blob %d\0" % (size_bytes or 0), usedforsecurity=False)


@contextmanager
def _full_disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        root = place if place.is_dir() else place.parent
        stat = os.statvfs(root)
        size = _gib(stat.f_blocks * stat.f_frsize)
        message = f"The volume of {size} is full ({os.strerror(error.errno)}). Raise spec.model.storage.size."
        raise Failure(Reason.DISK_FULL, message) from error


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]
