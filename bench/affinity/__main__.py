"""`python -m bench.affinity`: how much of the prompts four engines find in their prefix caches, by who chooses.

Two workloads, chats of several turns and system prompts that many share, and one without any reuse. The engines'
caches together hold 0.7 of the working set, in blocks of 16 tokens, least recently used out first, as vLLM's do. The
choice is the gateway's own code (`affinity.choice`, `route.least_loaded`). The oracle sees what is in every cache at
the very moment, and obeys the same bound on load. A table, and JSON with --json.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops_serving.gateway import affinity, route
from llmops_serving.gateway.affinity import BYTES_PER_TOKEN, Caching

ENGINES = 4
CACHE_SHARE = 0.7
ENGINE_BLOCK = 16 * BYTES_PER_TOKEN  # bytes
PREFILL_SECONDS = 1 / 8000  # per token that is not in the cache; one prompt after the other
DECODE_SECONDS = 1 / 40  # per token, whoever else is served
Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One chat as the gateway gets it, and the answer it will have."""

    at: float
    prompt: bytes
    answer: bytes
    alive: int  # bytes of all conversations or prompts that are in use at this moment


@dataclass
class Engine:
    """What really happens."""

    capacity: int
    blocks: dict[int, None] = field(default_factory=dict)
    free_at: float = 0.0
    busy_seconds: float = 0.0
    in_flight: int = 0

    def matched(self, blocks: Sequence[int]) -> int:
        """How many of the leading blocks are in the cache."""
        found = 0
        for block in blocks:
            if block not in self.blocks:
                break
            found += 1
        return found

    def keep(self, blocks: Sequence[int]) -> None:
        """These were computed or used; what was used longest ago goes."""
        for block in reversed(blocks):
            self.blocks.pop(block, None)
            self.blocks[block] = None
        while len(self.blocks) > self.capacity:
            del self.blocks[next(iter(self.blocks))]


Router = Callable[[list[Caching], list[Engine], Request, list[int], float], int]


def chats(dice: random.Random, seconds: float) -> Iterator[Request]:
    """Conversations of 2 to 10 turns with half a minute of thought between them; each begins with a common sentence."""
    opening = b"You are a helpful assistant of the bench. Answer briefly. "
    due: list[tuple[float, int, bytes, int]] = []
    lengths: dict[int, int] = {}
    at, number = 0.0, 0
    while at < seconds:
        at += dice.expovariate(0.9)
        number += 1
        heapq.heappush(due, (at, number, opening + b"%d " % number, dice.randint(2, 10)))
        while due and due[0][0] <= at:
            now, who, history, turns = heapq.heappop(due)
            prompt = history + dice.randbytes(dice.randint(100, 1200)).hex().encode()
            answer = dice.randbytes(dice.randint(100, 600)).hex().encode()
            lengths[who] = len(prompt) + len(answer)
            yield Request(now, prompt, answer, sum(lengths.values()))
            if turns > 1:
                heapq.heappush(due, (now + dice.expovariate(1 / 30), who, prompt + answer, turns - 1))
            else:
                del lengths[who]


def system_prompts(dice: random.Random, seconds: float) -> Iterator[Request]:
    """Ninety-six system prompts of 4 to 24 KB, the popular ones asked far more often, with a question of one's own."""
    prompts = [dice.randbytes(dice.randint(2000, 12_000)).hex().encode() for _ in range(96)]
    weights = [1 / (rank + 1) ** 0.8 for rank in range(len(prompts))]
    alive = sum(map(len, prompts))
    at = 0.0
    while at < seconds:
        at += dice.expovariate(6.0)
        [prompt] = dice.choices(prompts, weights)
        question = dice.randbytes(dice.randint(50, 200)).hex().encode()
        yield Request(at, prompt + question, dice.randbytes(200).hex().encode(), alive)


def strangers(dice: random.Random, seconds: float) -> Iterator[Request]:
    """Prompts that have nothing in common."""
    at = 0.0
    while at < seconds:
        at += dice.expovariate(6.0)
        prompt = dice.randbytes(dice.randint(300, 4000)).hex().encode()
        yield Request(at, prompt, dice.randbytes(dice.randint(100, 600)).hex().encode(), 10**6)


def by_affinity(pods: list[Caching], _engines: list[Engine], request: Request, blocks: list[int], turn: float) -> int:
    """What the gateway does."""
    pod = affinity.choice(pods, blocks, request.prompt[: affinity.BLOCK_BYTES], 0.0) if blocks else None
    pod = pod or route.least_loaded(pods, 0.0, (), int(turn))
    assert pod is not None
    pod.prefixes.remember(blocks)
    return pods.index(pod)


def by_load(pods: list[Caching], _engines: list[Engine], _request: Request, _blocks: list[int], turn: float) -> int:
    """The fewest in flight."""
    pod = route.least_loaded(pods, 0.0, (), int(turn))
    assert pod is not None
    return pods.index(pod)


def by_oracle(pods: list[Caching], engines: list[Engine], request: Request, _blocks: list[int], turn: float) -> int:
    """The most that is really cached, within the same bound on load; the fewest in flight among equals."""
    bound = affinity.load_bound((sum(pod.in_flight for pod in pods) + 1) / len(pods))
    within = [index for index, pod in enumerate(pods) if pod.in_flight < bound]
    own = affinity_blocks(request.prompt)
    order = [(index + int(turn)) % len(pods) for index in range(len(pods))]
    return max(within, key=lambda index: (engines[index].matched(own), -pods[index].in_flight, order[index]))


def affinity_blocks(text: bytes) -> list[int]:
    """Chained hashes of an engine's blocks."""
    chain, found = 0, []
    for at in range(0, len(text) - ENGINE_BLOCK + 1, ENGINE_BLOCK):
        chain = hash((chain, text[at : at + ENGINE_BLOCK]))
        found.append(chain)
    return found


def replay(trace: Sequence[Request], router: Router, gateways: int, capacity: int) -> Json:
    """Send the trace through so many gateways that know nothing of each other; the first tenth warms the caches."""
    dice = random.Random(7)
    engines = [Engine(capacity) for _ in range(ENGINES)]
    remembered = max(1, capacity * ENGINE_BLOCK // affinity.BLOCK_BYTES)
    views = [[Caching(f"engine-{n}") for n in range(ENGINES)] for _ in range(gateways)]
    for pod in (pod for view in views for pod in view):
        pod.prefixes.capacity = remembered
    endings: list[tuple[float, int, int, int, list[int]]] = []
    hit = asked = 0
    latencies: list[float] = []
    warm = len(trace) // 10
    for number, request in enumerate(trace):
        while endings and endings[0][0] <= request.at:
            _, _, view, index, computed = heapq.heappop(endings)
            views[view][index].in_flight -= 1
            engines[index].keep(computed)
        view = dice.randrange(gateways)
        index = router(views[view], engines, request, affinity.blocks(request.prompt), number)
        engine, own = engines[index], affinity_blocks(request.prompt)
        matched = engine.matched(own)
        engine.keep(own)
        new = (len(request.prompt) - matched * ENGINE_BLOCK) / BYTES_PER_TOKEN * PREFILL_SECONDS
        first = max(request.at, engine.free_at) + new
        engine.free_at = first
        end = first + len(request.answer) / BYTES_PER_TOKEN * DECODE_SECONDS
        if number >= warm:
            hit, asked = hit + matched, asked + len(own)
            engine.busy_seconds += end - request.at
            latencies.append(end - request.at)
        views[view][index].in_flight += 1
        heapq.heappush(endings, (end, number, view, index, affinity_blocks(request.prompt + request.answer)))
    busy = [engine.busy_seconds for engine in engines]
    return {
        "hitRate": hit / asked,
        "maxToMeanLoad": max(busy) / statistics.mean(busy),
        "meanLatencySeconds": statistics.mean(latencies),
    }


LEGS: tuple[tuple[str, Router, int], ...] = (
    ("prefix affinity", by_affinity, 1),
    ("prefix affinity, two gateways", by_affinity, 2),
    ("least loaded", by_load, 1),
    ("oracle", by_oracle, 1),
)
WORKLOADS = {"chats": chats, "system prompts": system_prompts, "no reuse": strangers}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.affinity", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    parser.add_argument("--seconds", type=float, default=1800, help="length of each trace")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    results: Json = {}
    for workload, make in WORKLOADS.items():
        rows: dict[str, list[Json]] = {name: [] for name, _, _ in LEGS}
        for seed in range(given.seeds):
            trace = list(make(random.Random(seed), given.seconds))
            working = statistics.mean(request.alive for request in trace)
            capacity = max(1, int(CACHE_SHARE * working / ENGINES / ENGINE_BLOCK))
            for name, router, gateways in LEGS:
                rows[name].append(replay(trace, router, gateways, capacity))
        results[workload] = show(workload, rows)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))


def show(workload: str, rows: dict[str, list[Json]]) -> Json:
    """A table of the means over the seeds."""
    means = {
        name: {figure: statistics.mean(row[figure] for row in found) for figure in found[0]}
        for name, found in rows.items()
    }
    print(f"\n{workload:32} hit rate   of oracle   of least loaded   max/mean load   mean latency s")
    for name, row in means.items():
        rates = [row["hitRate"] / max(1e-9, means[other]["hitRate"]) for other in ("oracle", "least loaded")]
        shown = [f"{rate:9.3f}" if row["hitRate"] > 0.001 else "        -" for rate in rates]
        print(
            f"{name:32} {row['hitRate']:8.3f}   {shown[0]}   {shown[1]:>15}   {row['maxToMeanLoad']:13.3f}   "
            f"{row['meanLatencySeconds']:14.3f}",
            flush=True,
        )
    return means


if __name__ == "__main__":
    main()
