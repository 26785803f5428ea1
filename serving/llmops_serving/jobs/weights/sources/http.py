"""One resumable GET over HTTP, with failures sorted by who must act. Used by the hub and by plain web sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.weights.sources.source import Body

CHUNK_BYTES = 1 << 18  # what a kill may cost, per file
TIMEOUT = httpx.Timeout(60.0, connect=30.0)
MAX_REDIRECTS = 10
LONGEST_WAIT_SECONDS = 300.0  # a source that asks for more is asked again by the Job's next pod


class Answer(Protocol):
    """What sorting needs of a response; httpx's and the hub client's own both have it."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


def client(proxy: str) -> httpx.Client:
    """A client that leaves through `proxy` only, follows redirects there, and drops credentials on another origin."""
    return httpx.Client(
        proxy=proxy, trust_env=False, follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=TIMEOUT, verify=True
    )


@contextmanager
def opened(
    http: httpx.Client,
    url: str,
    *,
    offset: int,
    size_bytes: int | None,
    headers: Mapping[str, str],
    validator: str | None,
) -> Iterator[Body]:
    """The body of `url` from `offset` on. `validator` is the strong ETag under which the offset was reached."""
    wanted = dict(headers) | {"Accept-Encoding": "identity"}
    if offset:
        wanted["Range"] = f"bytes={offset}-"
        if validator:
            wanted["If-Range"] = validator
    try:
        with http.stream("GET", url, headers=wanted) as response:
            if response.status_code == 416 and size_bytes is not None and offset > size_bytes:
                raise Transient(f"{_place(url)}: nothing is left after byte {offset}")
            raise_for(response, _place(url))
            yield Body(_offset(response, offset), response.iter_raw(CHUNK_BYTES))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise Failure(Reason.SOURCE_FORBIDDEN, f"{_place(url)}: {error}") from error
    except httpx.TransportError as error:
        raise Transient(f"{_place(url)}: {type(error).__name__}: {error}") from error


def raise_for(answer: Answer, place: str) -> None:
    """Sort an answer by who must act; nothing happens on success."""
    status = answer.status_code
    if status < 400:
        return
    if status in (429, 503) and (status == 429 or answer.headers.get("Retry-After")):
        after = retry_after(answer.headers)
        raise Transient(f"{place}: {status}, asked to slow down", after_seconds=after, throttled=True)
    if status in (401, 403, 407):
        raise Failure(Reason.MODEL_AUTH_FAILED, f"{place}: {status}. Check the credentials in spec.model.secretRef.")
    if status in (404, 410):
        raise Failure(Reason.MODEL_NOT_FOUND, f"{place}: {status}, there is no such file.")
    if status in (408, 425) or status >= 500:
        raise Transient(f"{place}: {status}")
    raise Failure(Reason.MODEL_NOT_FOUND, f"{place}: unexpected answer {status}.")


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the answer asks to wait (Retry-After in seconds or as a date, RateLimit's `t`), within 0..300."""
    text = headers.get("Retry-After") or headers.get("retry-after") or ""
    seconds: float | None = None
    if re.fullmatch(r"\d{1,9}", text.strip()):
        seconds = float(text)
    elif text:
        try:
            seconds = (parsedate_to_datetime(text) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError):
            seconds = None
    elif found := re.search(r"\bt=(\d{1,9})", headers.get("RateLimit") or headers.get("ratelimit") or ""):
        seconds = float(found[1])
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _offset(response: httpx.Response, asked: int) -> int:
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != asked:
        raise Transient(f"{_place(str(response.url))}: asked for byte {asked}, got another range")
    return asked


def _place(url: str) -> str:
    """The URL without what may be secret: no user, no query."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.host}{f':{parts.port}' if parts.port else ''}{parts.path}"
