"""Fetches a listing into a model directory: in parallel, patiently, and nothing lands that was not checked."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import stamina

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.weights import archive, content, names
from llmops_serving.jobs.weights.directory import ModelDirectory, Partial, sha256_of
from llmops_serving.jobs.weights.marker import Intent, Landed, Marker, completed, marker
from llmops_serving.jobs.weights.sources.source import Listing, RemoteFile, Source

LONGEST_WAIT_SECONDS = 60.0
STEPS = 10  # progress is told at tenths


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is wanted, and how much is trusted. `attempts` counts tries of one file without a byte gained."""

    source: str
    revision: str
    allow_pickle: bool = False
    trust_remote_code: bool = False
    verify: bool = False
    parallel: int = 4
    attempts: int = 8


Tell = Callable[..., object]
T = TypeVar("T")


class Progress:
    """Bytes in place of the bytes wanted; tells at each tenth, once and in order, from whichever thread reached it."""

    def __init__(self, total: int, tell: Tell) -> None:
        self._total, self._tell = total, tell
        self._bytes = self._told = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            step = STEPS * self._bytes // self._total if self._total else STEPS
            if step <= self._told or step > STEPS:
                return
            self._told = step
            self._tell("progress", bytes=self._bytes, total=self._total, percent=100 * step // STEPS)


def download(order: Order, source: Source, directory: ModelDirectory, tell: Tell) -> Marker:
    """Bring `directory` to the state that `order` asks for and return its marker; nothing is done where that is so."""
    with directory.locked():
        if present := _present(order, directory, tell):
            return present
        directory.incomplete()
        before = directory.intent
        ours = before is not None and (before.source, before.requested) == (order.source, order.revision)
        listing = _patient(order.attempts, lambda: source.listing(before.revision if before and ours else None))
        intent = Intent(source=order.source, requested=order.revision, revision=listing.revision)
        directory.intend(intent)
        fetching = Fetching(order, source, directory, tell)
        landed = fetching.archive(listing) if listing.archive else fetching.files(listing)
        directory.keep_only({file.path for file in landed})
        finished = marker(intent, landed)
        directory.complete(finished)
        return finished


def _present(order: Order, directory: ModelDirectory, tell: Tell) -> Marker | None:
    found = completed(directory.root)
    if found is None:
        return None
    if (found.source, found.requested) != (order.source, order.revision):
        message = f"The directory holds {found.source} at {found.requested}; it is not replaced."
        raise Failure(Reason.CHECKSUM_MISMATCH, message)
    damaged = (
        [file.path for file in found.files if sha256_of(directory.root / file.path) != file.sha256]
        if order.verify
        else []
    )
    if not damaged:
        return found
    tell("damaged", files=damaged)
    directory.incomplete()
    for path in damaged:
        directory.forget(path)
    return None


class Fetching:
    """One download's run over its files."""

    def __init__(self, order: Order, source: Source, directory: ModelDirectory, tell: Tell) -> None:
        self._order, self._source, self._directory, self._tell = order, source, directory, tell
        self._stopped = threading.Event()
        self._progress = Progress(0, tell)

    def files(self, listing: Listing) -> list[Landed]:
        """Every wanted file in place. The small ones first: what is refused for its configuration costs no weights."""
        wanted = self._wanted(listing.files)
        landed = {file.path: found for file in wanted if (found := self._directory.landed(file))}
        missing = [file for file in wanted if file.path not in landed]
        self._directory.need(
            sum(max(0, (file.size_bytes or 0) - self._directory.partial_bytes(file)) for file in missing)
        )
        total = sum(file.size_bytes or 0 for file in wanted)
        self._tell("resolved", revision=listing.revision, files=len(wanted), bytes=total)
        self._progress = Progress(total, self._tell)
        self._progress.add(sum(file.size_bytes for file in landed.values()))
        listed = frozenset(file.path for file in wanted)
        first = [file for file in missing if file.path.endswith((".json", ".txt"))]
        for group in (first, [file for file in missing if file not in first]):
            landed.update((file.path, file) for file in self._together(group, listed))
        return list(landed.values())

    def archive(self, listing: Listing) -> list[Landed]:
        """The archive's wanted members in place; the archive itself is needed until then, and counts on the volume."""
        (packed,) = listing.files
        self._directory.need(max(0, 2 * (packed.size_bytes or 0) - self._directory.partial_bytes(packed)))
        self._tell("resolved", revision=listing.revision, files=1, bytes=packed.size_bytes)
        self._progress = Progress(packed.size_bytes or 0, self._tell)
        whole = self._filled(packed)
        whole.close()
        members = archive.listing(whole.path, packed)
        wanted = self._wanted(members)
        missing = {file.key: file for file in wanted if not self._directory.landed(file)}
        self._directory.need(sum(file.size_bytes or 0 for file in missing.values()))
        listed = frozenset(file.path for file in wanted)
        landed = {file.path: found for file in wanted if (found := self._directory.landed(file))}
        for key, chunks in archive.contents(whole.path):
            if file := missing.get(key):
                partial = self._directory.partial(file)
                partial.restart()
                for chunk in chunks:
                    partial.append(chunk)
                landed[file.path] = self._checked(partial, listed)
        return list(landed.values())

    def _wanted(self, files: Sequence[RemoteFile]) -> list[RemoteFile]:
        names.checked(file.path for file in files)
        paths = [file.path for file in files]
        order = self._order
        wanted = set(names.selected(paths, allow_pickle=order.allow_pickle, trust_remote_code=order.trust_remote_code))
        return [file for file in files if file.path in wanted]

    def _together(self, files: Iterable[RemoteFile], listed: frozenset[str]) -> list[Landed]:
        pool = ThreadPoolExecutor(self._order.parallel, thread_name_prefix="fetch")
        futures = [pool.submit(self._fetched, file, listed) for file in files]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            problems = [future.exception() for future in futures if future.done() and future.exception()]
            for problem in problems:
                if problem:
                    raise problem
            return [future.result() for future in futures]
        finally:
            # Not waited for: a thread may be asleep until a throttled source wants to be asked again, and whatever
            # it does until the process ends, it does to a partial file that the next run hashes again.
            self._stopped.set() if any(not future.done() for future in futures) else None
            pool.shutdown(wait=False, cancel_futures=True)

    def _fetched(self, file: RemoteFile, listed: frozenset[str]) -> Landed:
        return self._checked(self._filled(file), listed)

    def _checked(self, partial: Partial, listed: frozenset[str]) -> Landed:
        content.check(partial.file.path, partial.path, trust_remote_code=self._order.trust_remote_code, listed=listed)
        return self._directory.land(partial)

    def _filled(self, file: RemoteFile) -> Partial:
        """All bytes of the file, proven against what the source vouches for; a damaged copy is fetched once more."""
        partial = self._directory.partial(file)
        self._progress.add(partial.size)
        for retry in (True, False):
            self._fill(partial)
            if partial.matches or not _patient(self._order.attempts, lambda: self._source.vouches(file)):
                return partial
            self._tell("mismatch", file=file.path, sha256=partial.sha256, again=retry)
            self._restart(partial)
        expected = file.expected.algorithm if file.expected else ""
        message = (
            f"{file.path}: the bytes received do not have the {expected} digest that the source lists, twice in a row."
        )
        raise Failure(Reason.CHECKSUM_MISMATCH, message)

    def _fill(self, partial: Partial) -> None:
        while True:
            before = partial.size
            try:
                _patient(self._order.attempts, lambda: self._continue(partial))
            except Transient:
                if partial.size <= before:
                    raise  # a source that lets us on, however slowly, is never given up
            else:
                return

    def _continue(self, partial: Partial) -> None:
        size = partial.file.size_bytes
        if size is not None and partial.size > size:
            self._restart(partial)
        if size is not None and partial.size == size:
            return
        with self._source.open(partial.file, partial.size) as body:
            if body.offset != partial.size:
                self._restart(partial)
            for chunk in body.chunks:
                if self._stopped.is_set():
                    raise Failure(Reason.DOWNLOADING, "Stopped because another file failed.")
                partial.append(chunk)
                self._progress.add(len(chunk))
                if size is not None and partial.size > size:
                    raise Failure(
                        Reason.CHECKSUM_MISMATCH, f"{partial.file.path} is longer than the {size} bytes listed."
                    )
        if size is not None and partial.size < size:
            raise Transient(f"{partial.file.path}: the connection ended after {partial.size} of {size} bytes")

    def _restart(self, partial: Partial) -> None:
        self._progress.add(-partial.size)
        partial.restart()


def _patient(attempts: int, act: Callable[[], T]) -> T:
    """`act`, again after each transient failure: as late as the source asks, else 0.5 to 60 s apart with jitter."""
    for attempt in stamina.retry_context(
        _pause, attempts=attempts, timeout=None, wait_initial=0.5, wait_max=LONGEST_WAIT_SECONDS, wait_jitter=1.0
    ):
        with attempt:
            return act()
    raise AssertionError("stamina returns or raises")


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, Transient):
        return False
    if error.after_seconds is None:
        return True
    return error.after_seconds + random.uniform(0, 0.5 + error.after_seconds / 10)  # noqa: S311 - spreads retries
