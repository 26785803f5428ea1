"""Prometheus, as far as the operator asks it anything: two kinds of query, and one kind of failure."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson

Json = dict[str, Any]

TIMEOUT_SECONDS = 10
ANSWER_BYTES = 64 * 1024 * 1024  # a learned week is two; what is larger comes from something that is no Prometheus


class Silent(Exception):
    """Prometheus did not answer, or not as Prometheus does."""


class Prometheus:
    """One Prometheus, or anything that speaks its HTTP API."""

    def __init__(self, url: str, *, credentials: Path | None = None, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """`url` is what comes before `/api/v1`; connections are made when first needed.

        `credentials` is a folder as a Secret is mounted: `token` is sent as a bearer token, `ca.crt` is whom to trust.
        Either may be missing, and both are read again with every question, because they are rotated in place.
        """
        self._url, self._timeout_seconds, self._credentials = url.rstrip("/"), timeout_seconds, credentials
        self._session: aiohttp.ClientSession | None = None

    async def query(self, expression: str) -> list[Json]:
        """The instant vector of an expression now. Raises Silent."""
        return await self._ask("query", {"query": expression})

    async def range(self, expression: str, first: datetime, last: datetime, step: timedelta) -> list[Json]:
        """The series of an expression at every `step` from `first` to `last`. Raises Silent."""
        about = {"start": str(first.timestamp()), "end": str(last.timestamp()), "step": str(step.total_seconds())}
        return await self._ask("query_range", {"query": expression, **about})

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _headers(self) -> dict[str, str]:
        file = self._credentials / "token" if self._credentials else None
        return {"Authorization": f"Bearer {file.read_text().strip()}"} if file and file.exists() else {}

    def _trusted(self) -> ssl.SSLContext | bool:
        file = self._credentials / "ca.crt" if self._credentials else None
        return ssl.create_default_context(cafile=file) if file and file.exists() else True

    async def _ask(self, kind: str, about: dict[str, str]) -> list[Json]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        try:
            url, headers, trusted = f"{self._url}/api/v1/{kind}", self._headers(), self._trusted()
            # A token goes to this address and nowhere else: redirects are not followed.
            asking = self._session.post(url, data=about, headers=headers, ssl=trusted, allow_redirects=False)
            async with asking as response:
                text = await response.content.read(ANSWER_BYTES)
                if response.status != 200:
                    raise Silent(f"HTTP {response.status}: {text[:256].decode(errors='replace')}")
                found: list[Json] = orjson.loads(text)["data"]["result"]
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            raise Silent(f"{type(error).__name__}: {error}"[:256]) from error
