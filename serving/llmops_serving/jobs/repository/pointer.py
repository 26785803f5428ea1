"""Public weights that are pinned to a commit may be kept as a URL with digests instead of bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import stamina

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.repository.errors import Unsafe
from llmops_serving.jobs.repository.format import FileEntry
from llmops_serving.jobs.weights.sources import http

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
HUB: Final = re.compile(r"hf://([\w.-]+/[\w.-]+)")
POINTER: Final = re.compile(r"hf://([\w.-]+/[\w.-]+)@([0-9a-f]{40})/(.+)")
DEFAULT_ENDPOINT: Final = "https://huggingface.co"
LEAST_BYTES: Final = 1 << 20  # small files are kept whole: they cost nothing and make the point readable by itself


class PointerMode(StrEnum):
    """What `spec.backup.weights` says."""

    AUTO = "Auto"
    POINTER = "Pointer"
    FULL = "Full"


def pointers(
    mode: PointerMode, roots: Mapping[str, Path], source: str, revision: str, *, trained_here: bool
) -> dict[str, str]:
    """File path -> URL for the safetensors files of the model's root that are kept as pointers.

    Auto does so for a hub model at a commit that was not trained here. A pointer outlives its backup only as long as
    the hub keeps the commit: whoever cannot rely on that says Full.

    Raises:
        Unsafe: Pointer was asked for and the source is not pinned to a commit, or was trained here.
    """
    hub = HUB.fullmatch(source)
    pinned = hub is not None and COMMIT.fullmatch(revision) is not None and not trained_here
    if mode is PointerMode.POINTER and not pinned:
        raise Unsafe("weights: Pointer needs an hf:// source at a 40-digit commit that was not trained here")
    root = roots.get("")
    if mode is PointerMode.FULL or not pinned or root is None or hub is None:
        return {}
    files = (at for at in root.rglob("*.safetensors") if at.is_file() and at.stat().st_size >= LEAST_BYTES)
    paths = (at.relative_to(root).as_posix() for at in files)
    return {path: f"hf://{hub[1]}@{revision}/{path}" for path in paths}


class HubFiles:
    """Fetches what a pointer names, from where an interrupted run stopped. The caller checks the digest.

    Args:
        endpoint: A mirror of the hub; the public one by default.
        token: For gated models.
        proxy: The guarded way out of a job; a person's own machine needs none.
    """

    def __init__(self, *, endpoint: str | None = None, token: str | None = None, proxy: str = "") -> None:
        self._endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._proxy = proxy

    @cached_property
    def _http(self) -> httpx.Client:
        """Made for the first pointer: reading the certificates takes longer than restoring an adapter."""
        if self._proxy:
            return http.client(self._proxy)
        return httpx.Client(follow_redirects=True, timeout=http.TIMEOUT)

    def __call__(self, file: FileEntry, at: Path) -> None:
        """Write the file to `at`.

        Raises:
            Unsafe: not a pointer to a hub. Failure: the hub does not give it.
        """
        parts = POINTER.fullmatch(file.pointer)
        if not parts:
            raise Unsafe(f"{file.path}: {file.pointer!r} is not a pinned hub file")
        url = f"{self._endpoint}/{parts[1]}/resolve/{parts[2]}/{quote(parts[3])}"
        for attempt in stamina.retry_context(on=Transient, attempts=8, timeout=None, wait_initial=0.5, wait_max=60.0):
            with attempt:
                self._go_on(url, file, at)

    def _go_on(self, url: str, file: FileEntry, at: Path) -> None:
        with at.open("ab") as sink:
            offset = sink.tell()
            if offset >= file.bytes:
                offset = 0  # whole, and the caller found it wrong
            with http.opened(
                self._http, url, offset=offset, size_bytes=file.bytes, headers=self._headers, validator=None
            ) as body:
                sink.truncate(body.offset)
                sink.seek(body.offset)
                for chunk in body.chunks:
                    sink.write(chunk)
                    if sink.tell() > file.bytes:
                        raise Failure(Reason.CHECKSUM_MISMATCH, f"{file.pointer} is longer than when it was backed up.")
            if sink.tell() < file.bytes:
                raise Transient(f"{file.pointer}: the connection ended after {sink.tell()} of {file.bytes} bytes")
