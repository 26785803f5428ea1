"""How much a key may use: requests and tokens per minute, requests at once, tokens per month. Pure, the time is given.

Per-minute limits are token buckets that hold one minute's worth. A request reserves an estimate of its tokens when it
begins (a quarter of its bytes and what it may generate) and settles with what it used when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from llmops_serving.gateway.keys import Key
from llmops_serving.gateway.route import Refuse

_BYTES_PER_TOKEN: Final = 4
_UNKNOWN_COMPLETION_TOKENS: Final = 256
_MINUTE: Final = 60.0
_NO_DEMAND: Final = 0.05


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

    def lower(self, level: float, now: float) -> None:
        """Somebody who has counted for longer has less."""
        self._level = min(self.level(now), level)

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


class Crowd:
    """How many processes serve the same keys, this one included, and how many of them it hears."""

    __slots__ = ("heard", "processes")

    def __init__(self) -> None:
        """Alone."""
        self.processes = 1
        self.heard = 1


class Peer:
    """What another process last said of one key: what it works on, what it has claimed, how much it is asked."""

    __slots__ = ("claims", "demand", "in_flight", "said_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.claims: list[float] = [0.0, 0.0, 0.0]
        self.demand = 0.0
        self.said_at = 0.0


_REQUESTS: Final = 0
_TOKENS: Final = 1
_SLOTS: Final = 2
CLAIM_SECONDS: Final = 1.0  # after so long without a word from everyone, a claim may be renewed all the same


class Meter:
    """What one key has used, here and at the other processes of the crowd.

    Every process keeps the whole limit: it takes off what it gives, and what the others say they gave. Between two
    such words a process gives no more than it has *claimed*: at most its part of what is left, by how much everyone
    is asked, and never what others have claimed. What was given too much all the same is owed by everybody.
    """

    __slots__ = (
        "_attempts", "_claimed_at", "_crowd", "_month_ends", "_requests", "_tokens", "claims", "demand", "in_flight",
        "key", "month_tokens", "peers", "requests_given", "tokens_given", "tokens_used",
    )  # fmt: skip

    def __init__(self, key: Key, now: float, crowd: Crowd) -> None:
        """Nothing used yet."""
        self.key = key
        self.in_flight = 0
        self.requests_given = 0
        self.tokens_given = 0
        self.tokens_used = 0
        self.month_tokens = 0
        self.peers: dict[str, Peer] = {}
        self.claims: list[float] = [0.0, 0.0, 0.0]
        self.demand = 0.0
        self._attempts = 0
        self._claimed_at: list[float] = [-CLAIM_SECONDS, -CLAIM_SECONDS, -CLAIM_SECONDS]
        self._crowd = crowd
        self._month_ends = 0.0
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.rekey(key, now)

    def rekey(self, key: Key, now: float) -> None:
        """The key's limits or the crowd changed; what was used stays used. Unheard processes have their parts."""
        self.key = key
        share = self._crowd.heard / self._crowd.processes
        self._requests = _resized(self._requests, key.requests_per_minute, now, share)
        self._tokens = _resized(self._tokens, key.tokens_per_minute, now, share)

    def admit(self, tokens: int, now: float, wall: float) -> Grant | Refuse:
        """Reserve one request of about `tokens`, or say why not and when to come back."""
        key = self.key
        self._attempts += 1
        self.turn_month(wall)
        if key.monthly_tokens is not None and self.month_tokens >= key.monthly_tokens:
            return _refusal("The token budget of this month is used up.", _seconds_to_next_month(wall))
        if key.concurrency is not None and not self._may(_SLOTS, self._slots(key.concurrency), 1.0, now):
            return _refusal(f"At most {key.concurrency} requests of this key run at once.", 1)
        if self._requests is not None and not self._may(_REQUESTS, self._requests.level(now), 1.0, now):
            wait = self._requests.seconds_until(1, now)
            return _refusal(f"At most {key.requests_per_minute} requests per minute.", wait)
        if self._tokens is not None:
            needed = min(float(tokens), self._tokens.per_minute)
            if not self._may(_TOKENS, self._tokens.level(now), needed, now):
                wait = self._tokens.seconds_until(tokens, now)
                return _refusal(f"At most {key.tokens_per_minute} tokens per minute.", wait)
            self._tokens.take(tokens)
            self.claims[_TOKENS] -= tokens
        if self._requests is not None:
            self._requests.take(1)
            self.claims[_REQUESTS] -= 1
        self.claims[_SLOTS] -= 1
        self.requests_given += 1
        self.tokens_given += tokens
        self.in_flight += 1
        return Grant(self, tokens)

    def turn_month(self, wall: float) -> None:
        """Begin to count anew when a month begins (UTC)."""
        if wall >= self._month_ends:
            self._month_ends = wall + _seconds_to_next_month(wall)
            self.month_tokens = 0

    def _slots(self, limit: int) -> float:
        left = limit * self._crowd.heard / self._crowd.processes - self.in_flight
        for peer in self.peers.values():
            left -= peer.in_flight
        return left

    def _may(self, kind: int, left: float, needed: float, now: float) -> bool:
        """Whether `needed` of a limit, of which so much is left, may be given here and now."""
        if left < needed:
            return False
        if self._crowd.heard == 1 or self.claims[kind] >= needed:
            return True
        if not self._may_claim(kind, now):
            return False
        weight = self.demand + 1.0
        everyone = weight + self._crowd.heard - 1
        for peer in self.peers.values():
            everyone += peer.demand
            left -= max(0.0, peer.claims[kind])
        part = left * weight / everyone
        self.claims[kind] = min(left, max(part, needed))
        self._claimed_at[kind] = now
        return self.claims[kind] >= needed

    def _may_claim(self, kind: int, now: float) -> bool:
        """Whether every other process has spoken since the last claim, so that nothing given elsewhere is unheard."""
        since = self._claimed_at[kind]
        if now >= since + CLAIM_SECONDS:
            return True
        spoke = 0
        for peer in self.peers.values():
            if peer.said_at > since:
                spoke += 1
        return spoke >= self._crowd.heard - 1

    def heard(self, process: str, line: Mapping[str, Any], now: float) -> None:
        """Another process says what it gave since its last word, and how it stands."""
        peer = self.peers.get(process)
        if peer is None:
            peer = self.peers[process] = Peer()
            for bucket, left in zip((self._requests, self._tokens), line["left"], strict=True):
                if bucket is not None and left is not None:
                    bucket.lower(left, now)
        peer.said_at = now
        peer.in_flight = line["inFlight"]
        peer.claims = [float(claim) for claim in line["claims"]]
        peer.demand = float(line["demand"])
        if self._requests is not None:
            self._requests.take(line["requests"])
        if self._tokens is not None:
            self._tokens.take(line["tokens"])
        self.month_tokens = max(self.month_tokens + line["used"], line["monthTokens"])

    def left(self, now: float) -> list[float | None]:
        """What is left of requests and tokens per minute; None where nothing limits them."""
        return [None if bucket is None else bucket.level(now) for bucket in (self._requests, self._tokens)]

    def tick(self) -> bool:
        """Ten times a second: how much is asked here, and whether anybody need be told how this process stands."""
        if not self._attempts:
            self.claims = [0.0, 0.0, 0.0]
        self.demand = self.demand / 2 + self._attempts
        if self.demand < _NO_DEMAND:
            self.demand = 0.0
        active = self._attempts > 0 or self.demand > 0 or self.in_flight > 0
        self._attempts = 0
        for peer in self.peers.values():
            active = active or peer.demand > 0
        return active

    def settle(self, grant: Grant, used: int | None) -> None:
        """The request ended and used so many tokens; None keeps the estimate."""
        if not grant.open:
            return
        grant.open = False
        self.in_flight -= 1
        actual = grant.tokens if used is None else used
        self.month_tokens += actual
        self.tokens_used += actual
        self.tokens_given += actual - grant.tokens
        if self._tokens is not None:
            self._tokens.take(actual - grant.tokens)

    def headers(self, now: float) -> list[bytes]:
        """`x-ratelimit-*` as OpenAI's clients know them; nothing for a key without limits."""
        lines: list[bytes] = []
        if self._requests is not None and self.key.requests_per_minute is not None:
            lines.append(_bucket_lines("requests", self._requests, self.key.requests_per_minute, now))
        if self._tokens is not None and self.key.tokens_per_minute is not None:
            lines.append(_bucket_lines("tokens", self._tokens, self.key.tokens_per_minute, now))
        return lines


def _bucket_lines(kind: str, bucket: Bucket, limit: int, now: float) -> bytes:
    level = bucket.level(now)
    full_in = (bucket.per_minute - level) * _MINUTE / bucket.per_minute if bucket.per_minute else 0.0
    lines = (
        f"x-ratelimit-limit-{kind}: {limit}\r\n"
        f"x-ratelimit-remaining-{kind}: {max(0, int(level))}\r\n"
        f"x-ratelimit-reset-{kind}: {int(full_in * 1000)}ms"
    )
    return lines.encode()


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
