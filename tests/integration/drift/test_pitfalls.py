"""What happens to gateways and Prometheus in real life, and which alerts must follow; judged by promtool itself."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmops.desired.alerts import rule_file
from llmops.desired.drift_rules import drift_groups
from llmops.judge.drift.baseline import Categories, Histogram, binned
from llmops.judge.drift.statistic import smoothed
from llmops.judge.drift.threshold import against, frozen
from tests.integration.drift.conftest import program
from tests.integration.drift.scenarios import (
    AT,
    EDGES,
    LONGER,
    USUAL,
    WATCHED,
    Gateway,
    Phase,
    histogram,
    learned,
    unit_test,
)

PROMPTS, REASON = learned()
RULES = rule_file(drift_groups(WATCHED, [PROMPTS, REASON], window="1h"))
# Written twice, the second group races with itself: promtool calls that a failure, a server drops the later one.
SAME_RULES = rule_file(drift_groups(WATCHED, [PROMPTS, REASON], window="1h")[:1])
OTHER_RULES = rule_file(drift_groups(WATCHED, learned("model@2"), window="1h"))
ROOT = Path(__file__).parents[3]
Run = Callable[[dict[str, Any], dict[str, str]], str]

COARSE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
EARLY, LATE = Phase(minutes=90), Phase(minutes=120)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Alerts that must be firing at `minute`, as (alert, signal, cause), and nothing else."""

    gateways: tuple[Gateway, ...]
    minute: int = 200
    firing: tuple[tuple[str, str, str], ...] = ()
    files: tuple[str, ...] = ("own.yaml",)


def alone(*phases: Phase, **about: Any) -> tuple[Gateway, ...]:
    return (Gateway(phases=phases, **about),)


DRIFT = ("LLMTrafficDrift", "PromptTokens", "")
NO_SCORE = ("LLMDriftSignalMissing", "PromptTokens", "Buckets")
UNSCRAPED = (("LLMDriftSignalMissing", "", "Scrape"),)
RENAMED = (("LLMDriftSignalMissing", "", "Labels"),)
CASES = {
    "usual traffic": Case(gateways=alone(EARLY, LATE)),
    "longer prompts": Case(gateways=alone(EARLY, Phase(minutes=120, tokens=LONGER)), firing=(DRIFT,)),
    "longer prompts for ten minutes only": Case(
        gateways=alone(EARLY, Phase(minutes=10, tokens=LONGER), Phase(minutes=110))
    ),
    "longer prompts, then usual ones again": Case(
        gateways=alone(EARLY, Phase(minutes=90, tokens=LONGER), Phase(minutes=90)), minute=260
    ),
    "a finish reason nobody has seen": Case(
        gateways=alone(EARLY, Phase(minutes=120, reasons={"stop": 14.0, "length": 2.0, "content_filter": 4.0})),
        firing=(("LLMTrafficDrift", "FinishReason", ""),),
    ),
    "a finish reason that is no longer seen": Case(
        gateways=alone(Phase(minutes=90), Phase(minutes=120, reasons={"stop": 20.0})),
        firing=(("LLMTrafficDrift", "FinishReason", ""),),
    ),
    "the gateway restarts and counts from zero": Case(
        gateways=alone(EARLY, Phase(minutes=50), Phase(minutes=70, restart=True)), minute=160
    ),
    "the gateway restarts every ten minutes": Case(
        gateways=alone(*(Phase(minutes=10, restart=True) for _ in range(21))), minute=200
    ),
    "the pod is replaced by another": Case(
        gateways=(
            Gateway(pod="gateway-0", phases=[Phase(minutes=150), Phase(minutes=60, tokens=None)]),
            Gateway(pod="gateway-1", phases=[Phase(minutes=149, tokens=None), Phase(minutes=61)]),
        ),
        minute=180,
    ),
    "three pods come and go, one a minute": Case(
        gateways=tuple(
            Gateway(
                pod=f"gateway-{index}",
                phases=[Phase(minutes=7 * index + 1, tokens=None), Phase(minutes=21), Phase(minutes=210, tokens=None)],
            )
            for index in range(28)
        ),
    ),
    "scaled to zero": Case(gateways=alone(EARLY, Phase(minutes=200, tokens=())), minute=260),
    "scaled to zero and back": Case(
        gateways=alone(EARLY, Phase(minutes=120, tokens=()), Phase(minutes=60)), minute=230
    ),
    "one request an hour": Case(gateways=alone(Phase(minutes=300, tokens=(9000,), reasons={"length": 1.0}, every=60))),
    "no request ever": Case(gateways=alone(Phase(minutes=300, tokens=()))),
    "the gateway is no longer scraped": Case(
        gateways=alone(EARLY, Phase(minutes=120, tokens=None)), minute=200, firing=UNSCRAPED
    ),
    "one scrape in three fails": Case(
        gateways=alone(*(phase for _ in range(70) for phase in (Phase(minutes=2), Phase(minutes=1, scraped=False)))),
    ),
    "other buckets, among usual traffic": Case(gateways=alone(EARLY, LATE, edges=COARSE), firing=(NO_SCORE,)),
    "other buckets, among longer prompts": Case(
        gateways=alone(EARLY, Phase(minutes=120, tokens=LONGER), edges=COARSE), firing=(NO_SCORE,)
    ),
    "one bucket of many is gone, among longer prompts": Case(
        gateways=alone(
            EARLY,
            Phase(minutes=120, tokens=LONGER),
            edges=tuple(edge for edge in EDGES if edge != PROMPTS.bins[1].upper),
        ),
        firing=(NO_SCORE,),
    ),
    "Prometheus 3 spells le its own way, usual traffic": Case(gateways=alone(EARLY, LATE, spelling="{}.0")),
    "Prometheus 3 spells le its own way, longer prompts": Case(
        gateways=alone(EARLY, Phase(minutes=120, tokens=LONGER), spelling="{}.0"), firing=(DRIFT,)
    ),
    "le changes its spelling within the window": Case(
        gateways=alone(Phase(minutes=170), Phase(minutes=40), respelled_after=170)
    ),
    "the scrape renames labels": Case(
        gateways=alone(EARLY, LATE, namespace_label="exported_namespace"), firing=RENAMED
    ),
    "two operators wrote the same rules": Case(
        gateways=alone(EARLY, Phase(minutes=120, tokens=LONGER)), firing=(DRIFT,), files=("own.yaml", "same.yaml")
    ),
    "two operators froze two baselines": Case(
        gateways=alone(EARLY, Phase(minutes=120, tokens=LONGER)),
        firing=(DRIFT, DRIFT),
        files=("own.yaml", "other.yaml"),
    ),
    "two operators, usual traffic": Case(gateways=alone(EARLY, LATE), files=("own.yaml", "other.yaml")),
}
FILES = {"own.yaml": RULES, "same.yaml": SAME_RULES, "other.yaml": OTHER_RULES}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_alerts(case: Case, run_test: Run) -> None:
    # ALERTS instead of alert_rule_test: one comparison says what fires and that nothing else does
    fired = "count by (alertname, signal, cause) (count by (alertname, signal, cause, baseline) "
    fired += '(ALERTS{alertstate="firing"}))'
    wanted = [{"labels": labels(*each), "value": case.firing.count(each)} for each in dict.fromkeys(case.firing)]
    check = {"expr": fired, "eval_time": f"{case.minute}m", "exp_samples": wanted}
    files = {file: FILES[file] for file in case.files}
    assert run_test(unit_test(case.files, case.gateways, promql_expr_test=[check]), files) == ""


def limits(*, unlimited: float, code: float) -> list[dict[str, str]]:
    """A minute's requests: all allow 512 tokens but those without a limit, and so many end with 429."""
    own = 'namespace="team-a",model="support",adapter="",tenant=""'
    upto = {"256": 0.0, "512": 20 - unlimited, "1024": 20 - unlimited, "+Inf": 20.0}
    rates = {f'llmops_gateway_max_tokens_bucket{{{own},le="{le}"}}': rate for le, rate in upto.items()}
    rates |= {
        f'llmops_gateway_requests_total{{{own},code="{status}"}}': rate
        for status, rate in (("200", 20 - code), ("429", code))
    }
    rates |= {f"llmops_gateway_connections{{{own}}}": 0.0}
    return [{"series": series, "values": f"0+{rate!r}x210"} for series, rate in rates.items()]


@pytest.mark.parametrize(
    ("unlimited", "code", "firing"),
    [(10, 1, []), (19, 1, ["MaxTokens"]), (10, 8, ["ErrorClass"]), (1, 12, ["ErrorClass", "MaxTokens"])],
)
def test_limits_and_errors_drift_too(unlimited: float, code: float, firing: list[str], run_test: Run) -> None:
    hour = Histogram((256, 512, 1024), (0, 600, 0, 600))
    codes = Categories({"200": 1140.0, "429": 60.0})
    baselines = [
        frozen("MaxTokens", [hour] * 10, key="k", signals=2, at=AT),
        frozen("ErrorClass", [codes] * 10, key="k", signals=2, at=AT),
    ]
    rules = rule_file(drift_groups(WATCHED, baselines, window="1h"))
    fired = 'count by (signal) (ALERTS{alertstate="firing"})'
    wanted = [{"labels": f'{{signal="{signal}"}}', "value": 1} for signal in firing]
    check = {"expr": fired, "eval_time": "200m", "exp_samples": wanted}
    test = {
        "rule_files": ["own.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {"interval": "1m", "input_series": limits(unlimited=unlimited, code=code), "promql_expr_test": [check]}
        ],
    }
    assert run_test(test, {"own.yaml": rules}) == ""


def labels(alert: str, signal: str, cause: str) -> str:
    given = {"alertname": alert, "signal": signal, "cause": cause}
    return "{" + ",".join(f'{key}="{text}"' for key, text in given.items() if text) + "}"


@pytest.mark.parametrize("tokens", [USUAL, LONGER, (1,) * 20, (50_000,) * 7], ids=["usual", "longer", "one", "above"])
def test_prometheus_computes_what_python_computes(tokens: tuple[int, ...], run_test: Run) -> None:
    score = against(histogram(tokens * 60), PROMPTS)
    assert score is not None
    shares = smoothed(binned(histogram(tokens * 60), PROMPTS.bins))
    wanted = {
        "llmops:drift_samples": score.samples,
        "llmops:drift_psi_debiased": score.debiased,
        "llmops:drift_jensen_shannon": score.jensen_shannon,
        "llmops:drift_kolmogorov_smirnov": score.kolmogorov_smirnov,
        **{
            f'llmops:drift_share{{bin="{each.label}"}}': share for each, share in zip(PROMPTS.bins, shares, strict=True)
        },
    }
    noise = f"(1 / {own('llmops:drift_samples')} + 1 / {own('llmops:drift_baseline_samples')})"
    asked = {own(series): value for series, value in wanted.items()}
    asked[f"{own('llmops:drift_psi_debiased')} / {noise}"] = score.chi_square - len(PROMPTS.bins) + 1
    checks = [
        {
            "expr": f"count(abs({expression} - {value!r}) < {1e-6 * max(abs(value), 1e-3)!r})",
            "eval_time": "150m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expression, value in asked.items()
    ]
    gateway = Gateway(phases=[Phase(minutes=160, tokens=tokens)])
    assert all(math.isfinite(value) for value in wanted.values())
    assert run_test(unit_test(["own.yaml"], [gateway], promql_expr_test=checks), {"own.yaml": RULES}) == ""


def own(series: str) -> str:
    name, _, more = series.partition("{")
    return f'{name}{{signal="PromptTokens"' + (f",{more}" if more else "}")


def test_an_empty_window_has_no_score(run_test: Run) -> None:
    gateway = Gateway(phases=[Phase(minutes=90), Phase(minutes=120, tokens=())])
    nothing = [
        {
            "expr": f'{{__name__=~"llmops:drift_(psi|chi|jensen|kolm).+",__name__!~".*_bin",signal="{signal}"}}',
            "eval_time": "190m",
            "exp_samples": [],
        }
        for signal in ("PromptTokens", "FinishReason")
    ]
    assert run_test(unit_test(["own.yaml"], [gateway], promql_expr_test=nothing), {"own.yaml": RULES}) == ""


def test_the_alert_explains_itself(run_test: Run) -> None:
    gateway = Gateway(phases=[Phase(minutes=90), Phase(minutes=120, tokens=LONGER)])
    score = against(histogram(LONGER * 60), PROMPTS)
    assert score is not None
    top = sorted(zip(score.terms, PROMPTS.bins, strict=True), key=lambda pair: -pair[0])[:3]
    bins = " ".join(f"{each.label} ({term:.3f})" for term, each in top)
    rule = next(rule for rule in drift_groups(WATCHED, [PROMPTS], window="1h")[0]["rules"] if "alert" in rule)
    alert = {
        "exp_labels": rule["labels"] | {"signal": PROMPTS.signal, "baseline": WATCHED.identity(PROMPTS)},
        "exp_annotations": {
            "summary": f"team-a/support: PromptTokens drifted, debiased PSI {score.debiased:.3f} over 0.100",
            "description": f"Bins that contribute most: {bins} of 1200 requests in 1h.",
        },
    }
    check = {"eval_time": "190m", "alertname": "LLMTrafficDrift", "exp_alerts": [alert]}
    assert run_test(unit_test(["own.yaml"], [gateway], alert_rule_test=[check]), {"own.yaml": RULES}) == ""


def test_promtool_accepts_the_example_of_a_plain_prometheus() -> None:
    """The newest one's: Debian builds its own without Kubernetes."""
    example = ROOT / "manifests" / "examples" / "monitoring" / "prometheus.yaml"
    checking = [program("promtool", "3"), "check", "config", "--syntax-only", example]
    subprocess.run(checking, check=True, capture_output=True)


def test_promtool_accepts_the_group(promtool: Any, tmp_path: Any) -> None:
    (tmp_path / "own.yaml").write_text(RULES)
    subprocess.run([promtool, "check", "rules", tmp_path / "own.yaml"], check=True, capture_output=True)
