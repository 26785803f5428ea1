"""The gateway against nginx, vllm-router and smg, and against itself. `python -m bench.gateway [--seconds 4]`.

Peers are taken from the PATH and from the folder in `LLMOPS_BENCH_PEERS`; those that are missing are left out and said
to be. Every round visits all legs in turn, so that what disturbs the machine disturbs all of them; CPU time of the
proxy's processes per unit is the figure that a busy machine bends least, and comes first. Other commands:
`python -m bench.gateway fuzz --count 1000000`, `python -m bench.gateway bad --count 10000`,
`python -m bench.gateway streams --count 5000`, `python -m bench.gateway soak --minutes 60`,
`python -m bench.gateway continuity` (on a real node).
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gateway import bad, continuity, fuzz, legs
from bench.gateway.legs import Leg

CONNECTIONS = 32
TOKENS = 64
SOAK_KIB = 1024
TOKEN_SECONDS = 0.005  # so that every token is a read and a write of its own, as from a real engine


@dataclass
class Result:
    """What the rounds of one leg gave."""

    request_cpu_us: list[float] = field(default_factory=list)
    chunk_cpu_us: list[float] = field(default_factory=list)
    requests_per_second: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    errors: int = 0
    memory_mib: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway")
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], metavar="LEG", help="leave the other legs out")
    parser.add_argument("--json", type=Path, help="write the figures there")
    fuzzing = commands.add_parser("fuzz")
    fuzzing.add_argument("--count", type=int, default=1_000_000)
    fuzzing.add_argument("--seed", type=int, default=1)
    refusing = commands.add_parser("bad")
    refusing.add_argument("--count", type=int, default=10_000)
    streaming = commands.add_parser("streams")
    streaming.add_argument("--count", type=int, default=5000)
    soaking = commands.add_parser("soak")
    soaking.add_argument("--minutes", type=float, default=60)
    soaking.add_argument("--rate", type=float, default=100, help="requests per second")
    lasting = commands.add_parser("continuity")
    lasting.add_argument("--people", type=int, default=2, help="clients that stream all the time")
    lasting.add_argument("--replicas", type=int, default=3, help="the size between 1 and 1")
    given = parser.parse_args()
    if given.command == "continuity":
        return continuity.main(given.people, given.replicas, given.json)
    if given.command == "soak":
        return soak(given.minutes, given.rate)
    if given.command == "fuzz":
        return fuzz.main(given.count, given.seed)
    if given.command == "bad":
        return refusals(given.count)
    if given.command == "streams":
        return streams(given.count)
    return compare(given.seconds, given.rounds, given.json, given.only)


def load(leg: Leg, seconds: float, *flags: str, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Run the load generator once, and add the leg's CPU time."""
    before = leg.cpu_seconds()
    command = [sys.executable, "-m", "bench.gateway.client", str(leg.port), str(connections), str(seconds), *flags]
    if leg.key:
        command += ["--key", leg.key]
    figures: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=legs.ROOT))
    figures["cpu"] = leg.cpu_seconds() - before
    return figures


def compare(seconds: float, rounds: int, path: Path | None, only: Sequence[str]) -> int:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        ports = legs.free_ports(4)
        stub = legs.engines(directory, ports, token_seconds=TOKEN_SECONDS)
        stack.callback(stub.kill)
        makers: dict[str, Callable[[], Leg | None]] = {
            "direct": lambda: Leg("direct", ports[0]),
            "nginx": lambda: legs.nginx(directory, ports),
            "gateway": lambda: legs.gateway(directory, ports),
            "gateway, no keys": lambda: legs.gateway(directory, ports, name="gateway, no keys", keyed=False),
            "gateway, plain Python": lambda: legs.gateway(
                directory, ports, name="gateway, plain Python", compiles=False
            ),
            "vllm-router cache_aware": lambda: legs.router(directory, ports, "vllm-router", "cache_aware", "warning"),
            "vllm-router round_robin": lambda: legs.router(directory, ports, "vllm-router", "round_robin", "warning"),
            "smg cache_aware": lambda: legs.router(directory, ports, "smg", "cache_aware", "warn"),
            "smg round_robin": lambda: legs.router(directory, ports, "smg", "round_robin", "warn"),
        }
        present = []
        for name, make in makers.items():
            if only and name not in only:
                continue
            leg = make()
            if leg is None:
                print(f"{name}: not found and left out (see LLMOPS_BENCH_PEERS)")
                continue
            stack.callback(leg.stop)
            present.append(leg)
        for leg in present:
            legs.wait_until_serving(leg)
        results = measure(present, seconds, rounds)
    show(results)
    if path is not None:
        path.write_text(json.dumps({name: vars(result) for name, result in results.items()}, indent=2))
    return 1 if any(result.errors for name, result in results.items() if name.startswith("gateway")) else 0


def measure(present: list[Leg], seconds: float, rounds: int) -> dict[str, Result]:
    results = {leg.name: Result() for leg in present}
    for leg in present:
        load(leg, 1.0)  # warm: connections, caches
    for _ in range(rounds):
        for leg in present:
            result = results[leg.name]
            plain = load(leg, seconds)
            streamed = load(leg, seconds, "--stream", str(TOKENS))
            calm = load(leg, seconds, "--rate", "500", connections=16)
            result.request_cpu_us.append(plain["cpu"] / max(1, plain["all_requests"]) * 1e6)
            result.chunk_cpu_us.append(streamed["cpu"] / max(1, streamed["all_chunks"]) * 1e6)
            result.requests_per_second.append(plain["requests"] / plain["seconds"])
            result.p50_us.append(calm["p50_us"])
            result.p99_us.append(calm["p99_us"])
            result.errors += plain["errors"] + streamed["errors"] + calm["errors"]
            result.memory_mib = leg.memory_bytes() / 2**20
    return results


def show(results: dict[str, Result]) -> None:
    middle = statistics.median
    print(f"{CONNECTIONS} connections, 1.3 KB chats, streams of {TOKENS} tokens; medians of the rounds")
    print(f"{'':24}{'CPU/request':>12}{'CPU/chunk':>11}{'requests/s':>12}{'p50':>9}{'p99':>9}{'errors':>8}{'MiB':>7}")
    print(f"{'':24}{'µs':>12}{'µs':>11}{'':>12}{'µs at 500 requests/s':>22}")
    for name, result in results.items():
        print(
            f"{name:24}{middle(result.request_cpu_us):12.1f}{middle(result.chunk_cpu_us):11.1f}"
            f"{middle(result.requests_per_second):12.0f}{middle(result.p50_us):9.0f}{middle(result.p99_us):9.0f}"
            f"{result.errors:8}{result.memory_mib:7.0f}"
        )


def refusals(count: int) -> int:
    """Bad requests of thirty kinds at a whole gateway: what each was answered with, and what is left of them."""
    rng = random.Random(1)
    wrong: list[str] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        ports = legs.free_ports(1)
        stub = legs.engines(directory, ports)
        stack.callback(stub.kill)
        leg = legs.gateway(directory, ports, keyed=False)
        stack.callback(leg.stop)
        legs.wait_until_serving(leg)
        before = leg.memory_bytes()
        for _ in range(count // len(bad.KINDS) + 1):
            for kind, (make, statuses) in bad.KINDS.items():
                with socket.create_connection(("127.0.0.1", leg.port), 10) as connection:
                    connection.sendall(make(rng))
                    found = connection.recv(64)
                if int(found[9:12] or 0) not in statuses:
                    wrong.append(f"{kind}: {found!r}")
        legs.wait_until_serving(leg)
        grown = leg.memory_bytes() - before
    total = (count // len(bad.KINDS) + 1) * len(bad.KINDS)
    print(f"{total} bad requests of {len(bad.KINDS)} kinds: {len(wrong)} not refused as they should be, {grown} B left")
    print("\n".join(wrong[:10]))
    return 1 if wrong else 0


def streams(count: int) -> int:
    """Many slow streams at once: errors, and memory for each of them."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        ports = legs.free_ports(4)
        stub = legs.engines(directory, ports, token_seconds=0.5)
        stack.callback(stub.kill)
        leg = legs.gateway(directory, ports)
        stack.callback(leg.stop)
        legs.wait_until_serving(leg)
        before = leg.memory_bytes()
        command = [sys.executable, "-m", "bench.gateway.client", str(leg.port), str(count), "6", "--stream", "40"]
        client = subprocess.Popen([*command, "--key", leg.key], cwd=legs.ROOT, stdout=subprocess.PIPE)
        peak = before
        while client.poll() is None:
            peak = max(peak, leg.memory_bytes())
            try:
                client.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        output = client.stdout.read() if client.stdout else b""
        figures = json.loads(output)
    print(
        f"{count} streams: {figures['all_requests']} answered, {figures['errors']} errors, "
        f"{(peak - before) / count / 1024:.1f} KiB each ({before / 2**20:.0f} -> {peak / 2**20:.0f} MiB)"
    )
    return 1 if figures["errors"] else 0


def soak(minutes: float, rate: float) -> int:
    """Prompts that are never asked twice, streams, bad requests, new connections: what is left of them in memory.

    The first half fills what is bounded: prefixes per engine, Python's own pools. The second half must stay flat.
    """
    rng, rounds, errors = random.Random(1), max(2, round(minutes * 2)), 0
    asked = 1
    resident: list[int] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        ports = legs.free_ports(4)
        stack.callback(legs.engines(directory, ports, token_seconds=TOKEN_SECONDS).kill)
        leg = legs.gateway(directory, ports)
        stack.callback(leg.stop)
        legs.wait_until_serving(leg)
        print(f"{'minute':>8}{'requests':>12}{'KiB':>10}")
        for number in range(rounds):
            for flags in ((), ("--stream", "16")):
                figures = load(leg, 14.5, "--rate", str(rate), "--fresh", str(asked), *flags)
                asked, errors = asked + figures["all_requests"], errors + figures["errors"]
            for make, _ in bad.KINDS.values():
                with socket.create_connection(("127.0.0.1", leg.port), 10) as connection:
                    connection.sendall(make(rng))
                    connection.recv(64)
            resident.append(leg.memory_bytes() // 1024)
            if number % max(1, rounds // 20) == 0 or number == rounds - 1:
                print(f"{(number + 1) / 2:8.1f}{asked:12}{resident[-1]:10}", flush=True)
    middle, last = resident[rounds // 2 - 1], resident[-1]
    print(f"{asked} requests, {errors} errors; the second half: {last - middle:+} KiB in {minutes / 2:g} minutes")
    return 1 if errors or last - middle > SOAK_KIB else 0


if __name__ == "__main__":
    sys.exit(main())
