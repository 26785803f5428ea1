"""Backing up: read once, store what is new, commit by writing the manifest last."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from llmops_serving.jobs.repository import codecs
from llmops_serving.jobs.repository.bases import LEAST_BYTES, Bases, Index, Table
from llmops_serving.jobs.repository.cache import HashCache, Known, Recorded
from llmops_serving.jobs.repository.codecs import Bytes
from llmops_serving.jobs.repository.errors import Damaged, Expired, PointExists, SourceChanged, Unsafe
from llmops_serving.jobs.repository.format import Blob, FileEntry, Manifest, PieceRef, PointRef, packed
from llmops_serving.jobs.repository.pieces import PIECE_BYTES, Piece, content_pieces, safetensors_pieces
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.source import SourceFile, scan, stamp

WORKERS: Final = 4  # of which those that the processors allow encode; each holds up to 45 MB, and 300 MB is the limit
DOCUMENTS_LIMIT_BYTES: Final = 4 << 20

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup did. `new_bytes` were uploaded by it; `existed` when the point was there with equal content."""

    ref: PointRef
    digest: str
    bytes: int
    stored_bytes: int
    new_bytes: int
    files: int
    existed: bool
    seconds: float


def backup(
    repository: Repository,
    roots: Mapping[str, Path],
    *,
    ref: PointRef,
    documents: Mapping[str, Any] | None = None,
    pointers: Mapping[str, str] | None = None,
    base: PointRef | None = None,
    cache_folder: Path | None = None,
    vouched: Mapping[str, str] | None = None,
    allow_pickle: bool = False,
    without: Collection[Path] = (),
    threads: int = 0,
    lock: Callable[[Manifest, Index], Manifest] | None = None,
    progress: Progress | None = None,
) -> Backup:
    """Store the files below `roots` (prefix -> directory) as the point `ref`.

    Args:
        repository: where to.
        roots: what to back up; `{"": model}` or `{"model": ..., "adapters/tickets": ...}`.
        ref: the point's name. The same name and content again is a success without a second point.
        documents: resources to keep along, by file name; Secrets are refused.
        pointers: files (by path) that are kept as a URL of a pinned revision plus their digest.
        base: the point of the model that this one was tuned from; found by itself among the newest points when absent.
        cache_folder: where hashes of unchanged files are remembered between runs.
        vouched: digests (by path) that need not be taken again: a file of which the newest point of this name has the
            same path, size and digest is not read.
        allow_pickle: accept formats that run code when loaded.
        without: directories below a root that are no part of it.
        threads: encoders; 0 takes the machine's processors, at most four.
        lock: called with the manifest before it is committed; puts retention on its objects.
        progress: called with bytes done and in all.

    Raises:
        SourceChanged, Unsafe, PointExists, Expired, Damaged, DiskFull, TargetDenied, TargetUnreachable: nothing of the
            point is visible; what was uploaded is found again by the next run.
    """
    started, listed_at = time.monotonic(), _boot_clock()
    documents = _checked_documents(documents or {})
    files = scan(roots, allow_pickle=allow_pickle, without=without)
    index = Index(repository)
    cache = HashCache(cache_folder, repository.header.id)
    recorded = Recorded.of(repository, ref.name, vouched or {})
    with closing(_Writer(repository, index, threads=threads)) as writer:
        bases = Bases.of(repository, index, name=ref.name, declared=base)
        entries = []
        done, total = 0, sum(file.bytes for file in files)
        for file in files:
            pointer = (pointers or {}).get(file.path, "")
            known = cache.find(file) or recorded.find(file)
            if not known or not (pointer or all(index.find(key) for _, key in known.pieces)):
                known = writer.digest(file) if pointer else writer.store(file, bases, _forward(progress, done, total))
                cache.remember(file, known)
            entries.append(_entry(file, known, pointer, index))
            done += file.bytes
            if progress:
                progress(done, total)
    manifest = Manifest(ref, tuple(entries), documents)
    cache.save()
    if lock:
        manifest = lock(manifest, index)
    repository.target.settle([blob.object for blob in writer.written])
    # Whatever was found stored at the start may have been condemned since. It stays for a whole grace period, so a
    # writer that commits within half of it is safe whatever the collectors do; a later one starts again, and fast.
    if _boot_clock() - listed_at > repository.header.grace_seconds / 2:
        raise Expired(f"the backup took longer than half of the grace period ({repository.header.grace_seconds:g} s)")
    existed = not repository.commit(manifest)
    if existed and not repository.manifest(ref).same_content(manifest):
        raise PointExists(f"{ref} exists and holds something else")
    blobs = set(manifest.blobs())
    return Backup(
        ref=ref,
        digest=manifest.digest,
        bytes=manifest.bytes,
        stored_bytes=sum(index.stored[blob] for blob in blobs),
        new_bytes=sum(index.stored[blob] for blob in writer.written),
        files=len(entries),
        existed=existed,
        seconds=time.monotonic() - started,
    )


class _Writer:
    """Reads files once and stores their pieces on several threads; hashing, xor, zstd and uploads release the GIL."""

    def __init__(self, repository: Repository, index: Index, *, threads: int) -> None:
        encoders = threads or min(WORKERS, len(os.sched_getaffinity(0)))
        self.written: list[Blob] = []
        self._repository = repository
        self._index = index
        self._encoding = threading.BoundedSemaphore(encoders)
        self._workers = max(WORKERS, encoders)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="backup")
        self._lock = threading.Lock()
        self._coming: dict[str, Future[Blob]] = {}
        self._memory: deque[Bytes] = deque()  # of pieces that are encoded: fresh memory costs a page fault every 4 KiB

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def digest(self, file: SourceFile) -> Known:
        """The file's digest alone."""
        with file.at.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            _unchanged(file, opened)
        return Known(sha256, ())

    def store(self, file: SourceFile, bases: Bases, progress: Progress | None) -> Known:
        """Store every piece that is not stored yet."""
        whole = hashlib.sha256()
        pieces: list[tuple[Piece, str]] = []
        waiting: deque[tuple[Piece, Future[str]]] = deque()
        with file.at.open("rb", buffering=0) as opened:
            planned, table = self._plan(file, opened, bases)
            for piece in planned:
                plain = _read(opened, piece, self._memory)
                whole.update(plain.data)  # before it is handed over: its memory is used again for a later piece
                waiting.append((piece, self._pool.submit(self._store_piece, piece, [plain], table)))
                del plain
                if len(waiting) > self._workers:
                    pieces.append(_finished(waiting))
                if progress:
                    progress(piece.start, file.bytes)
            while waiting:
                pieces.append(_finished(waiting))
            _unchanged(file, opened)
        return Known(whole.hexdigest(), tuple(pieces))

    def _plan(self, file: SourceFile, opened: BinaryIO, bases: Bases) -> tuple[Iterable[Piece], Table]:
        if not file.path.endswith(".safetensors"):
            return _cut_by_content(file), {}
        planned = safetensors_pieces(opened, file.bytes)
        return planned, bases.choose(planned, lambda piece: _read(opened, piece))

    def _store_piece(self, piece: Piece, box: list[Bytes], table: Table) -> str:
        """Store one piece; returns the key of its content. The box is emptied, so that uploads hold no plain bytes."""
        plain = box.pop()
        with self._encoding:
            key = self._repository.keys.blob_key(hashlib.sha256(plain.data).digest())
            with self._lock:
                if self._index.find(key):
                    self._memory.append(_whole(plain))
                    return key
                coming = self._coming.get(key)
                if coming is None:
                    mine = self._coming[key] = Future()
            if coming is None:
                blob, sealed = self._encoded(piece, plain, key, table)
        self._memory.append(_whole(plain))
        if coming is not None:  # another thread stores the same bytes: tied weights, layers of zeros
            coming.result()
            return key
        try:
            self._repository.target.put_large(blob.object, sealed)
        except BaseException as problem:
            mine.set_exception(problem)
            raise
        with self._lock:
            self._index.add(blob, len(sealed))
            self.written.append(blob)
        mine.set_result(blob)
        return key

    def _encoded(self, piece: Piece, plain: Bytes, key: str, table: Table) -> tuple[Blob, memoryview]:
        """The smaller of the piece alone and its difference to the base."""
        try:
            alone = codecs.guess(plain, width=piece.width)
            base = table.get(piece.slot) if piece.length >= LEAST_BYTES else None
            if base and (based := self._difference(piece, plain, base)):
                mixed, guess = based
                if guess.ratio < alone.ratio * 0.95:
                    blob = Blob.new(key, base)
                    body = codecs.encode(mixed, width=piece.width, methods=guess.methods, xored=True)
                    return blob, self._repository.keys.seal_blob(blob.id, body)
            blob = Blob.new(key, None)
            body = codecs.encode(plain, width=piece.width, methods=alone.methods, xored=False)
            return blob, self._repository.keys.seal_blob(blob.id, body)
        except BaseException as problem:
            self._coming[key].set_exception(problem)
            raise

    def _difference(self, piece: Piece, plain: Bytes, base: Blob) -> tuple[Bytes, codecs.Guess] | None:
        try:
            other = self._repository.read_blob(base, memory=codecs.base_memory)
        except Damaged:
            return None  # stored alone instead; verify names the damaged base
        if other.size != plain.size:
            return None
        np.bitwise_xor(other, plain, out=other)
        return other, codecs.guess(other, width=piece.width, xored=True)


def _entry(file: SourceFile, known: Known, pointer: str, index: Index) -> FileEntry:
    refs = []
    for piece, key in () if pointer else known.pieces:
        blob = index.find(key)
        if blob is None:
            raise Expired(f"{file.path}: a stored piece went away during the backup")
        refs.append(PieceRef(piece.length, index.stored[blob], blob, piece.slot))
    return FileEntry(file.path, file.bytes, known.sha256, tuple(refs), pointer)


def _read(opened: BinaryIO, piece: Piece, memory: deque[Bytes] | None = None) -> Bytes:
    """The piece's bytes, in memory of an earlier one when there is some."""
    made = memory.pop() if memory else np.empty(0, np.uint8)
    if made.size < piece.length:
        made = np.empty(max(piece.length, PIECE_BYTES), np.uint8)
    plain = made[: piece.length]
    view = plain.data
    got = 0
    while got < piece.length:
        count = os.preadv(opened.fileno(), [view[got:]], piece.start + got)
        if not count:
            raise SourceChanged(f"{opened.name}: became shorter while it was read")
        got += count
    return plain


def _whole(plain: Bytes) -> Bytes:
    """The memory that a piece lies in."""
    base: Bytes = plain.base  # type: ignore[assignment]  # a slice of what `_read` made
    return base


def _finished(waiting: deque[tuple[Piece, Future[str]]]) -> tuple[Piece, str]:
    piece, future = waiting.popleft()
    return piece, future.result()


def _cut_by_content(file: SourceFile) -> Iterator[Piece]:
    with file.at.open("rb") as opened:
        yield from content_pieces(opened, file.bytes)


def _unchanged(file: SourceFile, opened: BinaryIO) -> None:
    if stamp(os.fstat(opened.fileno())) != file.stamp or stamp(file.at.stat()) != file.stamp:
        raise SourceChanged(f"{file.path}: changed while it was read")


def _forward(progress: Progress | None, done: int, total: int) -> Progress | None:
    return (lambda within, _: progress(done + within, total)) if progress else None


def _checked_documents(documents: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, document in documents.items():
        if isinstance(document, dict) and document.get("kind") == "Secret":
            raise Unsafe(f"{name}: Secrets are kept by reference only")
    if len(packed(dict(documents))) > DOCUMENTS_LIMIT_BYTES:
        raise Unsafe("the documents are too large")
    return documents


def _boot_clock() -> float:
    """Seconds that no clock setting moves and that count while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
