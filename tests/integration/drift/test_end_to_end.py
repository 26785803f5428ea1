"""Drift from first request to last alert: gateway, operator, API server, Prometheus 3 and 2.42, Alertmanager.

All of them real processes; only time is short: windows of a minute, a patience of seconds. The conversation trace's
requests come in another order here, so that quiet traffic is quiet; in its own, `python -m bench.drift` judges it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hack.dashboards.questions import DASHBOARDS, DRIFT
from hack.images import venv
from llmops.desired.backup_rules import backup_groups
from llmops.desired.slo_rules import slo_groups
from llmops_serving.jobs.finetune.metrics import SERIES as TRAINER
from tests.golden.test_alerts import TEXT
from tests.integration import contract
from tests.integration.drift.live import (
    MODEL,
    NAMESPACE,
    RULES_LABEL,
    Prometheus,
    completing,
    conversation,
    until,
)
from tests.integration.drift.watched import RUNBOOKS, Rig, rigged
from tests.integration.scraping import Scraper, all_answered, questions

Json = dict[str, Any]
PER_SECOND = 15
LESSON_SECONDS = 14 * 60


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    past = conversation(1)[: PER_SECOND * LESSON_SECONDS]
    with rigged(tmp_path, past, per_second=PER_SECOND) as built:
        yield built


@pytest.mark.long
def test_a_second_workload_is_told_and_its_end_too(rig: Rig) -> None:
    # Quiet traffic is learned from, then watched, and stays quiet.
    usual = conversation(2)
    rig.load.of(usual, PER_SECOND)
    until(lambda: rig.drifted().get("reason") in ("Armed", "TooFewSamples", "RulesNotLoaded"), "a baseline")
    assert rig.until("Armed")["status"] == "False"
    seen = rig.load.sent
    until(lambda: rig.load.sent > seen + 20 * PER_SECOND, "quiet traffic")
    assert rig.drifted()["status"] != "True"  # a busy machine may send too few to judge
    assert [server.alerts() for server in rig.servers] == [[], []]

    # One request in five is answered shortly now, as code completion is: the outputs drift, and all say so.
    rig.load.of(completing(usual, 3, share=0.2), 2 * PER_SECOND)
    told = rig.until("Drifting")
    assert told["status"] == "True"
    assert told["message"].startswith("CompletionTokens since ")
    for part in ("debiased PSI 0.", " over 0.1", ", n=", "most in bins 0-", "look at model, adapter"):
        assert part in told["message"]
    for server in rig.servers:
        [alert] = until(server.alerts, "Alertmanager to be told")
        about = {key: alert["labels"][key] for key in ("namespace", "model", "signal", "severity")}
        assert about == {
            "namespace": NAMESPACE,
            "model": MODEL,
            "signal": "CompletionTokens",
            "severity": "warning",
        }
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}#llmtrafficdrift"
    _every_name_is_said(rig)
    asked = questions([DRIFT], namespace=NAMESPACE, model=MODEL)
    for server in rig.servers:
        all_answered(server.query, asked)
    copies = _copies(rig)
    assert [rig.live("finetunejob", each)["spec"]["suspend"] for each in copies] == [True]
    until(lambda: {"Drifting", "FineTuneCreated"} <= _events(rig), "both Events")

    # Neither another operator nor another process of Prometheus forgets it, or does anything twice.
    rig.stop()
    rig.operate("operator-1")
    for server in rig.servers:
        server.restart()
    until(lambda: all(fires(server) for server in rig.servers), "both to tell it still")
    assert (rig.drifted()["message"], _copies(rig)) == (told["message"], copies)

    # Usual traffic again, and much of it, so that the window soon holds little else.
    rig.load.of(usual, 4 * PER_SECOND)
    rig.until("Armed")
    until(lambda: not any(server.alerts() for server in rig.servers), "the alerts to end")
    assert rig.load.failures == []


def _every_name_is_said(rig: Rig) -> None:
    """What any rule or dashboard asks for, gateway, operator, trainer and vLLM say, under these names and labels."""
    listed = rig.plane.kubectl("get", "configmaps", "-n", NAMESPACE, "-l", RULES_LABEL, "-o", "json")
    texts = [text for item in json.loads(listed)["items"] for text in item["data"].values()]
    groups = [
        *slo_groups(),
        *backup_groups(),
        *TEXT,
        *(group for text in texts for group in yaml.safe_load(text)["groups"]),
    ]
    rules = [rule for group in groups for rule in group["rules"]]
    asked = [*questions(DASHBOARDS, namespace=NAMESPACE, model=MODEL, job="tickets").values()]
    asked += [rule["expr"] for rule in rules]
    pages = [
        contract.said(httpx.get(f"http://{where}/metrics", timeout=60, trust_env=False).text)
        for where in (rig.scraped, f"127.0.0.1:{rig.operator.port}")
    ]
    trainer = next(path for path in (venv.ensure("trainer") / "lib").glob("*/site-packages/vllm"))
    pages += [contract.engines(trainer), {name: None for _, name, _ in TRAINER}]
    server = Scraper(rig.servers[0].url)
    recorded = {rule["record"] for rule in rules if "record" in rule}
    assert contract.missing(contract.wanted(server, asked), pages, recorded) == []


def fires(server: Prometheus) -> bool:
    """Whether its alert fires and its Alertmanager knows."""
    return bool(server.query('ALERTS{alertname="LLMTrafficDrift",alertstate="firing"}') and server.alerts())


def _events(rig: Rig) -> set[str]:
    found = json.loads(rig.plane.kubectl("get", "events.events.k8s.io", "-n", NAMESPACE, "-o", "json"))["items"]
    return {each["reason"] for each in found if each["regarding"]["name"] == MODEL}


def _copies(rig: Rig) -> list[str]:
    listed = rig.plane.kubectl("get", "finetunejobs", "-n", NAMESPACE, "-o", "name")
    names = [line.partition("/")[2] for line in listed.split()]
    return [each for each in names if each.startswith("tickets-drift-")]
