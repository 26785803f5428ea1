"""How fast load becomes replicas and a sleeping model an answer, beside a bare script that patches scale.

Run in `world`: real API server, controllers, operator and gateway, a stub engine that starts in `ENGINE_SECONDS`.
Every round visits both legs, so that what disturbs the machine disturbs both.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.autoscale.world import ENGINE_SECONDS, SPACE, Engine, World, world
from llmops import names
from llmops.shell.resources import DEPLOYMENT, LLM_DEPLOYMENT, POD

TARGET = 16
HELD = 1000
Json = dict[str, Any]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def main(rounds: int, wakes: int) -> Json:
    """Every leg; figures in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="bench-autoscale-") as folder:
        return asyncio.run(_measure(Path(folder), rounds, wakes))


async def _measure(folder: Path, rounds: int, wakes: int) -> Json:
    async with world(folder) as made:
        await _prepare(made)
        return {
            "step": await steps(made, rounds),
            "restart": await restart(made),
            "wake": await wake(made, wakes),
            "held": await held(made),
            "continuity": await continuity(made),
        }


async def _prepare(made: World) -> None:
    await _apply(made, "steady", minReplicas=1, maxReplicas=8)
    await _apply(made, "sleeper", minReplicas=0, maxReplicas=1, scaleToZeroAfterSeconds=1)
    for name in ("bare-step", "bare-wake"):
        await _bare(made, name)
    await made.until(lambda: made.sizes.get("steady-engine") == 1, "the first replica")
    await _ask("steady", made.gateway)


async def steps(made: World, rounds: int) -> Json:
    """From half of the target to one and a half: from the first byte of the first new request to the new size."""
    ours, bare = [], []
    path = LLM_DEPLOYMENT.path(SPACE, "steady")
    async with _streams(made, "steady", TARGET // 2):
        for _ in range(rounds):
            begun = time.perf_counter()
            async with _streams(made, "steady", TARGET):
                ours.append(await made.until(lambda: made.sizes["steady-engine"] > 1, "more replicas") - begun)
            await made.patch(path, {"spec": {"autoscaling": {"maxReplicas": 1}}})
            await made.until(lambda: made.sizes["steady-engine"] == 1, "one replica again")
            await made.patch(path, {"spec": {"autoscaling": {"maxReplicas": 8}}})
            begun = time.perf_counter()
            await _scale(made, "bare-step", 1)
            bare.append(await made.until(lambda: made.sizes["bare-step"] == 1, "the bare one") - begun)
            await _scale(made, "bare-step", 0)
            await made.until(lambda: made.sizes["bare-step"] == 0, "none")
            await asyncio.sleep(0.3)  # so that the last round's lines and looks are over
    return {"ours": _summary(ours), "bare script": _summary(bare), "rounds": rounds}


async def restart(made: World) -> Json:
    """The operator goes and comes under load that two replicas carry: no size may change."""
    async with _streams(made, "steady", TARGET * 3 // 2):
        await made.until(lambda: made.sizes["steady-engine"] > 1, "more replicas")
        await asyncio.sleep(1)
        seen = {made.sizes["steady-engine"]}

        def look() -> bool:
            seen.add(made.sizes["steady-engine"])
            return False

        made.stop("operator")
        made.start_operator()
        async with made.changed:
            try:
                async with asyncio.timeout(20):
                    await made.changed.wait_for(look)
            except TimeoutError:
                pass
    return {"sizes seen": sorted(seen)}


async def wake(made: World, rounds: int) -> Json:
    """From zero: a request until its answer, less the engine's start; and a script that does only what it must."""
    ours, bare, stages = [], [], []
    for _ in range(rounds):
        await made.until(lambda: "sleeper" not in made.addresses, "sleep")
        begun = time.perf_counter()
        times = await asyncio.gather(*map(asyncio.create_task, _stages(made)))
        stages.append({name: round((at - begun) * 1000) for name, at in zip(STAGES, times, strict=True)})
        ours.append(times[-1] - begun - ENGINE_SECONDS)
        begun = time.perf_counter()
        await _scale(made, "bare-wake", 1)
        await made.until(lambda: "bare-wake" in made.addresses, "a pod")
        await _healthy(made.addresses["bare-wake"])
        await _ask("bare-wake", made.addresses["bare-wake"], names.ENGINE_PORT)
        bare.append(time.perf_counter() - begun - ENGINE_SECONDS)
        await _scale(made, "bare-wake", 0)
        await made.until(lambda: "bare-wake" not in made.addresses, "no pod")
    slowest = max(stages, key=lambda stage: stage[STAGES[-1]])
    both = {"ours": _summary(ours), "bare script": _summary(bare)}
    return {**both, "rounds": rounds, "engine seconds": ENGINE_SECONDS, "slowest, ms": slowest}


STAGES = ("scale patched", "pod made", "engine listens", "answered")


def _stages(made: World) -> Iterator[Coroutine[Any, Any, float]]:
    """When a sleeping model's wake gets where, once the last of them has asked."""
    yield made.until(lambda: made.sizes["sleeper-engine"] == 1, "the new size")
    yield made.until(lambda: "sleeper" in made.addresses, "a pod")
    yield made.until(lambda: made.addresses.get("sleeper") in made.listening, "an engine")

    async def asked() -> float:
        await _ask("sleeper", made.gateway)
        return time.perf_counter()

    yield asked()


async def held(made: World) -> Json:
    """A thousand requests for a sleeping model: how many are answered, and how far from their place in the queue."""
    await made.until(lambda: "sleeper" not in made.addresses, "sleep")
    Engine.order.clear()
    connections = [await asyncio.open_connection(made.gateway, names.GATEWAY_PORT) for _ in range(HELD)]
    begun = time.perf_counter()
    for number, (_, writer) in enumerate(connections):
        writer.write(_request("sleeper", number=number))
    heads = await asyncio.gather(*(reader.readline() for reader, _ in connections))
    seconds = time.perf_counter() - begun
    for _, writer in connections:
        writer.close()
    order = [int(each) for each in Engine.order]
    return {
        "asked": HELD,
        "answered": sum(b" 200 " in head for head in heads),
        "reached the engine": len(set(order)),
        "farthest from its place": max((abs(number - place) for place, number in enumerate(order)), default=0),
        "seconds": round(seconds, 2),
    }


async def continuity(made: World) -> Json:
    """People stream while everything is changed under them: who is not answered to the end, and why."""
    path = LLM_DEPLOYMENT.path(SPACE, "many")
    await _apply(made, "many", minReplicas=1, maxReplicas=8)
    await made.until(lambda: made.sizes.get("many-engine") == 1, "the first replica")
    await _ask("many", made.gateway)
    answered, failures = 0, list[str]()
    stopping = asyncio.Event()

    async def person() -> None:
        nonlocal answered
        while not stopping.is_set():
            try:
                await _whole_stream(made.gateway, "many")
                answered += 1
            except (OSError, EOFError) as error:
                failures.append(repr(error))

    async def sized(least: int) -> None:
        await made.patch(path, {"spec": {"autoscaling": {"minReplicas": least, "maxReplicas": max(least, 1)}}})
        await made.until(lambda: _settled(made, least), f"{least} ready replicas", 120)

    people = [asyncio.create_task(person()) for _ in range(12)]
    done = []
    await sized(3)
    done.append("1 to 3")
    lost = next(name for name, owner in made.pods.items() if owner == "many")
    await made.http.request("DELETE", POD.path(SPACE, lost))
    await made.until(lambda: lost not in made.pods and _settled(made, 3), "another pod", 120)
    done.append("a pod deleted")
    old = {name for name, owner in made.pods.items() if owner == "many"}
    await made.patch(path, {"spec": {"engine": {"maxModelLen": 128}}})
    await made.until(lambda: not old & made.pods.keys() and _settled(made, 3), "new pods only", 240)
    done.append("engine arguments changed")
    await made.replace_gateway()
    done.append("gateway replaced")
    made.stop("operator")
    made.start_operator()
    await sized(1)
    done.append("operator restarted, 3 to 1")
    await asyncio.sleep(2)
    stopping.set()
    await asyncio.gather(*people)
    return {"streams answered": answered, "failed": len(failures), "why": sorted(set(failures))[:3], "changes": done}


def _settled(made: World, replicas: int) -> bool:
    deployment = made.deployments["many-engine"]
    state = deployment["status"]
    return bool(
        state.get("observedGeneration", 0) == deployment["metadata"]["generation"]
        and state.get("updatedReplicas") == state.get("readyReplicas") == state.get("replicas") == replicas
        and sum(owner == "many" for owner in made.pods.values()) == replicas
    )


async def _whole_stream(host: str, model: str) -> None:
    """One stream on a connection of its own, to its end; EOFError when it ends early."""
    reader, writer = await asyncio.open_connection(host, names.GATEWAY_PORT)
    try:
        writer.write(_request(model, stream=True, tokens=5))
        text = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
    finally:
        writer.close()
    if b" 200 " not in text[:20] or b"[DONE]" not in text or b'"error"' in text:
        raise EOFError(text[:300])


async def _apply(made: World, name: str, **autoscaling: Any) -> None:
    auto = {"target": {"concurrency": TARGET}, "scaleDownStabilizationSeconds": 0, **autoscaling}
    spec = {"model": {"source": "oci://models/tiny:1"}, "autoscaling": auto, "gateway": {"maxHeld": HELD}}
    manifest = {"apiVersion": names.API_VERSION, "kind": "LLMDeployment", "spec": spec}
    await made.cluster.apply({**manifest, "metadata": {"name": name, "namespace": SPACE}}, manager="bench")


async def _bare(made: World, name: str) -> None:
    container = {"name": "engine", "image": "engine:1"}
    labels = {names.LABEL_DEPLOYMENT: name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}
    await made.cluster.apply({**manifest, "metadata": {"name": name, "namespace": SPACE}}, manager="bench")


async def _scale(made: World, name: str, replicas: int) -> None:
    await made.patch(DEPLOYMENT.path(SPACE, name, "scale"), {"spec": {"replicas": replicas}})


def _request(model: str, *, stream: bool = False, number: int = 0, tokens: int = 100_000) -> bytes:
    document = {"model": f"{SPACE}/{model}", "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
    body = json.dumps({**document, **({"stream": True} if stream else {})}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nX-Number: {number}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _ask(model: str, host: str, port: int = names.GATEWAY_PORT) -> None:
    """One answer; refusals, as before the gateway has heard of the model, are asked again."""
    for _ in range(300):
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.write(_request(model))
        head = await reader.readline()
        writer.close()
        if b" 200 " in head:
            return
        await asyncio.sleep(0.1)
    raise SystemExit(f"{model} does not answer: {head!r}")


async def _healthy(address: str) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, names.ENGINE_PORT)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.write(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")
        await reader.readline()
        writer.close()
        return


@asynccontextmanager
async def _streams(made: World, model: str, count: int) -> AsyncIterator[None]:
    """So many answers under way at once, until the block is left."""
    connections: list[Connection] = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection(made.gateway, names.GATEWAY_PORT)
            connections.append((reader, writer))
            writer.write(_request(model, stream=True))
        yield
    finally:
        for _, writer in connections:
            writer.close()


def _summary(seconds: Sequence[float]) -> Json:
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered) * 1000, 1),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 1),
        "max": round(ordered[-1] * 1000, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
