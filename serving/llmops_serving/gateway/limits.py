"""How much a key may use: requests and tokens per minute, requests at once, tokens per month. Pure, the time is given.

Per-minute limits are token buckets that hold one minute's worth. A request reserves an estimate of its tokens when it
begins (a quarter of its bytes and what it may generate) and settles with what it used when it ends.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from llmops_serving.gateway.keys import Key
from llmops_serving.gateway.route import Refuse

_BYTES_PER_TOKEN: Final = 4
_UNKNOWN_COMPLETION_TOKENS: Final = 256
_MINUTE: Final = 60.0


class Bucket:
    """`per_minute` units that refill evenly. May be overdrawn by what was estimated too low."""

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: float, now: float) -> None:
        """Full at first."""
        self.per_minute = per_minute
        self._level = per_minute
        self._at = now

    def level(self, now: float) -> float:
        """Units left."""
        level = self._level + (now - self._at) * self.per_minute / _MINUTE
        self._level = min(self.per_minute, level)
        self._at = now
        return self._level

    def take(self, units: float) -> None:
        """Use units, or give back with a negative number."""
        self._level = min(self.per_minute, self._level - units)

    def seconds_until(self, units: float, now: float) -> float:
        """When so many units will be there; at most a minute, because more than a minute's worth never is."""
        missing = min(units, self.per_minute) - self.level(now)
        return max(0.0, missing * _MINUTE / self.per_minute) if self.per_minute else _MINUTE

    def resize(self, per_minute: float, now: float) -> None:
        """Another limit from now on; the share that was left stays."""
        share = self.level(now) / self.per_minute if self.per_minute else 0.0
        self.per_minute = per_minute
        self._level = share * per_minute


class Grant:
    """One request's reservation of so many tokens."""

    __slots__ = ("meter", "open", "tokens")

    def __init__(self, meter: Meter, tokens: int) -> None:
        self.meter = meter
        self.tokens = tokens
        self.open = True


class Meter:
    """What one key has used. `share` is the part of each per-minute limit that belongs to this process."""

    __slots__ = ("_month_ends", "_requests", "_tokens", "in_flight", "key", "month_tokens")

    def __init__(self, key: Key, now: float, share: float = 1.0) -> None:
        """Nothing used yet."""
        self.key = key
        self.in_flight = 0
        self._month_ends = 0.0
        self.month_tokens = 0
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.rekey(key, now, share)

    def rekey(self, key: Key, now: float, share: float = 1.0) -> None:
        """The key's limits or this process's share changed; what was used stays used."""
        self.key = key
        self._requests = _resized(self._requests, key.requests_per_minute, now, share)
        self._tokens = _resized(self._tokens, key.tokens_per_minute, now, share)

    def admit(self, tokens: int, now: float, wall: float) -> Grant | Refuse:
        """Reserve one request of about `tokens`, or say why not and when to come back."""
        key = self.key
        if wall >= self._month_ends:
            self._month_ends, self.month_tokens = wall + _seconds_to_next_month(wall), 0
        if key.monthly_tokens is not None and self.month_tokens >= key.monthly_tokens:
            return _refusal("The token budget of this month is used up.", _seconds_to_next_month(wall))
        if key.concurrency is not None and self.in_flight >= key.concurrency:
            return _refusal(f"At most {key.concurrency} requests of this key run at once.", 1)
        if self._requests is not None and self._requests.level(now) < 1:
            wait = self._requests.seconds_until(1, now)
            return _refusal(f"At most {key.requests_per_minute} requests per minute.", wait)
        if self._tokens is not None and self._tokens.level(now) < min(tokens, self._tokens.per_minute):
            wait = self._tokens.seconds_until(tokens, now)
            return _refusal(f"At most {key.tokens_per_minute} tokens per minute.", wait)
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)
        self.in_flight += 1
        return Grant(self, tokens)

    def settle(self, grant: Grant, used: int | None) -> None:
        """The request ended and used so many tokens; None keeps the estimate."""
        if not grant.open:
            return
        grant.open = False
        self.in_flight -= 1
        actual = grant.tokens if used is None else used
        self.month_tokens += actual
        if self._tokens is not None:
            self._tokens.take(actual - grant.tokens)

    def headers(self, now: float) -> list[bytes]:
        """`x-ratelimit-*` as OpenAI's clients know them; nothing for a key without limits."""
        lines: list[bytes] = []
        if self._requests is not None and self.key.requests_per_minute is not None:
            lines.append(_bucket_lines(b"requests", self._requests, self.key.requests_per_minute, now))
        if self._tokens is not None and self.key.tokens_per_minute is not None:
            lines.append(_bucket_lines(b"tokens", self._tokens, self.key.tokens_per_minute, now))
        return lines


def _bucket_lines(kind: bytes, bucket: Bucket, limit: int, now: float) -> bytes:
    level = bucket.level(now)
    full_in = (bucket.per_minute - level) * _MINUTE / bucket.per_minute if bucket.per_minute else 0.0
    remaining = max(0, int(level))
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %.3fs" % (
        kind,
        limit,
        kind,
        remaining,
        kind,
        full_in,
    )


def _resized(bucket: Bucket | None, limit: int | None, now: float, share: float) -> Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit * share, now)
    if bucket.per_minute != limit * share:
        bucket.resize(limit * share, now)
    return bucket


def estimate(body_bytes: int, document: dict[str, object] | None) -> int:
    """Tokens that a request may use, before anybody has counted."""
    wanted = _UNKNOWN_COMPLETION_TOKENS
    if document is not None:
        for field in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            value = document.get(field)
            if isinstance(value, int) and value >= 0:
                wanted = value
                break
    return body_bytes // _BYTES_PER_TOKEN + wanted


def _refusal(message: str, seconds: float) -> Refuse:
    return Refuse(429, "rate_limit_exceeded", message, "rate_limit_error", retry_after=max(1, math.ceil(seconds)))


def _seconds_to_next_month(wall: float) -> float:
    at = datetime.fromtimestamp(wall, UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return (following - at).total_seconds()
