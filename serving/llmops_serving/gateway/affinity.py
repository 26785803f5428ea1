"""Which pod has a prompt's beginning in its cache already: chained block hashes, remembered per pod.

A pod remembers what it was sent in blocks of 256 bytes, each hashed together with all before it, as the engine's own
prefix cache does with its blocks of tokens. Cold prompts are placed by rendezvous hashing (Thaler and Ravishankar,
1998) of their first block, so that gateway replicas agree without talking; the load is bounded as in "Consistent
Hashing with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam, 2016).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import orjson

from llmops_serving.gateway.route import Candidate

BLOCK_BYTES: Final = 256
MAX_BLOCKS: Final = 1024  # 256 KB of prompt: more tells nothing new about where to go
BYTES_PER_TOKEN: Final = 4
UNKNOWN_CACHE_BLOCKS: Final = 4096  # about 260,000 tokens
LOAD_BOUND: Final = 1.25
# Few requests are spread unevenly by chance alone. Leaving a warm cache for that costs more than it evens out, and
# makes gateway replicas, each of which sees its own share only, disagree about where a prompt lives.
CHANCE_SIGMAS: Final = 2.0
# Where popular prompts meet on one pod, it is full up to the bound all the time. So a cold prompt falls a little less
# often on a pod that usually has more in flight. A little: gateway replicas see different loads, and where they
# disagree a prompt is computed twice. Of what a pod has in flight, the mean over about this many choices counts.
USUAL_CHOICES: Final = 1000
EVENNESS: Final = 0.3
_WORD: Final = (1 << 64) - 1


class Prefixes:
    """The beginnings that one pod was sent, least recently used first."""

    __slots__ = ("_blocks", "capacity")

    def __init__(self, capacity: int = UNKNOWN_CACHE_BLOCKS) -> None:
        """`capacity` in blocks: what the engine's cache holds."""
        self.capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        """How many blocks are remembered."""
        return len(self._blocks)

    def matched(self, blocks: Sequence[int]) -> int:
        """How many of the leading blocks the pod has. A block is never kept without those before it."""
        known = self._blocks
        if not blocks or blocks[0] not in known:
            return 0
        low, high = 1, len(blocks)
        while low < high:
            middle = (low + high + 1) // 2
            if blocks[middle - 1] in known:
                low = middle
            else:
                high = middle - 1
        return low

    def remember(self, blocks: Sequence[int]) -> None:
        """The pod is sent these. The last block is touched first, so that a prompt is forgotten from its end."""
        known = self._blocks
        for block in reversed(blocks):
            known[block] = None
            known.move_to_end(block)
        while len(known) > self.capacity:
            known.popitem(last=False)


class Caching(Candidate):
    """A pod with a memory. `seed` is its stable number in rendezvous hashing, `usual` what it mostly has in flight."""

    __slots__ = ("prefixes", "seed", "usual")

    def __init__(self, address: str, name: str = "") -> None:
        """It has been sent nothing; `name` is the same for every gateway, as an address may not be."""
        super().__init__(address)
        self.prefixes = Prefixes()
        self.seed = stable_hash((name or address).encode())
        self.usual = 0.0


PodT = TypeVar("PodT", bound=Caching)


def prompt(document: dict[str, Any]) -> bytes:
    """What comes first in the rendered prompt: tools and instructions, then messages or text; empty where unknown."""
    parts = [
        value.encode() if isinstance(value, str) else orjson.dumps(value)
        for field in ("tools", "system", "instructions", "messages", "prompt")
        if (value := document.get(field))
    ]
    if "instructions" in document or "input" in document:
        value = document.get("input")
        parts.append(value.encode() if isinstance(value, str) else orjson.dumps(value))
    return b"".join(parts)


def blocks(text: bytes, adapter: str = "") -> list[int]:
    """Chained hashes of the full blocks of `text`; an adapter's cache is its own."""
    chain = hash(adapter)
    found: list[int] = []
    for at in range(0, min(len(text), MAX_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = hash((chain, text[at : at + BLOCK_BYTES]))
        found.append(chain)
    return found


def stable_hash(text: bytes) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def choice(pods: Sequence[PodT], prefix: Sequence[int], first_block: bytes, now: float) -> PodT | None:
    """The pod with most of the prefix whose load stays within the bound; None where none does, or all are ejected."""
    healthy = [pod for pod in pods if pod.ejected_until <= now]
    if not healthy:
        return None
    total = 1
    usual = 0.0
    for pod in healthy:
        total += pod.in_flight
        pod.usual += (pod.in_flight - pod.usual) / USUAL_CHOICES
        usual += pod.usual
    bound = load_bound(total / len(healthy))
    best: PodT | None = None
    best_matched = 0
    for pod in healthy:
        if pod.in_flight >= bound:
            continue
        matched = pod.prefixes.matched(prefix)
        if matched > best_matched or (matched == best_matched and best and pod.in_flight < best.in_flight):
            best, best_matched = pod, matched
    if best is not None:
        return best
    start = stable_hash(first_block)
    mean = usual / len(healthy)
    within = [pod for pod in healthy if pod.in_flight < bound]
    return max(within, key=lambda pod: _score(start ^ pod.seed, pod.usual, mean), default=None)


def load_bound(mean: float) -> float:
    """With fewer requests in flight than this, a pod may get one more for the sake of its cache.

    A quarter above the mean (which has the new request in it), and what Poisson arrivals add by chance.
    """
    return LOAD_BOUND * mean + CHANCE_SIGMAS * math.sqrt(mean)


def _score(number: int, usual: float, mean: float) -> float:
    """Of weighted rendezvous hashing (Schindelhauer and Schomaker, 2005); weights are from a half to about two."""
    weight = (mean / min(max(usual, mean / 10), mean * 10)) ** EVENNESS if mean > 0 else 1.0
    return -weight / math.log(((_mixed(number) >> 12) + 0.5) / (1 << 52))


def _mixed(value: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood, 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)
