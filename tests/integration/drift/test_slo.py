"""Error budgets: burnt fast, burnt slowly, not burnt; judged by promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.desired.alerts import rule_file
from llmops.desired.slo_rules import BETWEEN, slo_groups

RULES = rule_file(slo_groups())
OWN = 'namespace="team-a",model="support",adapter="",tenant="",pod="gateway-0"'


def engine(*, waiting: int, cache: float) -> list[dict[str, str]]:
    """Two engines of one model, the second idle in every way but these."""
    both = ('namespace="team-a",model="support",pod="engine-0"', 'namespace="team-a",model="support",pod="engine-1"')
    return [
        *({"series": f"vllm:num_requests_waiting{{{own}}}", "values": f"{waiting}x120"} for own in both),
        {"series": f"vllm:kv_cache_usage_perc{{{both[0]}}}", "values": "0.99x120"},
        {"series": f"vllm:kv_cache_usage_perc{{{both[1]}}}", "values": f"{cache}x120"},
    ]


def condition(kind: str, reason: str) -> list[dict[str, str]]:
    labels = f'namespace="team-a",model="support",type="{kind}",reason="{reason}"'
    return [{"series": f"llmops_condition{{{labels}}}", "values": "1x120"}]


def traffic(*, good: float, bad: float, fast: float, held: int, smooth: float = 100) -> list[dict[str, str]]:
    """Per minute: answers, errors, first tokens within 2.5 s, gaps within 0.2 s of an answer's 100; requests held."""
    whole = good + bad
    rates = {
        f'llmops_gateway_requests_total{{{OWN},code="200"}}': good,
        f'gen_ai_server_time_to_first_token_seconds_bucket{{{OWN},le="2.5"}}': fast,
        f"gen_ai_server_time_to_first_token_seconds_count{{{OWN}}}": whole,
        f'{BETWEEN}_bucket{{{OWN},le="0.2"}}': smooth * whole,
        f"{BETWEEN}_count{{{OWN}}}": 100 * whole,
    } | ({f'llmops_gateway_requests_total{{{OWN},code="503"}}': bad} if bad else {})
    gauges = {f"llmops_gateway_held{{{OWN}}}": held, f"llmops_gateway_connections{{{OWN}}}": 1}
    return [
        *({"series": series, "values": f"0+{rate}x120"} for series, rate in rates.items()),
        *({"series": series, "values": f"{value}x120"} for series, value in gauges.items()),
    ]


BURN, SLOW, HELD, WAKE = "LLMErrorBudgetBurn", "LLMFirstTokenSlow", "LLMRequestsHeld", "LLMWakeUpFails"
STUTTER = "LLMTokensSlow"
WELL = traffic(good=100, bad=0, fast=100, held=0)
CASES: dict[str, tuple[list[dict[str, str]], set[str]]] = {
    "all is well": (traffic(good=100, bad=0, fast=100, held=0), set()),
    "one answer in a thousand fails, as promised": (traffic(good=999, bad=1, fast=1000, held=0), set()),
    "one answer in twenty fails": (traffic(good=95, bad=5, fast=100, held=0), {BURN}),
    "one of very few answers fails": (traffic(good=0.1, bad=0.05, fast=0.15, held=0), set()),
    "every first token is slow": (traffic(good=100, bad=0, fast=0, held=0), {SLOW}),
    "one gap in two hundred is long": (traffic(good=100, bad=0, fast=100, held=0, smooth=99.5), set()),
    "every gap is long": (traffic(good=100, bad=0, fast=100, held=0, smooth=0), {STUTTER}),
    "requests are held for long": (traffic(good=100, bad=0, fast=100, held=3), {HELD}),
    "held requests are given up": (traffic(good=95, bad=5, fast=100, held=3), {BURN, HELD, WAKE}),
    "no gateway is scraped": ([], {"LLMGatewayMissing"}),
    "engines at work": (WELL + engine(waiting=2, cache=0.7), set()),
    "a queue in every engine": (WELL + engine(waiting=20, cache=0.7), {"LLMEngineQueue"}),
    "every KV cache is full": (WELL + engine(waiting=0, cache=0.97), {"LLMKVCacheFull"}),
    "no GPU is free": (WELL + condition("Ready", "WaitingForGPU"), {"LLMWaitsForGPU"}),
    "a rollout": (WELL + condition("Progressing", "RollingOut"), {"LLMRollingOut"}),
}


@pytest.mark.parametrize(("series", "firing"), CASES.values(), ids=CASES)
def test_alerts(
    series: list[dict[str, str]], firing: set[str], run_test: Callable[[dict[str, Any], dict[str, str]], str]
) -> None:
    wanted = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    check = {
        "expr": 'count by (alertname) (count by (alertname) (ALERTS{alertstate="firing"}))',
        "eval_time": "110m",
        "exp_samples": wanted,
    }
    test = {
        "rule_files": ["slo.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [check]}],
    }
    assert run_test(test, {"slo.yaml": RULES}) == ""


def test_every_alert_fires_in_some_case() -> None:
    known = {rule["alert"] for group in slo_groups() for rule in group["rules"] if "alert" in rule}
    assert known == set().union(*(firing for _, firing in CASES.values()))


def test_promtool_accepts_the_groups(promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text(RULES)
    subprocess.run([promtool, "check", "rules", tmp_path / "slo.yaml"], check=True, capture_output=True)
