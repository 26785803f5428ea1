"""Prometheus rules that compare a deployment's traffic with its frozen baselines, one group per deployment.

The baseline stands in the rules as literals. As gauges of the operator it would go stale when the operator restarts,
double when two of them run, and be renamed by the scrape. Every recorded series carries the baseline's digest, so an
expression can never mix two baselines: not while rules are reloaded, not when two rule files disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from llmops.api.drift import FrozenBaseline, Watched, Window, evaluation_seconds
from llmops.desired import drift_scores as series
from llmops.desired.drift_scores import SIGNAL, Rule, Scores, companion_seconds, duration, matchers

REQUESTS = "llmops_gateway_requests_total"
ALWAYS_PRESENT = "llmops_gateway_connections"  # every gateway exposes it from its start, traffic or not


def drift_groups(
    watched: Watched,
    baselines: Sequence[FrozenBaseline],
    *,
    window: Window,
    persistence_seconds: int = 900,
    runbooks: str | None = None,
) -> list[dict[str, Any]]:
    """The rule groups of one deployment: its scores and alerts, and what is only looked at beside them.

    Args:
        watched: Whose traffic.
        baselines: One per signal; signals that are still learning have none, and without any there are no groups.
        window: How much recent traffic is compared.
        persistence_seconds: How long a signal must lie over its bar before the alert fires.
        runbooks: URL of the page of runbooks; None leaves the annotation out.
    """
    if not baselines:
        return []
    scores = Scores(watched, tuple(baselines), window)
    alerts = _Alerts(scores, duration(persistence_seconds), runbooks)
    suffix = () if watched.adapter is None else (watched.adapter,)
    name = "-".join(("llmops-drift", watched.namespace, watched.model, *suffix))
    now = [*scores.rules(), alerts.drifted()]
    # Nothing urgent hangs on the second group: a new baseline is compared with four evaluations later, and what is
    # missing is told after half an hour.
    beside = [*scores.companions(), alerts.unscored(), *alerts.unseen()]
    return [
        {"name": name, "interval": duration(evaluation_seconds(window)), "rules": now},
        {"name": f"{name}-companions", "interval": duration(companion_seconds(window)), "rules": beside},
    ]


def runbook(page: str | None, alert: str) -> dict[str, str]:
    """The annotation that leads from an alert to its section of the page of runbooks."""
    return {"runbook_url": f"{page}#{alert.lower()}"} if page else {}


@dataclass(frozen=True)
class _Alerts:
    """Alerts for all signals; what drifts or has no score is told by the labels `signal` and `baseline`."""

    scores: Scores
    held: str
    runbooks: str | None

    @property
    def watched(self) -> Watched:
        return self.scores.watched

    def drifted(self) -> Rule:
        own, literal = self.scores.own, self.scores.literal
        expression = f"""
            {own(series.DEBIASED)} > on {SIGNAL} {literal(series.BAR)}
              and on (baseline) ({own(series.SAMPLES)} >= on (baseline) {literal(series.ENOUGH)})"""
        share, expected = _its(series.SHARE), f"last_over_time({_its(series.EXPECTED)}[{self.scores.behind}])"
        terms = f"({share} - on (bin) {expected}) * on (bin) ln({share} / on (bin) {expected})"
        return self.alert(
            series.DRIFT_ALERT,
            expression,
            {},
            held=self.held,
            summary=f'{self.name}: {{{{ $labels.signal }}}} drifted, debiased PSI {{{{ printf "%.3f" $value }}}} over '
            f'{{{{ range query {_of_alert(_its(series.BAR))} }}}}{{{{ printf "%.3f" .Value }}}}{{{{ end }}}}',
            description="Bins that contribute most: "
            f"{{{{ range query {_of_alert(f'topk(3, {terms})')} }}}}{{{{ .Labels.bin }}}} "
            f'({{{{ printf "%.3f" .Value }}}}) {{{{ end }}}}of {{{{ range query {_of_alert(_its(series.SAMPLES))} }}}}'
            f'{{{{ printf "%.0f" .Value }}}}{{{{ end }}}} requests in {self.scores.window}.',
        )

    def unscored(self) -> Rule:
        """Traffic without a score, which would otherwise disarm the alert in silence."""
        own, enough = self.scores.own, self.scores.literal(series.ENOUGH)
        answered = self.requests(self.watched.labels, 'code=~"2.."')
        return self.alert(
            "LLMDriftSignalMissing",
            f"2 * {enough} <= on () group_left () {answered}\n"
            f"unless on (baseline) ({own(series.DEBIASED)} and on (baseline) "
            f"({own(series.SAMPLES)} >= on (baseline) {enough}))",
            {"cause": "Buckets"},
            held="30m",
            summary=f"{self.name} has traffic, but {{{{ $labels.signal }}}} has no score",
            description="The gateway's buckets or labels are not those the baseline was frozen with. "
            f"Learn a new one: llmops drift rebase {self.watched.model}.",
        )

    def unseen(self) -> list[Rule]:
        """The same for all signals at once: no scrape, or one that renames the gateway's labels."""
        renamed = {("exported_" * (key == "namespace")) + key: text for key, text in self.watched.labels.items()}
        return [
            self.alert(
                "LLMDriftSignalMissing",
                f"absent_over_time({ALWAYS_PRESENT}[10m])",
                {"cause": "Scrape"},
                held="20m",
                summary=f"No gateway is scraped: drift of {self.name} is unknown",
                description="Prometheus has no series of it: check the scrape configuration and NetworkPolicy.",
            ),
            self.alert(
                "LLMDriftSignalMissing",
                f"{self.requests(renamed)} > 0",
                {"cause": "Labels"},
                held="30m",
                summary=f"The scrape renames the gateway's labels: drift of {self.name} is unknown",
                description="The gateway's series arrive with exported_namespace. Set honorLabels: true on its scrape.",
            ),
        ]

    def requests(self, labels: dict[str, str], *more: str) -> str:
        return f"sum(increase({REQUESTS}{{{matchers(labels, *more)}}}[{self.scores.window}]))"

    @property
    def name(self) -> str:
        return "/".join(self.watched.labels.values())

    def alert(self, name: str, expression: str, labels: dict[str, str], *, held: str, **texts: str) -> Rule:
        return {
            "alert": name,
            "expr": dedent(expression).strip(),
            "for": held,
            "labels": self.watched.labels | labels | {"severity": "warning"},
            "annotations": texts | runbook(self.runbooks, name),
        }


def _its(name: str) -> str:
    """Inside the query of an annotation: the series of the signal that alarms."""
    return f"{name}{{baseline=%[1]q}}"


def _of_alert(query: str) -> str:
    """A query about the signal that alarms."""
    return f'(printf "{query}" $labels.baseline)'
