"""Learning, armed, drifting, acknowledged, rebased: what a run of looks leads to, and what the condition says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from llmops.api.drift import ActionSpec, Signal
from llmops.judge.drift.baseline import Histogram
from llmops.judge.drift.lifecycle import Doubt, Memory, Seen, State, condition, due, step
from llmops.judge.drift.statistic import Score
from llmops.judge.drift.threshold import against, frozen

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
EDGES = (100, 200, 400, 800)
BASELINE = frozen("PromptTokens", [Histogram(EDGES, (200,) * 5)] * 20, key="k", signals=3, at=START)
MINUTE = timedelta(minutes=1)


def scored(*counts: float) -> Score:
    found = against(Histogram(EDGES, counts), BASELINE)
    assert found is not None
    return found


USUAL = scored(100, 100, 100, 100, 100)
SHIFTED = scored(20, 50, 100, 130, 200)
FAR = scored(5, 5, 5, 5, 480)
FEW = scored(1, 1, 1, 1, 40)


@dataclass(frozen=True)
class Stretch:
    """The same look, once a minute."""

    minutes: int
    score: Score | None = USUAL
    doubt: Doubt | None = None
    excused: bool = False
    ack: int | None = None
    rebase: int | None = None
    learned: bool = True
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        at = {"acknowledged": self.ack, "rebased": self.rebase}
        times = {key: START + minute * MINUTE for key, minute in at.items() if minute is not None}
        baseline = BASELINE if self.learned else None
        object.__setattr__(
            self, "seen", Seen(baseline=baseline, score=self.score, doubt=self.doubt, excused=self.excused, **times)
        )


def after(*stretches: Stretch) -> Memory:
    memory, now = Memory(since=START), START
    for stretch in stretches:
        for _ in range(stretch.minutes):
            now += MINUTE
            memory = step(memory, stretch.seen, now)
    return memory


CALM = Stretch(5)


@pytest.mark.parametrize(
    ("stretches", "state"),
    [
        pytest.param([Stretch(60, learned=False)], State.LEARNING, id="no baseline yet"),
        pytest.param([CALM], State.ARMED, id="a baseline arms"),
        pytest.param([CALM, Stretch(15, SHIFTED)], State.ARMED, id="over the bar for less than fifteen minutes"),
        pytest.param([CALM, Stretch(16, SHIFTED)], State.DRIFTING, id="over the bar for fifteen minutes"),
        pytest.param(
            [CALM, Stretch(10, SHIFTED), Stretch(1), Stretch(10, SHIFTED)],
            State.ARMED,
            id="a gap starts the clock again",
        ),
        pytest.param([CALM, Stretch(60, FEW)], State.ARMED, id="too few requests never alarm"),
        pytest.param([CALM, Stretch(60, SHIFTED, excused=True)], State.ARMED, id="last week looked like this too"),
        pytest.param([CALM, Stretch(60, SHIFTED, Doubt.ROLLING_OUT)], State.ARMED, id="inhibited while a rollout runs"),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(15)], State.DRIFTING, id="calm for less than fifteen minutes"
        ),
        pytest.param([CALM, Stretch(20, SHIFTED), Stretch(16)], State.ARMED, id="calm for fifteen minutes"),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(60, None, Doubt.NO_PROMETHEUS)],
            State.DRIFTING,
            id="losing Prometheus clears nothing",
        ),
        pytest.param([CALM, Stretch(20, SHIFTED), Stretch(60, SHIFTED, ack=25)], State.ACKNOWLEDGED, id="acknowledged"),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(30, SHIFTED, ack=-5)],
            State.DRIFTING,
            id="an older word does not count",
        ),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(5, SHIFTED, ack=25), Stretch(20, FAR, ack=25)],
            State.DRIFTING,
            id="much worse than what was acknowledged",
        ),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(5, SHIFTED, ack=25), Stretch(20, ack=25)],
            State.ARMED,
            id="acknowledged, then over",
        ),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(30, SHIFTED, rebase=25)], State.REBASED, id="rebased: learning again"
        ),
        pytest.param(
            [CALM, Stretch(20, SHIFTED), Stretch(5, learned=False)],
            State.LEARNING,
            id="another model: another baseline",
        ),
        pytest.param(
            [Stretch(5, learned=False, rebase=1), Stretch(5, rebase=-1)],
            State.ARMED,
            id="a baseline newer than the rebase",
        ),
    ],
)
def test_where_it_leads(stretches: list[Stretch], state: State) -> None:
    assert after(*stretches).state is state


DRIFTING = after(CALM, Stretch(20, SHIFTED))
ACKNOWLEDGED = after(CALM, Stretch(20, SHIFTED), Stretch(1, SHIFTED, ack=25))
FOUND = (
    "PromptTokens since 2026-11-20T12:06:00Z: debiased PSI 0.466 over 0.100, n=500, "
    "most in bins 0-100 (0.253), 800-+Inf (0.137), 100-200 (0.068)."
)
REMEDY = "Look, then run `llmops drift ack support` or `llmops drift rebase support`."


@pytest.mark.parametrize(
    ("memories", "status", "reason", "message"),
    [
        pytest.param(
            {"PromptTokens": Memory(since=START)},
            "Unknown",
            "Learning",
            "PromptTokens: no baseline yet; learning it.",
            id="learning",
        ),
        pytest.param({"PromptTokens": after(CALM)}, "False", "Armed", "Watching PromptTokens.", id="peace"),
        pytest.param(
            {"PromptTokens": after(CALM, Stretch(1, FEW))},
            "Unknown",
            "TooFewSamples",
            "PromptTokens: too few requests in the window to tell. A longer spec.drift.window sees more.",
            id="too few samples is not peace",
        ),
        pytest.param(
            {"PromptTokens": after(CALM), "FinishReason": after(CALM, Stretch(1, None, Doubt.NO_PROMETHEUS))},
            "Unknown",
            "NoPrometheus",
            "FinishReason: Prometheus does not answer. Check its address in the operator's configuration.",
            id="one signal in doubt is a doubt",
        ),
        pytest.param(
            {"PromptTokens": DRIFTING, "FinishReason": after(CALM, Stretch(1, FEW))},
            "True",
            "Drifting",
            f"{FOUND} Requests changed and answers did not: look at the clients. {REMEDY}",
            id="drift outweighs doubt",
        ),
        pytest.param(
            {"PromptTokens": ACKNOWLEDGED}, "True", "Acknowledged", f"{FOUND} Acknowledged.", id="acknowledged"
        ),
        pytest.param(
            {"PromptTokens": after(CALM, Stretch(20, SHIFTED), Stretch(1, SHIFTED, rebase=25))},
            "Unknown",
            "Rebased",
            "PromptTokens: no baseline yet; learning it.",
            id="rebased",
        ),
    ],
)
def test_condition(memories: dict[Signal, Memory], status: str, reason: str, message: str) -> None:
    said = condition(memories, name="support")
    assert (said.status, said.reason, said.message) == (status, reason, message)


@pytest.mark.parametrize(
    ("drifting", "hint"),
    [
        (["PromptTokens"], "look at the clients"),
        (["CompletionTokens"], "look at model, adapter, chat template and quantisation"),
        (["PromptTokens", "CompletionTokens"], "look at the traffic"),
    ],
    ids=["input", "output", "both"],
)
def test_where_to_look_first(drifting: list[Signal], hint: str) -> None:
    assert hint in condition(dict.fromkeys(drifting, DRIFTING), name="support").message


def test_the_message_of_a_lasting_drift_does_not_move() -> None:
    worse = after(CALM, Stretch(20, SHIFTED), Stretch(50, FAR))
    assert condition({"PromptTokens": worse}, name="x") == condition({"PromptTokens": DRIFTING}, name="x")


@pytest.mark.parametrize(
    ("hours_ago", "wanted"), [(None, ["Alert", "FreezePromotion"]), (1, ["Alert"]), (25, ["Alert", "FreezePromotion"])]
)
def test_actions_cool_down(hours_ago: int | None, wanted: list[str]) -> None:
    actions = [ActionSpec(type="Alert", cooldown_seconds=0), ActionSpec(type="FreezePromotion")]
    done = {} if hours_ago is None else dict.fromkeys(("Alert", "FreezePromotion"), START - timedelta(hours=hours_ago))
    assert [each.type for each in due(actions, done, START)] == wanted
