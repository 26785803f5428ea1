"""The files that a point keeps as pointers, from the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import stamina

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.repository.errors import Unsafe
from llmops_serving.jobs.repository.format import FileEntry
from llmops_serving.jobs.weights.sources import http

POINTER: Final = re.compile(r"hf://([\w.-]+/[\w.-]+)@([0-9a-f]{40})/(.+)")
DEFAULT_ENDPOINT: Final = "https://huggingface.co"


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
        self._http = http.client(proxy) if proxy else httpx.Client(follow_redirects=True, timeout=http.TIMEOUT)

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
