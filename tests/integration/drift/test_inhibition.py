"""Which alerts a real Alertmanager keeps back while another says more, with the example's configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from hack.waiting import eventually
from llmops.desired.slo_rules import slo_groups
from tests.golden.test_alerts import GROUPS
from tests.integration.drift.live import EXAMPLES, PATIENCE_SECONDS, alertmanager

Labels = dict[str, str]
RULES = [rule for group in (*slo_groups(), *GROUPS) for rule in group["rules"] if "alert" in rule]


@dataclass(frozen=True)
class Alertmanager:
    url: str

    def tell(self, labels: Labels, *, over: bool = False) -> None:
        """As Prometheus does when an alert fires, and when it is over."""
        now = datetime.now(UTC)
        ends = now if over else now + timedelta(hours=1)
        alert = {
            "labels": labels,
            "startsAt": (now - timedelta(minutes=1)).isoformat(),
            "endsAt": ends.isoformat(),
        }
        httpx.post(f"{self.url}/alerts", json=[alert], timeout=60, trust_env=False).raise_for_status()

    def state(self, labels: Labels) -> str:
        """`active` is told to people, `suppressed` is not; empty while it is unknown."""
        found = httpx.get(f"{self.url}/alerts", timeout=60, trust_env=False).raise_for_status().json()
        return next((each["status"]["state"] for each in found if each["labels"] == labels), "")

    def until(self, labels: Labels, state: str) -> None:
        eventually(lambda: self.state(labels) == state, f"{labels} to be {state}", PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    with alertmanager(tmp_path_factory.mktemp("inhibition") / "alertmanager") as where:
        yield Alertmanager(f"http://{where}/api/v2")


def alert(name: str, severity: str, model: str) -> Labels:
    """An alert that the generated rules have."""
    assert any(rule["alert"] == name and rule["labels"]["severity"] == severity for rule in RULES), (name, severity)
    about = {} if name == "LLMGatewayMissing" else {"namespace": "team-a", "model": model}
    return {"alertname": name, "severity": severity, **about}


CASES = [
    ("LLMRollingOut none", "LLMTrafficDrift warning"),
    ("LLMErrorBudgetBurn critical", "LLMTrafficDrift warning"),
    ("LLMErrorBudgetBurn critical", "LLMErrorBudgetBurn warning"),
    ("LLMWakeUpFails critical", "LLMRequestsHeld warning"),
    ("LLMGatewayMissing critical", "LLMDriftSignalMissing warning"),
]


@pytest.mark.parametrize(("source", "target"), CASES, ids=[f"{one} keeps back {other}" for one, other in CASES])
def test_one_alert_keeps_another_back_while_it_fires(manager: Alertmanager, source: str, target: str) -> None:
    number = CASES.index((source, target))
    told, kept = (alert(*each.split(), f"model-{number}") for each in (source, target))
    manager.tell(kept)
    manager.until(kept, "active")
    manager.tell(told)
    manager.until(kept, "suppressed")
    if "model" in told:
        neighbour = kept | {"model": "another"}
        manager.tell(neighbour)
        manager.until(neighbour, "active")
    manager.tell(told, over=True)
    manager.until(kept, "active")
    manager.tell(kept, over=True)


def test_every_alert_that_the_example_names_exists() -> None:
    text = (Path(EXAMPLES) / "alertmanager.yaml").read_text()
    rules = yaml.safe_load(text)["inhibit_rules"]
    named = set(re.findall(r"LLM[A-Za-z]+", str(rules)))
    assert named <= {rule["alert"] for rule in RULES}
