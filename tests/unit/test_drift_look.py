"""A deployment's drift from the first look on: learning, freezing, judging by what Prometheus says, acting once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmops.api.drift import (
    INPUTS,
    SERIES,
    ActionSpec,
    BaselineSpec,
    DriftSpec,
    FrozenBaseline,
    Signal,
    ThresholdSpec,
    Watched,
)
from llmops.api.drift_state import Doubt, Remembered, State
from llmops.api.llm_deployment import AdapterStatus, LLMDeployment, ModelStatus
from llmops.config import Config
from llmops.judge.drift.baseline import Histogram
from llmops.judge.drift.identity import keys, served
from llmops.judge.drift.look import Evidence, Look, Subject, look
from llmops.judge.drift.replay import Stretch

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
EDGES = (100, 200, 400, 800)
SIGNAL: Signal = "PromptTokens"
ACTIONS = [ActionSpec(type="FreezePromotion")]
SPEC = DriftSpec(signals=[SIGNAL], baseline=BaselineSpec(min_days=0), actions=ACTIONS)
SUBJECT = Subject(watched=Watched(namespace="team-a", model="support"), spec=SPEC, keys={SIGNAL: "k"})


def history(hours: int, each: int = 1000, edges: tuple[int, ...] = EDGES) -> Evidence:
    counts = Histogram(edges, (each / (len(edges) + 1),) * (len(edges) + 1))
    windows = tuple(Stretch(START + i * HOUR, START + (i + 1) * HOUR, counts) for i in range(hours))
    return Evidence(windows={SIGNAL: windows})


NEW = look(SUBJECT, Remembered(), None, START)
ARMED = look(SUBJECT, NEW.remembered, history(10), START + 10 * HOUR)


def baseline(found: Look = ARMED) -> FrozenBaseline:
    [learned] = found.remembered.baselines
    return learned


def samples(*shares: float, n: int = 500, alert: str = "") -> tuple[dict[str, Any], ...]:
    own = {"baseline": SUBJECT.watched.identity(baseline()), "signal": SIGNAL}
    at = START.timestamp()
    found: list[tuple[dict[str, str], float]] = [
        ({"__name__": "llmops:drift_threshold"}, 0.1),
        ({"__name__": "llmops:drift_samples"}, n),
        *(
            ({"__name__": "llmops:drift_share", "bin": each.label}, share)
            for each, share in zip(baseline().bins, shares, strict=False)
        ),
    ]
    if alert:
        about = {"alertname": "LLMTrafficDrift"}
        found += [
            ({"__name__": "ALERTS", "alertstate": alert, **about}, 1.0),
            ({"__name__": "ALERTS_FOR_STATE", **about}, at),
        ]
    return tuple({"metric": {**labels, **own}, "value": [at, str(value)]} for labels, value in found)


EVEN, SKEWED = (0.2,) * 5, (0.05, 0.1, 0.2, 0.25, 0.4)
FIRING = Evidence(samples=samples(*SKEWED, alert="firing"))


@pytest.mark.parametrize(
    ("evidence", "state", "reason"),
    [
        pytest.param(None, State.LEARNING, "Learning", id="nobody has asked yet"),
        pytest.param(Evidence(silent=True), State.LEARNING, "NoPrometheus", id="no Prometheus"),
        pytest.param(history(3), State.LEARNING, "Learning", id="too few windows to know their spread"),
        pytest.param(history(10, each=150), State.LEARNING, "Learning", id="windows too small to teach anything"),
        pytest.param(history(10), State.ARMED, "Armed", id="enough of both"),
    ],
)
def test_learning(evidence: Evidence | None, state: State, reason: str) -> None:
    found = look(SUBJECT, NEW.remembered, evidence, START + 10 * HOUR)
    assert (found.remembered.memories.signals[SIGNAL].state, found.verdict.reason) == (state, reason)


def test_a_week_is_a_week() -> None:
    wanted = replace(SUBJECT, spec=SPEC.model_copy(update={"baseline": BaselineSpec(min_days=7)}))
    assert look(wanted, NEW.remembered, history(10), START + 10 * HOUR).verdict.reason == "Learning"
    assert look(wanted, NEW.remembered, history(169), START + 169 * HOUR).verdict.reason == "Armed"


def test_what_an_older_gateway_counted_in_other_buckets_is_left_out() -> None:
    old, new = history(9, edges=(50, 500)).windows[SIGNAL], history(19).windows[SIGNAL][9:]
    assert (
        baseline(look(SUBJECT, NEW.remembered, Evidence(windows={SIGNAL: (*old, *new)}), START + 20 * HOUR)).windows
        == 10
    )


@pytest.mark.parametrize(
    ("evidence", "status", "reason"),
    [
        pytest.param(Evidence(samples=samples(*EVEN)), "False", "Armed", id="as it was"),
        pytest.param(FIRING, "True", "Drifting", id="the alert fires"),
        pytest.param(Evidence(samples=samples(*SKEWED, alert="pending")), "False", "Armed", id="the alert is pending"),
        pytest.param(Evidence(samples=samples(*SKEWED, n=50)), "Unknown", "TooFewSamples", id="fifty requests"),
        pytest.param(Evidence(samples=samples(*SKEWED[:3])), "Unknown", "SignalMissing", id="two bins are gone"),
        pytest.param(Evidence(), "Unknown", "RulesNotLoaded", id="nobody evaluates the rules"),
        pytest.param(Evidence(silent=True), "Unknown", "NoPrometheus", id="Prometheus is away"),
    ],
)
def test_judging(evidence: Evidence, status: str, reason: str) -> None:
    found = look(SUBJECT, ARMED.remembered, evidence, START + 11 * HOUR)
    assert (found.verdict.status, found.verdict.reason) == (status, reason)


@pytest.mark.parametrize("doubt", [Doubt.ROLLING_OUT, Doubt.SCALED_TO_ZERO])
def test_inhibited(doubt: Doubt) -> None:
    found = look(replace(SUBJECT, inhibited=doubt), ARMED.remembered, FIRING, START + 11 * HOUR)
    assert (found.verdict.status, found.verdict.reason) == ("Unknown", doubt.value)


def test_the_condition_has_the_score_of_the_rules() -> None:
    found = look(SUBJECT, ARMED.remembered, FIRING, START + 11 * HOUR)
    assert "PromptTokens since 2026-11-20T12:00:00Z: debiased PSI 0.4" in found.verdict.message
    assert "n=500" in found.verdict.message


def test_actions_are_taken_once_per_drift() -> None:
    first = look(SUBJECT, ARMED.remembered, FIRING, START + 11 * HOUR)
    assert (list(first.due), first.onset) == (ACTIONS, START)
    assert look(SUBJECT, first.remembered, FIRING, START + 12 * HOUR).due == ()


@pytest.mark.parametrize(
    ("acknowledged", "rebased"),
    [
        pytest.param("2026-11-20T11:00:00Z", "", id="acknowledged before it began"),
        pytest.param("", "2026-11-20T11:00:00Z", id="rebased before what was learned"),
        pytest.param("yesterday", "soon", id="no times at all"),
    ],
)
def test_words_about_another_time_change_nothing(acknowledged: str, rebased: str) -> None:
    drifting = look(SUBJECT, ARMED.remembered, FIRING, START + 11 * HOUR)
    about = replace(SUBJECT, acknowledged=acknowledged, rebased=rebased)
    assert look(about, drifting.remembered, FIRING, START + 12 * HOUR).verdict.reason == "Drifting"


def test_acknowledged_and_rebased() -> None:
    drifting = look(SUBJECT, ARMED.remembered, FIRING, START + 11 * HOUR).remembered
    acknowledged = replace(SUBJECT, acknowledged="2026-11-20T23:30:00Z")
    assert look(acknowledged, drifting, FIRING, START + 12 * HOUR).verdict.reason == "Acknowledged"
    rebased = look(replace(SUBJECT, rebased="2026-11-20T23:30:00Z"), drifting, FIRING, START + 12 * HOUR)
    assert (rebased.verdict.reason, rebased.remembered.baselines) == ("Rebased", ())


def test_a_bar_set_by_hand_counts_at_once() -> None:
    spec = SPEC.model_copy(update={"thresholds": [ThresholdSpec(signal=SIGNAL, psi="0.9")]})
    drifting = look(replace(SUBJECT, spec=spec), ARMED.remembered, FIRING, START + 11 * HOUR).remembered
    onset = drifting.memories.signals[SIGNAL].onset
    assert onset is not None
    assert onset.threshold == 0.9


def deployed(source: str = "hf://o/m", **engine: Any) -> LLMDeployment:
    spec: dict[str, Any] = {"model": {"source": source}, "replicas": 1, "engine": engine}
    if source.startswith("backup://"):
        spec["backup"] = {"target": "s3://backups/llm", "secretRef": {"name": "backups"}}
    return LLMDeployment.from_manifest(
        {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": "m"}, "spec": spec}
    )


CONFIG = Config.model_validate(
    {"images": {"jobs": "j"}, "gateway": {"namespace": "s"}, "profiles": {"cpu": {"image": "engine:1"}}}
)
V1, V2 = ModelStatus(revision="v1"), ModelStatus(revision="v2")
OUT = [signal for signal in SERIES if signal not in INPUTS]


@pytest.mark.parametrize(
    ("engine", "model", "learned_anew"),
    [
        pytest.param({}, V1, [], id="nothing changed"),
        pytest.param({}, V2, OUT, id="another revision answers differently; clients ask as before"),
        pytest.param({"maxModelLen": 4096}, V1, OUT, id="a shorter context"),
        pytest.param({"quantization": "awq"}, V1, OUT, id="quantised"),
        pytest.param({"args": {"chat-template": "t"}}, V1, list(SERIES), id="another template counts anew"),
    ],
)
def test_what_a_baseline_is_valid_for(engine: dict[str, Any], model: ModelStatus, learned_anew: Sequence[str]) -> None:
    known = served(deployed(), V1, None)
    before = keys(deployed(), known, CONFIG)
    after = keys(deployed(**engine), served(deployed(**engine), model, known), CONFIG)
    assert [signal for signal in before if before[signal] != after[signal]] == learned_anew


def test_what_was_learned_of_a_model_holds_for_the_same_files_out_of_a_restore_point() -> None:
    point = "support@2026-11-20T03:00:00Z"
    restored = deployed(source=f"backup://{point}")
    before = served(deployed(), ModelStatus(revision="v1", digest="sha256:1f0c"), None)

    def learned_anew(digest: str | None) -> list[str]:
        after = served(restored, ModelStatus(revision=point, digest=digest), before)
        old, new = keys(deployed(), before, CONFIG), keys(restored, after, CONFIG)
        return [signal for signal in old if old[signal] != new[signal]]

    assert learned_anew("sha256:1f0c") == []
    assert learned_anew("sha256:another") == list(SERIES)
    assert learned_anew(None) == list(SERIES)


def test_a_restored_adapter_is_the_one_that_was_served() -> None:
    model = served(deployed(), V1, None)

    def key(*digests: str) -> dict[Signal, str]:
        llm = deployed()
        adapters = [AdapterStatus(name="tickets", source="finetune://t", digest=digest) for digest in digests]
        status = llm.status.model_copy(update={"adapters": adapters})
        return keys(llm.model_copy(update={"status": status}), model, CONFIG)

    trained, restored = key(f"sha256:{'1f0c' * 16}"), key(f"sha256:{'1f0c' * 4}")
    assert trained == restored
    assert trained != key()
