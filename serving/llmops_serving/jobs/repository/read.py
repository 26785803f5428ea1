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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from llmops_serving.jobs.repository.codecs import Bytes
from llmops_serving.jobs.repository.errors import Damaged, DestinationExists, DiskFull, Unsafe
from llmops_serving.jobs.repository.format import FileEntry, Manifest, PieceRef, PointRef
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.source import is_pickle
from llmops_serving.jobs.repository.write import Progress
from llmops_serving.jobs.weights.names import MARKER

WORKERS: Final = 4  # each holds a stored and a plain piece; more would not fit into 300 MB
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
        reused = 0
        with ThreadPoolExecutor(workers, thread_name_prefix="restore") as pool:
            done = 0
            try:
                for file in manifest.files:
                    forward = (
                        (lambda within, before=done: progress(before + within, manifest.bytes)) if progress else None
                    )
                    reader = _Reader(repository, staging, pool, workers, forward)
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


@dataclass(frozen=True, slots=True)
class _Reader:
    repository: Repository
    staging: Path
    pool: ThreadPoolExecutor
    window: int
    progress: Callable[[int], None] | None

    def file(self, file: FileEntry) -> int:
        """Write one file in order while later pieces are fetched; returns the bytes that were there already."""
        at = self.staging / file.path
        at.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        reused = 0
        descriptor = os.open(at, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(descriptor, "r+b", buffering=0) as opened:  # noqa: PTH123 -- a descriptor, because of O_NOFOLLOW
            present = os.fstat(descriptor).st_size
            waiting: deque[tuple[int, PieceRef, Future[tuple[Bytes, bool]]]] = deque()
            offset = 0
            pieces = iter(file.pieces)
            while True:
                while len(waiting) < self.window and (piece := next(pieces, None)):
                    job = self.pool.submit(self._piece, descriptor, piece, offset, present)
                    waiting.append((offset, piece, job))
                    offset += piece.length
                if not waiting:
                    break
                start, piece, job = waiting.popleft()
                plain, was_there = job.result()
                if was_there:
                    reused += piece.length
                else:
                    _write(descriptor, plain, start)
                digest.update(plain.data)
                if self.progress:
                    self.progress(start + piece.length)
            os.ftruncate(descriptor, file.bytes)
            opened.flush()
            os.fsync(descriptor)
        if digest.hexdigest() != file.sha256:
            raise Damaged(f"{file.path}: its digest is not the recorded one", [file.path])
        return reused

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
        plain = self.repository.read_blob(piece.blob, rehash=False)  # the file's digest is checked as a whole
        if plain.size != piece.length:
            raise Damaged(f"{piece.blob.object}: another length than the manifest says", [piece.blob.object])
        return plain, False


def _write(descriptor: int, plain: Bytes, start: int) -> None:
    view = plain.data
    while view:
        count = os.pwrite(descriptor, view, start)
        os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_DONTNEED)  # begin writing now: less to fsync later
        view, start = view[count:], start + count


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
