"""What the gateway asks pods itself: whether one that requests wait for is up, and how much its prefix cache holds.

A kubelet's readiness probe takes seconds; a request that waits should not. So while requests wait for a model, its
pods that have an address but are not ready yet, and those where nobody listened, are asked every `PROBE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import re

import aiohttp

from llmops_serving.gateway.affinity import BLOCK_BYTES, BYTES_PER_TOKEN, UNKNOWN_CACHE_BLOCKS
from llmops_serving.gateway.gateway import Gateway
from llmops_serving.gateway.lane import Lane
from llmops_serving.gateway.upstream import Pod

PROBE_SECONDS = 0.05
ANSWER_SECONDS = 1.0
_CACHE = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="(\d+)"')


class Prober:
    """Asks pods over HTTP, beside the data path."""

    def __init__(self, gateway: Gateway) -> None:
        """Listens to the gateway from now on."""
        self._gateway = gateway
        self._session: aiohttp.ClientSession | None = None
        self._probing: dict[str, asyncio.Task[None]] = {}
        self._measuring: set[asyncio.Task[None]] = set()
        gateway.on_wait = self.watch
        gateway.on_pod = self.measure

    def watch(self, lane: Lane) -> None:
        """Probe the model's starting pods for as long as requests wait. One task per model, however many wait."""
        key = lane.model.key
        if key not in self._probing:
            task = self._probing[key] = self._gateway.loop.create_task(self._watch(lane))
            task.add_done_callback(lambda _task: self._probing.pop(key, None))

    def measure(self, pod: Pod) -> None:
        """Learn a new pod's cache size, once."""
        task = self._gateway.loop.create_task(self._measure(pod))
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    async def close(self) -> None:
        """Stop everything."""
        tasks = [*self._probing.values(), *self._measuring]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _watch(self, lane: Lane) -> None:
        while lane.waiting:
            away = [*lane.starting, *(pod for pod in lane.pods if pod.unreachable)]
            healthy = await asyncio.gather(*map(self._healthy, away))
            for pod, up in zip(away, healthy, strict=True):
                if up:
                    self._gateway.found_ready(lane, pod)
            await asyncio.sleep(PROBE_SECONDS)

    async def _healthy(self, pod: Pod) -> bool:
        return await self._get(pod, "/health") is not None

    async def _measure(self, pod: Pod) -> None:
        text = await self._get(pod, "/metrics")
        if text is not None:
            pod.prefixes.capacity = cache_blocks(text)

    async def _get(self, pod: Pod, path: str) -> str | None:
        """The text of a 200, None for everything else."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), trust_env=False, connector=aiohttp.TCPConnector()
            )
        try:
            async with self._session.get(f"http://{pod.address}{path}") as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None


def cache_blocks(metrics: str) -> int:
    """How many blocks of prompt an engine's prefix cache holds, by vLLM's `vllm:cache_config_info`."""
    found = _CACHE.search(metrics)
    labels = dict(_LABEL.findall(found[1])) if found else {}
    tokens = int(labels.get("num_gpu_blocks", 0)) * int(labels.get("block_size", 0))
    return max(1, tokens * BYTES_PER_TOKEN // BLOCK_BYTES) if tokens else UNKNOWN_CACHE_BLOCKS
