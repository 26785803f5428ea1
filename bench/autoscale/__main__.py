"""`python -m bench.autoscale`: what the autoscaler costs and how fast it is. A table, and JSON with --json.

Legs: the Azure LLM inference trace 2023 (Microsoft, AzurePublicDataset, CC BY 4.0; Patel et al., "Splitwise", ISCA
2024) against a clairvoyant scaler at the same p95 wait; traffic that varies by 30 % for ten minutes; a step in load
from the gateway's line on a real stream to the decision; and, as root, steps, wakes and a thousand held requests with
a real API server, controllers, operator and gateway (`live`), beside a bare script that patches scale.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from llmops.cli.simulate import read
from llmops.judge.scaling import Limits, Memory, Scale, decide
from llmops.judge.simulation import Fleet, Request, autoscaler, clairvoyant, simulate
from llmops.shell.signals import Signals

TRACE = Path(__file__).parents[2] / "tests" / "data" / "azure-llm-2023-conv.csv"
MODEL = "bench/model"
LEGS = ("trace", "noise", "line", "live")
Json = dict[str, Any]


def main() -> None:
    """Run the legs asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.autoscale", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    parser.add_argument("--quick", action="store_true", help="one configuration of the trace instead of eight")
    parser.add_argument("--steps", type=int, default=200, help="number of steps in load, from line to decision")
    parser.add_argument("--rounds", type=int, default=100, help="number of steps on the real API server")
    parser.add_argument("--wakes", type=int, default=30, help="number of wakes from zero")
    parser.add_argument("--only", choices=LEGS, help="one leg")
    options = parser.parse_args()
    legs: dict[str, Callable[[], Any]] = {
        "trace": lambda: list(traces(quick=options.quick)),
        "noise": lambda: list(noise()),
        "line": lambda: asyncio.run(steps(options.steps)),
        "live": lambda: live(options.rounds, options.wakes),
    }
    results = {name: legs[name]() for name in LEGS if options.only in (None, name)}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def live(rounds: int, wakes: int) -> Json | None:
    """Steps and wakes on a real API server, in a network namespace of its own."""
    if os.geteuid() or not shutil.which("unshare"):
        print("\nleft out: the legs on a real API server need root and unshare(1)")
        return None
    command = ["unshare", "--net", sys.executable, "-m", "bench.autoscale.live", str(rounds), str(wakes)]
    found: Json = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"\nreal API server, milliseconds, load average {os.getloadavg()[0]:.1f}         p50      p99      max")
    for title, leg in (("step in load to new size", "step"), ("answer from zero, less the engine's start", "wake")):
        for who in ("ours", "bare script"):
            figures = found[leg][who]
            print(f"{title:42} {who:11} {figures['p50']:8.1f} {figures['p99']:8.1f} {figures['max']:8.1f}")
    stages = ", ".join(f"{stage} {at}" for stage, at in found["wake"]["slowest, ms"].items())
    print(f"slowest wake, with the engine's start: {stages}")
    held = found["held"]
    print(
        f"{held['asked']} held requests: {held['answered']} answered, the farthest {held['farthest from its place']} "
        f"from its place (16 at once), all after {held['seconds']} s"
    )
    print(f"operator restarted under load: sizes seen {found['restart']['sizes seen']}")
    whole = found["continuity"]
    print(f"{whole['streams answered']} streams during {', '.join(whole['changes'])}: {whole['failed']} failed")
    return found


def traces(*, quick: bool) -> Iterator[Json]:
    """The recorded hour: from one ready replica (cold), and from as many as it needs (warm).

    The clairvoyant needs neither patience nor steps; the one under the same rules waits out the stabilization time and
    grows by doubling or four, as the user asked of the autoscaler: the second ratio is the price of not knowing.
    """
    trace = read(TRACE)
    cases = [(16, 60, 1), (16, 60, 3), (32, 60, 1), (8, 60, 1), (8, 60, 5), (4, 60, 1), (16, 30, 1), (16, 120, 1)]
    print("slots  load s  first   replica-s  clairvoyant   ratio   under the same rules   ratio   p95 wait  reversals")
    for slots, load_seconds, first in cases[: 1 if quick else None]:
        limits = Limits(minimum=1, maximum=30, concurrency=slots)
        fleet = Fleet(slots=slots, load_seconds=load_seconds, first=first)
        ours = simulate(trace, autoscaler(limits), fleet)
        best, bound = (
            clairvoyant(trace, limits, fleet, wait_seconds=ours.wait(0.95), obeying=obeying)
            for obeying in (False, True)
        )
        ratio, bound_ratio = (ours.replica_seconds / other.replica_seconds for other in (best, bound))
        print(
            f"{slots:5}  {load_seconds:6}  {first:5}  {ours.replica_seconds:10.0f}  {best.replica_seconds:11.0f}  "
            f"{ratio:6.3f}   {bound.replica_seconds:20.0f}  {bound_ratio:6.3f}  {ours.wait(0.95):9.2f}  "
            f"{ours.reversals:9}",
            flush=True,
        )
        yield {
            "slots": slots,
            "loadSeconds": load_seconds,
            "first": first,
            "replicaSeconds": ours.replica_seconds,
            "clairvoyantReplicaSeconds": best.replica_seconds,
            "ratio": ratio,
            "clairvoyantUnderTheSameRulesReplicaSeconds": bound.replica_seconds,
            "ratioUnderTheSameRules": bound_ratio,
            "p95WaitSeconds": ours.wait(0.95),
            "reversals": ours.reversals,
        }


def noise() -> Iterator[Json]:
    """Ten minutes of Poisson arrivals whose rate is drawn anew every second, 30 % up or down; twenty seeds a level."""
    print("\nnoise of 30 %: mean concurrency   changes of size   reversals (20 runs)")
    limits, fleet = Limits(minimum=1, maximum=20, concurrency=16), Fleet(slots=64, load_seconds=30, first=3)
    for rate in (4.0, 6.0, 8.0, 9.5, 12.0):
        changes = reversals = 0
        for seed in range(20):
            dice = random.Random(seed)
            outcome = simulate(list(_arrivals(dice, rate)), autoscaler(limits), fleet)
            within = [at for at, _ in outcome.changes if 0 < at <= 600]
            changes, reversals = changes + len(within), reversals + outcome.reversals
        print(f"{rate * 5:31.0f}   {changes:15}   {reversals:9}")
        yield {"meanConcurrency": rate * 5, "changes": changes, "reversals": reversals, "runs": 20}


def _arrivals(dice: random.Random, rate: float) -> Iterator[Request]:
    for second in range(600):
        now = rate * dice.uniform(0.7, 1.3)
        at = second + dice.expovariate(now)
        while at < second + 1:
            yield Request(at, 5.0)
            at += dice.expovariate(now)


async def steps(count: int) -> Json:
    """From the moment a gateway writes its line to the decision that grows, through a real HTTP stream."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    server, url = await _gateway(lines)
    woken = asyncio.Event()
    signals = Signals(lambda _key: woken.set())
    signals.update_gateways([url])
    limits, scale = Limits(minimum=1, maximum=20, concurrency=16), Scale(wanted=1, ready=1)
    milliseconds: list[float] = []
    cpu = time.process_time()
    try:
        for _ in range(count):
            for in_flight, grows in ((8, False), (24, True)):
                woken.clear()
                begin = loop.time()
                told = {"model": MODEL, "arrivals": in_flight, "inFlight": in_flight, "waiting": 0, "lastEnd": None}
                lines.put_nowait(json.dumps(told).encode() + b"\n")
                async with asyncio.timeout(5):
                    while (load := signals.load(MODEL)) is None or load.in_flight != in_flight:
                        await woken.wait()
                        woken.clear()
                decision = decide(limits, load, scale, datetime.now(UTC), Memory())
                if grows:
                    milliseconds.append((loop.time() - begin) * 1000)
                    assert decision.replicas > 1
    finally:
        cpu = time.process_time() - cpu
        await signals.close()
        await server.cleanup()
    p50, p99 = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=100)[98]
    each = cpu / count / 2 * 1e6
    print(
        f"\nstep 0.5 to 1.5 of the target, line to decision: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
        f"CPU {each:.0f} us a line (both ends)"
    )
    return {"p50Milliseconds": p50, "p99Milliseconds": p99, "cpuMicrosecondsPerLine": each, "steps": count}


async def _gateway(lines: asyncio.Queue[bytes]) -> tuple[web.AppRunner, str]:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"gateway":"bench","version":1}\n{"heartbeat":true}\n')
        while True:
            try:
                async with asyncio.timeout(1):
                    line = await lines.get()
            except TimeoutError:
                line = b'{"heartbeat":true}\n'
            await response.write(line)

    app = web.Application()
    app.router.add_get("/loadstream", stream)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    return runner, f"http://127.0.0.1:{port}/loadstream"


if __name__ == "__main__":
    main()
