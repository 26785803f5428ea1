"""Learning, armed, drifting, acknowledged, rebased: what a run of looks leads to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from llmops.api.drift import Action, ActionSpec, DriftSpec, ThresholdSpec
from llmops.api.drift_state import Doubt, Memory, State
from llmops.judge.drift.baseline import Histogram
from llmops.judge.drift.lifecycle import Alert, Seen, due, step, with_bar
from llmops.judge.drift.statistic import Score
from llmops.judge.drift.threshold import against, frozen

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
EDGES = (100, 200, 400, 800)
MINUTE = timedelta(minutes=1)
BASELINE = frozen("PromptTokens", [Histogram(EDGES, (200,) * 5)] * 20, key="k", signals=3, at=START).model_copy(
    update={"window": "1h", "learned_from": START}
)


def scored(*counts: float) -> Score:
    found = against(Histogram(EDGES, counts), BASELINE)
    assert found is not None
    return found


USUAL = scored(100, 100, 100, 100, 100)
SHIFTED = scored(20, 50, 100, 130, 200)
FAR = scored(5, 5, 5, 5, 480)


@dataclass(frozen=True)
class Stretch:
    """The same look, once a minute. `over`: the alert's minutes since the score rose, when it is pending or firing."""

    minutes: int
    score: Score | None = USUAL
    doubt: Doubt | None = None
    over: bool | None = None
    ack: int | None = None
    rebase: int | None = None
    learned: bool = True
    key: str = "k"


PENDING, FIRING = False, True


def after(*stretches: Stretch, persistence: timedelta = 15 * MINUTE) -> Memory:
    memory, now = None, START
    for stretch in stretches:
        began = now + MINUTE
        for _ in range(stretch.minutes):
            seen = Seen(
                key=stretch.key,
                window="1h",
                persistence=persistence,
                baseline=BASELINE if stretch.learned else None,
                score=stretch.score,
                alert=None if stretch.over is None else Alert(since=began, firing=stretch.over),
                doubt=stretch.doubt,
                acknowledged=None if stretch.ack is None else START + stretch.ack * MINUTE,
                rebased=None if stretch.rebase is None else START + stretch.rebase * MINUTE,
            )
            memory = step(memory, seen, now)
            now += MINUTE
    assert memory is not None
    return memory


LEARNT = Stretch(1, learned=False)
CALM = (LEARNT, Stretch(4))
HIGH = Stretch(20, SHIFTED, over=FIRING)


@pytest.mark.parametrize(
    ("stretches", "state"),
    [
        pytest.param([Stretch(60, learned=False)], State.LEARNING, id="no baseline yet"),
        pytest.param(CALM, State.ARMED, id="a baseline arms"),
        pytest.param([*CALM, Stretch(60, SHIFTED, over=PENDING)], State.ARMED, id="an alert that is not yet firing"),
        pytest.param([*CALM, Stretch(60, SHIFTED)], State.ARMED, id="a score that Prometheus excuses by last week"),
        pytest.param([*CALM, HIGH], State.DRIFTING, id="an alert that fires"),
        pytest.param(
            [*CALM, Stretch(60, SHIFTED, Doubt.ROLLING_OUT, FIRING)], State.ARMED, id="inhibited while a rollout runs"
        ),
        pytest.param([*CALM, HIGH, Stretch(15)], State.DRIFTING, id="calm for less than fifteen minutes"),
        pytest.param([*CALM, HIGH, Stretch(16)], State.ARMED, id="calm for fifteen minutes"),
        pytest.param(
            [*CALM, HIGH, Stretch(10), Stretch(1, SHIFTED, over=PENDING), Stretch(10)],
            State.DRIFTING,
            id="a relapse starts the clock again",
        ),
        pytest.param(
            [*CALM, HIGH, Stretch(60, None, Doubt.NO_PROMETHEUS)], State.DRIFTING, id="losing Prometheus clears nothing"
        ),
        pytest.param(
            [*CALM, HIGH, Stretch(60, None)], State.DRIFTING, id="a new operator that has not asked yet clears nothing"
        ),
        pytest.param([*CALM, HIGH, Stretch(60, SHIFTED, over=FIRING, ack=25)], State.ACKNOWLEDGED, id="acknowledged"),
        pytest.param(
            [*CALM, HIGH, Stretch(60, SHIFTED, ack=25)], State.ACKNOWLEDGED, id="acknowledged: over the learned bar yet"
        ),
        pytest.param(
            [*CALM, HIGH, Stretch(30, SHIFTED, over=FIRING, ack=-5)], State.DRIFTING, id="an older word does not count"
        ),
        pytest.param(
            [*CALM, HIGH, Stretch(5, SHIFTED, ack=25), Stretch(1, FAR, over=FIRING, ack=25)],
            State.DRIFTING,
            id="much worse than what was acknowledged",
        ),
        pytest.param(
            [*CALM, HIGH, Stretch(5, SHIFTED, ack=25), Stretch(9, FAR, over=PENDING, ack=25)],
            State.ACKNOWLEDGED,
            id="much worse, but not for long yet",
        ),
        pytest.param(
            [*CALM, HIGH, Stretch(5, SHIFTED, ack=25), Stretch(20, ack=25)], State.ARMED, id="acknowledged, then over"
        ),
        pytest.param([*CALM, HIGH, Stretch(30, SHIFTED, rebase=25)], State.REBASED, id="rebased: learning again"),
        pytest.param(
            [*CALM, Stretch(30, rebase=5)], State.REBASED, id="rebased: the old baseline is not taken for the new one"
        ),
        pytest.param([*CALM, HIGH, Stretch(5, learned=False)], State.LEARNING, id="the baseline was deleted"),
        pytest.param([*CALM, HIGH, Stretch(5, key="other")], State.LEARNING, id="another model: another baseline"),
    ],
)
def test_where_it_leads(stretches: list[Stretch], state: State) -> None:
    assert after(*stretches).state is state


def test_drift_lasts_since_prometheus_saw_it() -> None:
    onset = after(*CALM, HIGH).onset
    assert onset is not None
    assert (onset.since, onset.samples, onset.bins[0][0]) == (START + 6 * MINUTE, 500, "0-100")


def test_another_window_learns_a_bar_from_the_same_traffic() -> None:
    armed = after(*CALM)
    again = step(armed, Seen(key="k", window="6h", baseline=BASELINE, score=USUAL), START + 10 * MINUTE)
    assert (again.state, again.learn_from) == (State.LEARNING, armed.learn_from)


def test_another_model_learns_from_its_own_traffic() -> None:
    now = START + 10 * MINUTE
    again = step(after(*CALM), Seen(key="other", window="1h", baseline=BASELINE), now)
    assert again.learn_from == now


def test_the_first_baseline_may_be_learned_from_the_past() -> None:
    past = START - timedelta(days=30)
    assert step(None, Seen(key="k", window="1h", learn_from=past), START).learn_from == past


@pytest.mark.parametrize(
    ("spec", "stretches", "bar"),
    [
        pytest.param(DriftSpec(), CALM, BASELINE.threshold, id="what was learned"),
        pytest.param(
            DriftSpec(thresholds=[ThresholdSpec(signal="PromptTokens", psi="0.25")]),
            CALM,
            0.25,
            id="what was wanted",
        ),
        pytest.param(
            DriftSpec(),
            [*CALM, HIGH, Stretch(1, SHIFTED, ack=25)],
            1.5 * SHIFTED.debiased,
            id="acknowledged",
        ),
    ],
)
def test_the_bar_that_applies(spec: DriftSpec, stretches: list[Stretch], bar: float) -> None:
    assert with_bar(BASELINE, spec, after(*stretches)).threshold == bar


@pytest.mark.parametrize(
    ("hours_ago", "wanted"), [(None, ["Alert", "FreezePromotion"]), (1, ["Alert"]), (25, ["Alert", "FreezePromotion"])]
)
def test_actions_cool_down(hours_ago: int | None, wanted: list[str]) -> None:
    actions = [ActionSpec(type="Alert", cooldown_seconds=0), ActionSpec(type="FreezePromotion")]
    last = None if hours_ago is None else START - timedelta(hours=hours_ago)
    done: dict[Action, datetime] = {} if last is None else {"Alert": last, "FreezePromotion": last}
    assert [each.type for each in due(actions, done, START).actions] == wanted
