"""Prometheus, as far as the operator asks it anything: two kinds of query, and one kind of failure."""

from __future__ import annotations

from datetime import datetime, timedelta
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

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """`url` is what comes before `/api/v1`; connections are made when first needed."""
        self._url, self._timeout_seconds = url.rstrip("/"), timeout_seconds
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

    async def _ask(self, kind: str, about: dict[str, str]) -> list[Json]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        try:
            async with self._session.post(f"{self._url}/api/v1/{kind}", data=about, allow_redirects=False) as response:
                text = await response.content.read(ANSWER_BYTES)
                if response.status != 200:
                    raise Silent(f"HTTP {response.status}: {text[:256].decode(errors='replace')}")
                found: list[Json] = orjson.loads(text)["data"]["result"]
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            raise Silent(f"{type(error).__name__}: {error}"[:256]) from error
