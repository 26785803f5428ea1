"""Drift on a real node: gateway, vLLM, operator, Prometheus 3 and 2 with their Alertmanagers, all of them pods.

Clients send the conversation trace, its lengths scaled down to what the small model takes, and in another order, so
that quiet traffic is quiet. Only time is short: a window of a minute, a patience of seconds. The ten minutes that
Prometheus recorded before are made up of the same requests; they are learned from together with a minute of real ones.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

import httpx
import pytest
import yaml

from hack.cluster.progress import say
from hack.demo.install import MONITORING, ROOT, SYSTEM, Platform
from hack.waiting import eventually
from llmops.api.drift import SERIES, SIGNALS
from tests.e2e.conftest import Space, ask
from tests.integration.drift.live import EXAMPLES, Clients, Request, completing, conversation, recorded

Json = dict[str, Any]
MODEL = "support"
# By the name of the Service; the operator asks the first.
PROGRAMS = {"prometheus": "prometheus-3", "prometheus-2": "prometheus-2"}
PER_SECOND = 8
LESSON_SECONDS = 600
SHARE = 0.3  # of the second workload
PROMPT_SCALE, COMPLETION_SCALE = 32, 8
CONTEXT = 1024  # the longest prompt and the longest answer of the trace, scaled, are 600 tokens together
PORTS = {"llmops-operator": 8081, "llmops-gateway-internal": 9090}  # of metrics, by Service
MANIFEST = ROOT / "hack" / "demo" / "monitoring.yaml"


@dataclass(frozen=True)
class Watcher:
    """One Prometheus with its Alertmanager, asked through the API server."""

    client: httpx.Client
    name: str
    namespace: str  # whose alerts

    def query(self, expression: str) -> list[Json]:
        found: list[Json] = self._ask(9090, "/api/v1/query", query=expression)["data"]["result"]
        return found

    def scrapes(self) -> bool:
        """Whether operator, gateway and engine are found and answer."""
        with suppress(httpx.HTTPStatusError):  # the Service has no address yet
            ports = {each["metric"]["instance"].rpartition(":")[2] for each in self.query('up{job="llmops"} == 1')}
            engine = self.query(f'up{{job="llmops-engines",namespace="{self.namespace}",model="{MODEL}"}} == 1')
            return ports == set(map(str, PORTS.values())) and bool(engine)
        return False

    def fires(self) -> bool:
        """Whether the alert fires, and its Alertmanager would tell somebody."""
        firing = f'ALERTS{{alertname="LLMTrafficDrift",alertstate="firing",namespace="{self.namespace}"}}'
        return bool(self.query(firing) and self.alerts())

    def alerts(self) -> list[Json]:
        """What its Alertmanager has been told, not told the end of, and does not hold back."""
        found: list[Json] = self._ask(9093, "/api/v2/alerts", filter=f'namespace="{self.namespace}"')
        drifts = [each for each in found if each["labels"]["alertname"] == "LLMTrafficDrift"]
        return [each for each in drifts if each["status"]["state"] == "active"]

    def broken_rules(self) -> list[str]:
        """Files of the chart and of the deployment that it was not brought, and rules that it cannot evaluate."""
        groups = self._ask(9090, "/api/v1/rules")["data"]["groups"]
        files = {group["file"].rpartition("/")[2] for group in groups}
        expected = {f"{SYSTEM}.llmops-slo.rules.yaml", f"{self.namespace}.{MODEL}-drift-rules.rules.yaml"}
        rules = [rule for group in groups for rule in group["rules"]]
        failed = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] == "err"]
        return [*sorted(expected - files), *failed]

    def _ask(self, port: int, path: str, **query: str) -> Any:
        service = f"/api/v1/namespaces/{MONITORING}/services/{self.name}:{port}/proxy"
        return self.client.get(service + path, params=query).raise_for_status().json()


def configurations(namespace: str) -> dict[str, str]:
    """The examples, in a hurry, by file."""
    three, routes = (yaml.safe_load((EXAMPLES / name).read_text()) for name in ("prometheus.yaml", "alertmanager.yaml"))
    three["global"] = {"scrape_interval": "5s", "evaluation_interval": "5s"}
    routes["route"]["group_wait"] = "0s"
    # Debian builds its Prometheus without discovery by the Kubernetes API: by DNS, then.
    found = [{"names": [f"{name}.{SYSTEM}.svc"], "type": "A", "port": port} for name, port in PORTS.items()]
    engine = [{"names": [f"{MODEL}-engine.{namespace}.svc"], "type": "A", "port": 8000}]
    labels = {"namespace": namespace, "model": MODEL}
    about = [{"target_label": name, "replacement": text} for name, text in labels.items()]
    jobs = [
        {"job_name": "llmops", "honor_labels": True, "dns_sd_configs": found},
        {"job_name": "llmops-engines", "dns_sd_configs": engine, "relabel_configs": about},
    ]
    files = {"prometheus-3": three, "prometheus-2": {**three, "scrape_configs": jobs}, "alertmanager": routes}
    return {f"{name}.yaml": yaml.safe_dump(content) for name, content in files.items()}


@contextmanager
def monitoring(platform: Platform, files: dict[str, str], past: str) -> Iterator[None]:
    """Two versions of Prometheus with these configurations and this past; nothing of them is left afterwards."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MONITORING, "labels": labels}}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "prometheus", "namespace": MONITORING},
        "data": files,
        "binaryData": {"past.om.gz": base64.b64encode(gzip.compress(past.encode())).decode()},
    }
    template = MANIFEST.read_text().replace("IMAGE", platform.images["demo-monitoring"])
    manifests = [template.replace("NAME", name).replace("PROGRAM", program) for name, program in PROGRAMS.items()]
    try:
        for manifest in (json.dumps(about), json.dumps(config), *manifests):
            platform.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
        for name in PROGRAMS:
            platform.kubectl("rollout", "status", f"deployment/{name}", "-n", MONITORING, "--timeout=180s")
        yield
    finally:
        for manifest in (*manifests, json.dumps(about)):
            platform.kubectl("delete", "--ignore-not-found", "--timeout=180s", "-f", "-", stdin=manifest)


def scaled(requests: Sequence[Request], beside: int) -> list[Request]:
    """The same, as the small model takes them; `beside` tokens of a prompt are the chat template's."""
    return [
        Request(beside + ceil(each.prompt / PROMPT_SCALE), ceil(each.completion / COMPLETION_SCALE), "length")
        for each in requests
    ]


def messages(words: int) -> list[Json]:
    """A question of so many tokens, beside the chat template's: the word is one of the small model's."""
    return [{"role": "user", "content": " ".join(["list"] * words)}]


def template_tokens(gateway: str, model: str) -> int:
    """Tokens of every prompt that are not its words."""
    asked = [(words, ask(gateway, model, messages=messages(words), max_tokens=1)) for words in (1, 100)]
    found = {answer["usage"]["prompt_tokens"] - words for words, answer in asked}
    assert len(found) == 1, asked
    return found.pop()


@dataclass(frozen=True)
class Scene:
    """A model that answers, who asks it, and who watches. `beside`: tokens of every prompt that are not its words."""

    space: Space
    clients: Clients
    watchers: list[Watcher]
    beside: int
    began: float

    def send(self, requests: Sequence[Request]) -> None:
        """These from now on, again and again."""
        self.clients.of(scaled(requests, self.beside), PER_SECOND)

    def watch(self) -> None:
        """Have the deployment learn: what was recorded is not enough, with a minute of real traffic it is."""
        since = f"{datetime.fromtimestamp(self.began - LESSON_SECONDS, UTC):%Y-%m-%dT%H:%M:%SZ}"
        baseline = {"since": since, "minDays": 0, "minSamples": PER_SECOND * LESSON_SECONDS + 50}
        drift = {"baseline": baseline, "window": "1m", "persistenceSeconds": 5}
        self.space.kubectl("patch", f"llmd/{MODEL}", "--type=merge", "-p", json.dumps({"spec": {"drift": drift}}))

    def until(self, reason: str) -> Json:
        """The condition as soon as it has this reason."""
        found = self.space.wait(MODEL, reason, "Drifted", 300)
        self.say(f"{reason}: {found['message']}")
        return found

    def stays_quiet(self, requests: int) -> None:
        """Nobody is told anything while so many requests are answered."""
        first = self.clients.sent

        def over() -> bool:
            found = self.space.condition(MODEL, "Drifted")
            assert found["status"] != "True", found  # a busy machine may answer too few to judge
            assert [watcher.alerts() for watcher in self.watchers] == [[], []]
            return self.clients.sent >= first + requests

        eventually(over, "quiet traffic")
        self.say("nobody was told anything")

    def say(self, what: str) -> None:
        """For whoever reads along."""
        say(f"{self.clients.sent} requests: {what}")


def past(scene: Scene) -> str:
    """The ten minutes before, as promtool reads them: the series of the signals that are watched by default."""
    requests = scaled(conversation(1)[: PER_SECOND * LESSON_SECONDS], scene.beside)
    lines = recorded(requests, per_second=PER_SECOND, every=10, end=scene.began, of=(scene.space.name, MODEL))
    wanted = ("# EOF", *(SERIES[signal].metric for signal in SIGNALS))
    return "".join(line for line in lines if line.startswith(wanted))


@pytest.fixture
def scene(space: Space, platform: Platform, client: httpx.Client, gateway: str) -> Iterator[Scene]:
    """The small model, watched by nobody yet, and everything that will."""
    space.apply(MODEL, engine={"maxModelLen": CONTEXT})
    space.wait(MODEL, "Serving")
    model = f"{space.name}/{MODEL}"
    beside = template_tokens(gateway, model)

    def body(request: Request) -> Json:
        lengths = {"max_tokens": request.completion, "ignore_eos": True}
        return {"model": model, "messages": messages(request.prompt - beside), **lengths}

    clients, watchers = Clients(body), [Watcher(client, name, space.name) for name in PROGRAMS]
    built = Scene(space, clients, watchers, beside, time.time())
    try:
        with monitoring(platform, configurations(space.name), past(built)), clients.sending(gateway):
            yield built
    finally:
        clients.stop()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_second_workload_is_told_and_its_end_too(scene: Scene) -> None:
    for watcher in scene.watchers:
        eventually(watcher.scrapes, f"{watcher.name} to scrape operator, gateway and engine")

    # Quiet traffic is learned from, then watched, and stays quiet.
    usual = conversation(2)
    scene.watch()
    scene.until("Learning")
    scene.send(usual)
    assert scene.until("Armed")["status"] == "False"
    scene.stays_quiet(30 * PER_SECOND)
    assert [watcher.broken_rules() for watcher in scene.watchers] == [[], []]

    # Some requests are answered shortly now, as code completion is: the outputs drift, and all say so.
    scene.send(completing(usual, 3, share=SHARE))
    drifting = scene.until("Drifting")
    assert drifting["status"] == "True"
    assert re.fullmatch(
        r"CompletionTokens since \S+Z: debiased PSI 0\.\d+ over 0\.\d+, n=\d{3}, most in bins 0-\d+ \(0\.\d+\), .*"
        r"Answers changed and requests did not: look at model, adapter, .*",
        drifting["message"],
    )
    for watcher in scene.watchers:
        eventually(watcher.fires, f"{watcher.name} and its Alertmanager to tell it")
        (alert,) = watcher.alerts()
        about = [alert["labels"][key] for key in ("namespace", "model", "signal", "severity")]
        assert about == [scene.space.name, MODEL, "CompletionTokens", "warning"]
        scene.say(f"{watcher.name}: {alert['annotations']['summary']}. {alert['annotations']['description']}")

    # The usual traffic again.
    scene.send(usual)
    assert scene.until("Armed")["status"] == "False"
    for watcher in scene.watchers:
        eventually(lambda at=watcher: not at.alerts(), f"{watcher.name} to tell the end")
    scene.say("no alert")
    assert scene.clients.failures == []
