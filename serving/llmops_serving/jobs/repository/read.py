"""Restoring: into a staging directory, every digest checked, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from llmops_serving.jobs.repository import direct
from llmops_serving.jobs.repository.codecs import Bytes
from llmops_serving.jobs.repository.errors import Damaged, DestinationExists, DiskFull, Unsafe
from llmops_serving.jobs.repository.format import FileEntry, Manifest, PieceRef, PointRef
from llmops_serving.jobs.repository.pieces import PIECE_BYTES
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.source import is_pickle
from llmops_serving.jobs.repository.write import Progress
from llmops_serving.jobs.weights.names import MARKER

WORKERS: Final = 4  # each holds a stored and a plain piece; more would not fit into 300 MB
AHEAD: Final = 2  # pieces that wait for a worker or for the disk, so that neither waits for the other
SPARE_BYTES: Final = 16 << 20

Fetch = Callable[[FileEntry, Path], None]  # writes the file that a pointer names; its digest is checked afterwards
Approve = Callable[[Path, Manifest], None]  # looks at the staged files before they appear; raises to refuse them


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; `reused_bytes` were in the staging directory already."""

    ref: PointRef
    bytes: int
    reused_bytes: int
    files: int
    seconds: float


def restore(
    repository: Repository,
    ref: PointRef,
    destination: Path,
    *,
    fetch: Fetch | None = None,
    approve: Approve | None = None,
    allow_pickle: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Restored:
    """Bring the point back as the directory `destination`, which appears complete and checked or not at all.

    A run that was interrupted goes on where it stopped: what lies in the staging directory beside the destination is
    hashed again and kept when it is right. A destination that already holds the point's content is left as it is.

    Raises:
        Damaged: a digest differs or an object is missing. Unsafe: pickled files, links in the staging directory.
        DestinationExists, DiskFull, PointNotFound, TargetDenied, TargetUnreachable.
    """
    started = time.monotonic()
    manifest = repository.manifest(ref)
    pickles = [file.path for file in manifest.files if is_pickle(file.path)]
    if pickles and not allow_pickle:
        raise Unsafe(f"{pickles[0]}: a pickled file runs code when it is loaded; allow it to restore this point")
    if destination.exists() and any(destination.iterdir()):
        if holds(destination, manifest):
            return Restored(ref, manifest.bytes, manifest.bytes, len(manifest.files), time.monotonic() - started)
        raise DestinationExists(f"{destination} exists and is not {ref}")
    staging = staging_of(destination, ref)
    with _full_disk_named():
        staging.mkdir(parents=True, exist_ok=True)
        _clear_strangers(staging, manifest)
        _check_room(staging, manifest)
        workers = threads or WORKERS
        reused, memory = 0, Memory()
        with ThreadPoolExecutor(workers, thread_name_prefix="restore") as pool:
            done = 0
            try:
                for file in manifest.files:
                    forward = (
                        (lambda within, before=done: progress(before + within, manifest.bytes)) if progress else None
                    )
                    reader = _Reader(repository, staging, pool, workers + AHEAD, memory, forward)
                    done += file.bytes
                    reused += reader.pointer(file, fetch) if file.pointer else reader.file(file)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if approve:
            approve(staging, manifest)
        _publish(staging, destination)
    return Restored(ref, manifest.bytes, reused, len(manifest.files), time.monotonic() - started)


def staging_of(destination: Path, ref: PointRef) -> Path:
    """Where a restore of this point is put together: beside the destination, so that a rename completes it."""
    return destination.parent / f".{destination.name}.{ref.name}.{ref.point}.partial"


def holds(directory: Path, manifest: Manifest) -> bool:
    """Whether `directory` has exactly the files of the point, by digest; a marker beside them is none of them."""
    there = (at for at in directory.rglob("*") if not at.is_dir() and at != directory / MARKER)
    found = {at.relative_to(directory).as_posix(): at for at in there}
    wanted = {file.path: file for file in manifest.files}
    if found.keys() != wanted.keys() or any(at.is_symlink() for at in found.values()):
        return False
    return all(
        at.stat().st_size == wanted[path].bytes and _digest(at) == wanted[path].sha256 for path, at in found.items()
    )


class Memory:
    """What pieces are decoded into, used again: fresh memory for each costs more than decoding it."""

    def __init__(self) -> None:
        self._free: deque[Bytes] = deque()

    def __call__(self, size: int) -> Bytes:
        """`size` bytes; whoever has no more use for them gives them back."""
        try:
            made = self._free.pop()
        except IndexError:
            made = np.empty(0, np.uint8)
        return (made if made.size >= size else np.empty(max(size, PIECE_BYTES), np.uint8))[:size]

    def back(self, taken: Bytes) -> None:
        """Take back what was given."""
        whole: Bytes = taken.base  # type: ignore[assignment]  # the slice's memory
        self._free.append(whole)


@dataclass(frozen=True, slots=True)
class _Reader:
    repository: Repository
    staging: Path
    pool: ThreadPoolExecutor
    window: int
    memory: Memory
    progress: Callable[[int], None] | None

    def file(self, file: FileEntry) -> int:
        """Write one file in order while later pieces are fetched; returns the bytes that were there already."""
        at = self.staging / file.path
        at.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        reused = 0
        with _opened(at) as descriptor, _opened(at) as sink, ExitStack() as open_stream:
            stream: direct.Stream | None = None  # from the first piece on that is not there
            for start, plain, was_there in self._plain(file, descriptor):
                reused += plain.size if was_there else 0
                if stream is None and not was_there:
                    begin = start - start % direct.ALIGNMENT
                    stream = open_stream.enter_context(direct.Stream(sink, file.bytes - begin, start=begin))
                    stream.add(np.frombuffer(os.pread(descriptor, start - begin, begin), np.uint8))
                if stream:
                    stream.add(plain)
                digest.update(plain.data)
                if self.progress:
                    self.progress(start + plain.size)
                if not was_there:
                    self.memory.back(plain)
            open_stream.close()
            os.ftruncate(descriptor, file.bytes)
            os.fsync(descriptor)
        if digest.hexdigest() != file.sha256:
            raise Damaged(f"{file.path}: its digest is not the recorded one", [file.path])
        return reused

    def _plain(self, file: FileEntry, descriptor: int) -> Iterator[tuple[int, Bytes, bool]]:
        """Offset, plain bytes, and whether they were staged already, in order, while later pieces are fetched."""
        present = os.fstat(descriptor).st_size
        waiting: deque[tuple[int, Future[tuple[Bytes, bool]]]] = deque()
        offset = 0
        pieces = iter(file.pieces)
        while True:
            while len(waiting) < self.window and (piece := next(pieces, None)):
                waiting.append((offset, self.pool.submit(self._piece, descriptor, piece, offset, present)))
                offset += piece.length
            if not waiting:
                return
            start, job = waiting.popleft()
            yield start, *job.result()

    def pointer(self, file: FileEntry, fetch: Fetch | None) -> int:
        at = self.staging / file.path
        if at.exists() and _digest(at) == file.sha256:
            return file.bytes
        if fetch is None:
            raise Unsafe(f"{file.path}: kept as a pointer to {file.pointer}, and nothing here may fetch it")
        at.parent.mkdir(parents=True, exist_ok=True)
        fetch(file, at)
        if at.is_symlink() or _digest(at) != file.sha256:
            at.unlink()
            raise Damaged(f"{file.path}: {file.pointer} no longer has the recorded digest", [file.pointer])
        return 0

    def _piece(self, descriptor: int, piece: PieceRef, offset: int, present: int) -> tuple[Bytes, bool]:
        """The plain bytes, from the staged file when they are there and right."""
        keys = self.repository.keys
        if offset + piece.length <= present:
            staged = np.frombuffer(os.pread(descriptor, piece.length, offset), np.uint8)
            if keys.blob_key(hashlib.sha256(staged.data).digest()) == piece.blob.key:
                return staged, True
        # The file's digest is checked as a whole.
        plain = self.repository.read_blob(piece.blob, rehash=False, memory=self.memory)
        if plain.size != piece.length:
            raise Damaged(f"{piece.blob.object}: another length than the manifest says", [piece.blob.object])
        return plain, False


@contextmanager
def _opened(at: Path) -> Iterator[int]:
    """A descriptor of the staged file, which is made when it is not there, and is no link."""
    descriptor = os.open(at, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _clear_strangers(staging: Path, manifest: Manifest) -> None:
    """Delete what no earlier run of this restore can have left; a link here could lead a write elsewhere."""
    wanted = {file.path for file in manifest.files}
    folders = {str(parent) for path in wanted for parent in Path(path).parents}
    for at in sorted(staging.rglob("*"), reverse=True):
        inside = at.relative_to(staging).as_posix()
        if at.is_dir() and not at.is_symlink():
            if inside not in folders:
                at.rmdir()
        elif at.is_symlink() or inside not in wanted or not at.is_file():
            at.unlink()


def _check_room(staging: Path, manifest: Manifest) -> None:
    present = sum(at.stat().st_size for at in staging.rglob("*") if at.is_file())
    free = shutil.disk_usage(staging).free
    if manifest.bytes - present + SPARE_BYTES > free:
        raise DiskFull(f"{staging.parent} has {free:,} bytes free; the point needs {manifest.bytes - present:,} more")


def _publish(staging: Path, destination: Path) -> None:
    for folder in (*(at for at in staging.rglob("*") if at.is_dir()), staging):
        _fsync_folder(folder)
    staging.rename(destination)  # atomic; an empty directory of that name is replaced
    _fsync_folder(destination.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(at: Path) -> str:
    with at.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _full_disk_named() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for the restore: {problem.filename or ''}".rstrip(": ")) from problem
        raise
