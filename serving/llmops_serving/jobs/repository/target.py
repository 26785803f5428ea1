"""Where a repository lives: s3://, gs://, az://, pvc:// or file://, through one object-store library.

This is the only module that knows the library. Its errors become ours here, sorted by who must act.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, from_url

from llmops_serving.jobs.repository import direct
from llmops_serving.jobs.repository.errors import (
    ClockSkewed,
    Missing,
    NotARepository,
    TargetDenied,
    TargetFull,
    TargetNotFound,
    TargetUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

    from obstore.store import ObjectStore

PVC_MOUNT: Final = Path("/backup")  # where a Job mounts the claim that a pvc:// target names
FULL_MARKS: Final = ("No space left on device", "os error 28", "StorageFull", "QuotaExceeded", "InsufficientStorage")
DENIED_MARKS: Final = (
    "Permission denied",
    "AccessDenied",
    "403 Forbidden",
    "SignatureDoesNotMatch",
    "InvalidAccessKey",
)
SKEW_MARKS: Final = ("RequestTimeTooSkewed", "RequestExpired")
ABSENT_MARKS: Final = ("404 Not Found", "NoSuchBucket", "ContainerNotFound")
DELETE_BATCH: Final = 1000
FSYNCS: Final = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as a listing shows it; `modified` is the store's clock, the only one that all writers share."""

    name: str
    bytes: int
    modified: datetime


class Target:
    """Named byte strings. Writes are atomic: an object is whole or absent."""

    def __init__(self, store: ObjectStore, *, url: str, root: Path | None) -> None:
        self.url = url
        self.root = root  # the directory of a local target, else None
        self._store: Any = store

    @classmethod
    def open(cls, url: str, *, pvc_mount: Path = PVC_MOUNT, retry_seconds: float = 300, proxy: str = "") -> Target:
        """The target at `url`; credentials and endpoint come from the cloud's usual environment variables.

        `proxy` is the only way out for the requests, when it is given.

        Raises:
            NotARepository: the scheme is not one of ours.
        """
        parts = urlsplit(url)
        if parts.scheme in ("file", "pvc"):
            inside = unquote(parts.path).lstrip("/")
            root = pvc_mount / inside if parts.scheme == "pvc" else Path("/") / inside
            with _sorted(url):
                root.mkdir(parents=True, exist_ok=True)
                return cls(LocalStore(root), url=url, root=root)
        if parts.scheme not in ("s3", "gs", "az"):
            raise NotARepository(f"{url}: a target is s3://, gs://, az://, pvc:// or file://")
        endpoint = next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), "")
        retry = {
            "max_retries": 1000,  # the time below decides
            "retry_timeout": timedelta(seconds=retry_seconds),
            "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=10), "base": 2},
        }
        options = {"allow_http": endpoint.startswith("http://"), "connect_timeout": "10s", "timeout": "120s"}
        if proxy:
            options["proxy_url"] = proxy
        # The checksum is what Object Lock demands of uploads, and costs nothing: the signature hashes the body as well.
        config: Any = {"checksum_algorithm": "SHA256"} if parts.scheme == "s3" else None
        if endpoint and config:
            config["endpoint"] = endpoint
        with _sorted(url):
            store = from_url(url, config=config, client_options=options, retry_config=retry)  # type: ignore[call-overload]
        return cls(store, url=url, root=None)

    def put(self, name: str, data: Buffer) -> None:
        """Store `data`, replacing what was there. On a disk it is safe from a power cut only after `settle`."""
        with _sorted(name):
            obstore.put(self._store, name, data, use_multipart=False)

    def put_large(self, name: str, data: memoryview) -> None:
        """The same for much data, which begins at a page."""
        if self.root is None:
            self.put(name, data)
            return
        place = self.root / name
        partial = place.with_name(f"{place.name}#{secrets.randbelow(10**12)}")  # digits: no listing shows such a name
        with _sorted(name):
            try:
                descriptor = _created(partial)
                try:
                    direct.write(descriptor, data, 0)
                finally:
                    os.close(descriptor)
                partial.rename(place)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def create(self, name: str, data: Buffer) -> bool:
        """Store `data` unless the name is taken; False when it is. Exactly one of several writers gets True.

        On a store without conditional writes the last writer wins instead.
        """
        with _sorted(name):
            try:
                obstore.put(self._store, name, data, use_multipart=False, mode="create")
            except AlreadyExistsError:
                return False
            except NotSupportedError:
                obstore.put(self._store, name, data, use_multipart=False)
            return True

    def get(self, name: str) -> memoryview:
        """The whole object.

        Raises:
            Missing: it is not there.
        """
        with _sorted(name):
            return memoryview(obstore.get(self._store, name).bytes())

    def get_into(self, name: str, memory: Callable[[int], memoryview]) -> memoryview:
        """The whole object, in `memory(bytes)`, which begins at a page, where it is read from a disk.

        Raises:
            Missing: it is not there.
        """
        if self.root is None:
            return self.get(name)
        with _sorted(name):
            return direct.read(self.root / name, memory)

    def list(self, prefix: str) -> Iterator[Stored]:
        """Every object below the folder `prefix`, in no order."""
        with _sorted(prefix):
            for batch in obstore.list(self._store, prefix, chunk_size=1000):
                for meta in batch:
                    yield Stored(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, names: Sequence[str]) -> None:
        """Delete; a name that is gone already counts as deleted."""
        for start in range(0, len(names), DELETE_BATCH):
            with _sorted("delete"):
                try:
                    obstore.delete(self._store, list(names[start : start + DELETE_BATCH]))
                except FileNotFoundError:  # a local store stops at the first absent name
                    for name in names[start : start + DELETE_BATCH]:
                        self._delete_one(name)

    def _delete_one(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return

    def now(self) -> datetime:
        """The store's clock, read by writing an object and looking at its time."""
        self.put("clock", b"")
        with _sorted("clock"):
            return obstore.head(self._store, "clock")["last_modified"]

    def settle(self, names: Sequence[str]) -> None:
        """Return when `names` survive a power cut. Object stores promise that by themselves, disks after an fsync."""
        if self.root is None:
            return
        files = [self.root / name for name in names]
        folders = {folder for file in files for folder in file.parents if folder.is_relative_to(self.root)}
        with _sorted("fsync"), ThreadPoolExecutor(FSYNCS) as pool:  # side by side they share commits of the journal
            for paths in (files, folders):
                list(pool.map(_fsync, paths))

    def sweep_partial_files(self, *, older_than_seconds: float) -> int:
        """Delete what killed writers left half-written on a local target (the library hides `NAME#N` in listings)."""
        if self.root is None:
            return 0
        removed = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if "#" in name and time.time() - path.stat().st_mtime > older_than_seconds:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def _created(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _sorted(what: str) -> Iterator[None]:
    """Turn the library's and the system's errors into ours."""
    try:
        yield
    except FileNotFoundError as problem:
        raise Missing(f"{what}: not there", [what]) from problem
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as problem:
        if any(mark in str(problem) for mark in SKEW_MARKS):
            raise ClockSkewed(
                f"this machine's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, too far from the target's, which "
                "therefore refuses its requests: set the node's clock"
            ) from problem
        raise TargetDenied(f"{what}: {_first_line(problem)}") from problem
    except (BaseError, OSError) as problem:
        text = str(problem)
        if any(mark in text for mark in FULL_MARKS):
            raise TargetFull(f"{what}: the target is full: {_first_line(problem)}") from problem
        if any(mark in text for mark in DENIED_MARKS):
            raise TargetDenied(f"{what}: {_first_line(problem)}") from problem
        if any(mark in text for mark in ABSENT_MARKS):
            raise TargetNotFound(f"{what}: no such bucket or account: {_first_line(problem)}") from problem
        raise TargetUnreachable(f"{what}: {_first_line(problem)}") from problem


def _first_line(problem: Exception) -> str:
    return str(problem).strip().split("\n", 1)[0][:256]
