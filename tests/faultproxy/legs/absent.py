"""The operator is not there for a while: those who use models do not notice, and those who delete need not wait."""

from __future__ import annotations

import time
from pathlib import Path

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually
from tests.apiserver.traffic import Gateway, Streams, engine
from tests.faultproxy.lane import Lane, ground
from tests.faultproxy.models import Models
from tests.faultproxy.page import Section

CLIENTS = 4


def absence(plane: ControlPlane, directory: Path, seconds: float) -> tuple[int, list[str], float]:
    """Answers that came whole while no operator ran, the others, and the seconds a deletion took until all was gone."""
    with Lane(plane, directory, "absent", ["absent-work"]) as lane:
        models = Models(lane, 2)
        models.create()
        assert models.settled() < float("inf"), models.lagging()
        gateway = Gateway(plane.kubeconfig, directory / "gateway.log", drain_seconds=60)
        eventually(gateway.ready, "the gateway")
        with engine(plane, models.hands.namespace, "m-0"):
            streams = Streams(gateway, f"{models.hands.namespace}/m-0", clients=CLIENTS)
            streams.some()
            lane.stop()
            before = streams.whole
            begun = time.monotonic()
            models.hands.delete("llmdeployments", "m-1")
            eventually(lambda: not left(models, "m-1"), "what is deleted to be gone with its children", 120)
            gone = time.monotonic() - begun
            time.sleep(max(0.0, seconds - gone))
            streams.some()
            streams.end()
            gateway.stop()
            return streams.whole - before, streams.failed, gone


def left(models: Models, name: str) -> list[str]:
    """The object and its children, as far as they are there."""
    found = ["it"] if models.hands.read("llmdeployments", name) else []
    return found + [kind for kind, child in models.hands.children() if child["metadata"]["name"].startswith(name)]


def run(directory: Path, *, long: bool) -> Section:
    seconds = 600 if long else 60
    with ground() as plane:
        whole, failed, gone = absence(plane, directory, seconds)
    text = f"""No operator runs for {seconds} s while {CLIENTS} users stream through a gateway: {whole} answers came
whole, {len(failed)} did not. An LLMDeployment that is deleted meanwhile is gone with its children after {gone:.1f}
s."""
    return Section("absent", "The operator is away", text, tuple(failed[:5]))
