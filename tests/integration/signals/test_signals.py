"""The operator's end of the load stream, against gateways that are real HTTP servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from llmops.shell.signals import Signals

MODEL = "team-a/support"
DEADLINE_SECONDS = 180.0


class Gateway:
    """A gateway process as far as the operator can see: it says hello, then whatever the test says."""

    def __init__(self) -> None:
        self.snapshot: list[dict[str, Any]] = []
        self.version = 1
        self.connections = 0
        self.silent = False
        self._responses: list[web.StreamResponse] = []
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/load"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/load", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        for response in self._responses:
            if response._req is not None and response._req.transport is not None:
                response._req.transport.abort()
        self._responses.clear()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.connections += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await self._write(response, {"gateway": "gw-0", "version": self.version})
        for line in self.snapshot:
            await self._write(response, line)
        self._responses.append(response)
        while True:
            if not self.silent:
                await self._write(response, {"heartbeat": True})
            await asyncio.sleep(0.05)

    async def say(self, **line: Any) -> None:
        for response in self._responses:
            await self._write(response, {"model": MODEL, **line})

    @staticmethod
    async def _write(response: web.StreamResponse, line: dict[str, Any]) -> None:
        await response.write(json.dumps(line).encode() + b"\n")


async def until(true: Callable[[], bool]) -> None:
    """Wait for it, at most DEADLINE_SECONDS."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for is a question, not an event
            await asyncio.sleep(0.005)


Scenario = Callable[[Signals, list[Gateway], list[str]], Awaitable[None]]


def play(scenario: Scenario, gateways: int = 1) -> None:
    """Run a scenario with that many gateways; whatever happens, everything is closed."""

    async def main() -> None:
        woken: list[str] = []
        peers = [Gateway() for _ in range(gateways)]
        for peer in peers:
            await peer.start()
        signals = Signals(woken.append, silence_seconds=0.5)
        try:
            await scenario(signals, peers, woken)
        finally:
            await signals.close()
            for peer in peers:
                await peer.stop()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, "every stream task has ended"

    asyncio.run(main())


def known(signals: Signals) -> bool:
    load = signals.load(MODEL)
    return load is not None and not load.partial


def test_nothing_is_known_without_gateways() -> None:
    async def scenario(signals: Signals, _peers: list[Gateway], _woken: list[str]) -> None:
        assert signals.load(MODEL) is None
        signals.update_gateways([])
        assert signals.load(MODEL) is None

    play(scenario)


def test_a_silent_model_of_a_heard_gateway_is_a_true_zero() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        signals.update_gateways([peers[0].url])
        await until(lambda: known(signals))
        load = signals.load(MODEL)
        assert load is not None
        assert (load.in_flight, load.waiting, load.last_end) == (0, 0, None)

    play(scenario)


def test_a_line_wakes_its_model_and_sums_over_gateways() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], woken: list[str]) -> None:
        signals.update_gateways([peer.url for peer in peers])
        await until(lambda: known(signals))
        woken.clear()
        started = asyncio.get_running_loop().time()
        await peers[0].say(
            arrivals=3, inFlight=2, waiting=1, promptTokens=9, completionTokens=4, lastEnd=1_700_000_000.5
        )
        await until(lambda: MODEL in woken)
        assert asyncio.get_running_loop().time() - started < 0.1
        await peers[1].say(arrivals=5, inFlight=4, waiting=0, promptTokens=0, completionTokens=0, lastEnd=None)
        await until(lambda: woken.count(MODEL) == 2)
        load = signals.load(MODEL)
        assert load is not None
        assert (load.in_flight, load.waiting) == (6, 1)
        assert load.recent_requests_per_second == pytest.approx(8 / 15)
        assert load.last_end is not None
        assert load.last_end.timestamp() == pytest.approx(1_700_000_000.5)

    play(scenario, gateways=2)


def test_requests_that_already_run_are_known_with_the_first_heartbeat() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        peers[0].snapshot = [{"model": MODEL, "arrivals": 0, "inFlight": 7, "waiting": 0, "lastEnd": None}]
        signals.update_gateways([peers[0].url])
        await until(lambda: known(signals))
        load = signals.load(MODEL)
        assert load is not None
        assert load.in_flight == 7

    play(scenario)


def test_silence_makes_the_load_unknown_and_wakes() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], woken: list[str]) -> None:
        signals.update_gateways([peers[0].url])
        await until(lambda: known(signals))
        woken.clear()
        peers[0].silent = True
        await until(lambda: signals.load(MODEL) is None)
        assert MODEL in woken
        peers[0].silent = False
        await until(lambda: known(signals))

    play(scenario)


def test_a_gateway_that_dies_and_returns() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        signals.update_gateways([peers[0].url])
        await until(lambda: known(signals))
        before = signals.load(MODEL)
        await peers[0].say(arrivals=1, inFlight=1, waiting=0, lastEnd=None)
        await until(lambda: (load := signals.load(MODEL)) is not None and load.in_flight == 1)
        await peers[0].stop()
        await until(lambda: signals.load(MODEL) is None)
        await peers[0].start()
        await until(lambda: known(signals))
        after = signals.load(MODEL)
        assert before is not None
        assert after is not None
        assert after.in_flight == 0, "what the dead process counted has ended with it"
        assert after.since > before.since, "known without a gap only since the return"
        assert after.last_end is not None, "the request that was cut off ended no later than the return"

    play(scenario)


def test_one_lost_gateway_of_two_leaves_a_lower_bound() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        signals.update_gateways([peer.url for peer in peers])
        await until(lambda: known(signals))
        await peers[1].stop()
        await until(lambda: not known(signals))
        await peers[0].say(arrivals=1, inFlight=0, waiting=1, lastEnd=None)
        await until(lambda: (load := signals.load(MODEL)) is not None and load.waiting == 1)
        load = signals.load(MODEL)
        assert load is not None
        assert load.partial
        signals.update_gateways([peers[0].url])  # its pod is gone
        assert known(signals)

    play(scenario, gateways=2)


def test_another_protocol_version_is_unknown_not_zero() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        peers[0].version = 2
        signals.update_gateways([peers[0].url])
        await until(lambda: peers[0].connections >= 2)
        assert signals.load(MODEL) is None

    play(scenario)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param({"inFlight": -1}, id="a negative count"),
        pytest.param({"model": "no-namespace"}, id="a name without a namespace"),
        pytest.param({"inFlight": "many"}, id="a word for a number"),
    ],
)
def test_a_line_that_makes_no_sense_loses_the_stream(line: dict[str, Any]) -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        signals.update_gateways([peers[0].url])
        await until(lambda: known(signals))
        await peers[0].say(**line)
        await until(lambda: signals.load(MODEL) is None)
        await until(lambda: known(signals))

    play(scenario)


def test_a_forgotten_model_starts_over() -> None:
    async def scenario(signals: Signals, peers: list[Gateway], _woken: list[str]) -> None:
        signals.update_gateways([peers[0].url])
        await until(lambda: known(signals))
        await peers[0].say(arrivals=1, inFlight=1, waiting=0, lastEnd=None)
        await until(lambda: (load := signals.load(MODEL)) is not None and load.in_flight == 1)
        signals.forget(MODEL)
        load = signals.load(MODEL)
        assert load is not None
        assert load.in_flight == 0

    play(scenario)
