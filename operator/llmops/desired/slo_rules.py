"""Prometheus rules for the gateway's promises: error budgets burnt too fast, and what holds requests up.

Multi-window, multi-burn-rate alerts after the Google SRE Workbook, chapter 5: a long window says that it matters, a
short one that it still goes on. Both must hold, so that an alert comes soon and leaves soon. A minimum of requests
keeps one failure among three from paging anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmops.desired.drift_rules import runbook

Rule = dict[str, Any]

TO_FIRST = "gen_ai_server_time_to_first_token_seconds"
BETWEEN = "gen_ai_client_operation_time_per_output_chunk_seconds"
BY = "namespace, model"
MODEL = "{{ $labels.namespace }}/{{ $labels.model }}"
# (burn rate, long window, short window, severity): 2 % of a month's budget in an hour, 5 % in six, 10 % in three days.
BURNS = ((14.4, "1h", "5m", "critical"), (6.0, "6h", "30m", "critical"), (1.0, "3d", "6h", "warning"))
WINDOWS = sorted({window for burn in BURNS for window in burn[1:3]})


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What is promised. Seconds must be bounds of the gateway's histograms, or nothing is counted."""

    availability: float = 0.999
    fast_enough: float = 0.95
    first_token_seconds: float = 2.5
    between_tokens_seconds: float = 0.2
    least_requests: int = 50


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One objective: the share of `bad` among `all`, as PromQL with `$w` for the window."""

    key: str
    alert: str
    objective: float
    bad: str
    all: str
    says: str


@dataclass(frozen=True)
class Alert:
    """An alert: what it asks, how bad it is, for how long it must hold, and what it says of its model."""

    name: str
    expr: str
    severity: str
    held: str
    says: str
    of_model: bool = True

    def rule(self, runbooks: str | None, **labels: str) -> Rule:
        """As Prometheus reads it."""
        summary = f"{MODEL}: {self.says}" if self.of_model else self.says
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.held,
            "labels": {"severity": self.severity, **labels},
            "annotations": {"summary": summary} | runbook(runbooks, self.name),
        }


def slo_groups(objectives: Objectives | None = None, *, runbooks: str | None = None) -> list[dict[str, Any]]:
    """The groups for all models behind the gateway: recorded ratios, and the alerts on them."""
    wanted = objectives or Objectives()
    promises = _promises(wanted)
    ratios = [_ratio(promise, window) for promise in promises for window in WINDOWS]
    alerts = [_alert(promise, burn, wanted, runbooks) for promise in promises for burn in BURNS]
    queues = [each.rule(runbooks) for each in (*QUEUES, NO_GATEWAY)]
    return [
        {"name": "llmops-slo-ratios", "interval": "1m", "rules": ratios},
        {"name": "llmops-slo", "interval": "1m", "rules": [*alerts, *queues]},
    ]


def _promises(wanted: Objectives) -> tuple[Promise, ...]:
    return (
        Promise(
            key="availability",
            alert="LLMErrorBudgetBurn",
            objective=wanted.availability,
            bad=f'sum by ({BY}) (rate(llmops_gateway_requests_total{{code=~"5.."}}[$w]))',
            all=f"sum by ({BY}) (rate(llmops_gateway_requests_total[$w]))",
            says="answers are errors",
        ),
        _latency("first_token", "LLMFirstTokenSlow", TO_FIRST, wanted.first_token_seconds, wanted),
        _latency("between_tokens", "LLMTokensSlow", BETWEEN, wanted.between_tokens_seconds, wanted),
    )


def _latency(key: str, alert: str, metric: str, bound: float, wanted: Objectives) -> Promise:
    le = f"{bound:g}".replace(".", "[.]")
    everything = f"sum by ({BY}) (rate({metric}_count[$w]))"
    return Promise(
        key=key,
        alert=alert,
        objective=wanted.fast_enough,
        bad=f'{everything} - sum by ({BY}) (rate({metric}_bucket{{le=~"{le}([.]0)?"}}[$w]))',
        all=everything,
        says=f"take longer than {bound:g} s",
    )


def _ratio(promise: Promise, window: str) -> Rule:
    # A model without errors has no 5xx series at all: zero times its requests stands in, or its ratio would be missing.
    bad = f"(({promise.bad}) or 0 * {promise.all})".replace("$w", window)
    whole = f"({promise.all} > 0)".replace("$w", window)
    return {
        "record": f"llmops:slo_bad_ratio:{window}",
        "expr": f"{bad} / {whole}",
        "labels": {"slo": promise.key},
    }


def _alert(promise: Promise, burn: tuple[float, str, str, str], wanted: Objectives, runbooks: str | None) -> Rule:
    rate, long, short, severity = burn
    bar = f"{rate * (1 - promise.objective):.6g}"
    ratios = [f'llmops:slo_bad_ratio:{window}{{slo="{promise.key}"}}' for window in (long, short)]
    requests = f"sum by ({BY}) (increase(llmops_gateway_requests_total[{long}])) >= {wanted.least_requests}"
    alert = Alert(
        promise.alert,
        f"{ratios[0]} > {bar} and {ratios[1]} > {bar} and on ({BY}) ({requests})",
        severity,
        "2m",
        f"{{{{ $value | humanizePercentage }}}} of requests in {long} {promise.says}, "
        f"{rate:g} times what the objective of {promise.objective:.4g} allows",
    )
    return alert.rule(runbooks, window=long)


# What holds requests up before an engine sees them, and the loss of the gateway's own voice.
QUEUES = (
    Alert(
        "LLMRequestsHeld",
        f"sum by ({BY}) (llmops_gateway_held) > 0",
        "warning",
        "10m",
        "{{ $value }} requests have waited ten minutes for a pod; see its Ready condition",
    ),
    Alert(
        "LLMWakeUpFails",
        f'sum by ({BY}) (increase(llmops_gateway_requests_total{{code="503"}}[15m])) > 0'
        f" and on ({BY}) sum by ({BY}) (llmops_gateway_held) > 0",
        "critical",
        "5m",
        "held requests are given up with 503; the model does not wake",
    ),
    Alert(
        "LLMEngineQueue",
        f"avg by ({BY}) (vllm:num_requests_waiting) > 5",
        "warning",
        "10m",
        "{{ $value | humanize }} requests wait in each engine: more replicas help",
    ),
    Alert(
        "LLMKVCacheFull",
        f"min by ({BY}) (vllm:kv_cache_usage_perc) > 0.95",
        "warning",
        "10m",
        "the KV cache of every engine is full; requests are preempted and computed again",
    ),
    Alert(
        "LLMWaitsForGPU",
        f'max by ({BY}) (llmops_condition{{type="Ready",reason="WaitingForGPU"}}) > 0',
        "warning",
        "10m",
        "no node has the accelerators it asks for; its Ready condition says what is free",
    ),
    # It tells nobody anything: Alertmanager inhibits by it what a rollout explains.
    Alert(
        "LLMRollingOut",
        f'max by ({BY}) (llmops_condition{{type="Progressing"}}) > 0',
        "none",
        "0s",
        "a change is being rolled out",
    ),
)
NO_GATEWAY = Alert(
    "LLMGatewayMissing",
    "absent_over_time(llmops_gateway_connections[10m])",
    "critical",
    "5m",
    "Prometheus sees no gateway: neither load, latency nor drift of any model is known",
    of_model=False,
)
