"""Prometheus rules that compare a deployment's traffic with its frozen baseline, one group per deployment.

The baseline stands in the rules as literals. As gauges of the operator it would go stale when the operator restarts,
double when two of them run, and be renamed by the scrape. Every recorded series carries the baseline's digest, so an
expression can never mix two baselines: not while rules are reloaded, not when two rule files disagree.

Forces that shape the expressions:
- `increase()` per series, then `sum`: the other way round a restarted gateway makes the sum jump backwards.
- `le` is read in both spellings ("200", "200.0"), because Prometheus 3 rewrites what Prometheus 2 stores as scraped,
  and after an upgrade one window holds both.
- Counts are smoothed and clamped: an empty bin would make PSI infinite, extrapolation makes counts of -1e-12.
- A score exists only when every bin of the baseline was found, so that a lost bin reads as "missing", never as "small".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from textwrap import dedent
from typing import Any

from llmops.api.drift import OTHER, SERIES, FrozenBaseline, Watched, Window, evaluation_seconds

Rule = dict[str, Any]

REQUESTS = "llmops_gateway_requests_total"
ALWAYS_PRESENT = "llmops_gateway_connections"  # every gateway exposes it from its start, traffic or not

_DECIMALS = '{{ printf "%.3f" $value }}'
_LAST_EDGE = 'hi="+Inf"'
WEEK_TOLERANCE = 2  # how far above its threshold a signal may lie and still be excused by the same hour last week


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
    held = duration(persistence_seconds)
    signals = [_Expressions(watched, each, window, held, runbooks) for each in baselines]
    if not signals:
        return []
    suffix = () if watched.adapter is None else (watched.adapter,)
    name = "-".join(("llmops-drift", watched.namespace, watched.model, *suffix))
    now = [*(rule for signal in signals for rule in signal.rules()), *signals[0].unseen()]
    beside = [rule for signal in signals for rule in signal.companions()]
    # Nothing urgent hangs on the second group. Four minutes: a series counts as gone after five.
    return [
        {"name": name, "interval": duration(evaluation_seconds(window)), "rules": now},
        {"name": f"{name}-companions", "interval": "4m", "rules": beside},
    ]


def duration(seconds: int) -> str:
    """As Prometheus prints it."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def runbook(page: str | None, alert: str) -> dict[str, str]:
    """The annotation that leads from an alert to its section of the page of runbooks."""
    return {"runbook_url": f"{page}#{alert.lower()}"} if page else {}


def quoted(text: str) -> str:
    """A PromQL string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def matchers(labels: dict[str, str], *more: str) -> str:
    """The inside of a PromQL selector's braces."""
    return ",".join([*(f"{key}={quoted(value)}" for key, value in labels.items()), *more])


@dataclass(frozen=True)
class _Expressions:
    """The rules of one signal; each property is one PromQL expression, and they build on each other top down."""

    watched: Watched
    baseline: FrozenBaseline
    window: Window
    held: str
    runbooks: str | None

    def rules(self) -> list[Rule]:
        scores = {
            "llmops:drift_psi_bin": self.psi_terms,
            "llmops:drift_psi": self.psi,
            "llmops:drift_psi_debiased": self.debiased,
            "llmops:drift_chi_square": self.chi_square,
        }
        return [
            *self.frozen(),
            *self.counted(),
            *(self.record(name, text) for name, text in scores.items()),
            self.drifted(),
            self.unscored(),
        ]

    def companions(self) -> list[Rule]:
        """What people look at beside the score, and the hour of last week that may excuse it."""
        shape = [self.record("llmops:drift_jensen_shannon", self.jensen_shannon)]
        if self.is_histogram:
            shape.append(self.record("llmops:drift_kolmogorov_smirnov", self.kolmogorov_smirnov))
        return [
            *shape,
            *self.counted(then="_last_week", offset=" offset 1w"),
            self.record("llmops:drift_psi_last_week", self.last_week),
        ]

    # -- what identifies the series ------------------------------------------------------------------------------

    @property
    def is_histogram(self) -> bool:
        return SERIES[self.baseline.signal].is_histogram

    @property
    def identity(self) -> str:
        return self.watched.identity(self.baseline)

    @property
    def labels(self) -> dict[str, str]:
        return self.watched.labels | {"signal": self.baseline.signal, "baseline": self.identity}

    def record(self, name: str, expression: str, **labels: str) -> Rule:
        return {"record": name, "expr": expression, "labels": self.labels | labels}

    def own(self, name: str, *more: str) -> str:
        """Selects recorded series; one matcher is enough, and each further one costs as much again."""
        return f"{name}{{{matchers({'baseline': self.identity}, *more)}}}"

    def source(self, *more: str, metric: str | None = None, offset: str = "") -> str:
        """`increase()` of the gateway's series of this signal."""
        series = SERIES[self.baseline.signal]
        where = self.watched.labels | ({} if metric else dict(series.where))
        return f"increase({metric or series.metric}{{{matchers(where, *more)}}}[{self.window}]{offset})"

    # -- the baseline as literals --------------------------------------------------------------------------------

    def frozen(self) -> list[Rule]:
        edges = [
            {"lo": str(each.lower or 0), "hi": str(each.upper or "+Inf")} if self.is_histogram else {}
            for each in self.baseline.bins
        ]
        shares = [
            self.record("llmops:drift_baseline_share", f"vector({share!r})", bin=each.label, **edge)
            for each, share, edge in zip(self.baseline.bins, self.baseline.shares, edges, strict=True)
        ]
        return [*shares, self.record("llmops:drift_threshold", f"vector({self.baseline.threshold!r})")]

    @property
    def bins(self) -> int:
        return len(self.baseline.bins)

    @property
    def expected(self) -> str:
        return self.own("llmops:drift_baseline_share")

    # -- counting: `then` is "" or "_last_week", the suffix of the series that hold it ----------------------------

    def counted(self, *, then: str = "", offset: str = "") -> list[Rule]:
        if self.is_histogram:
            upto = [self.record(f"llmops:drift_cumulative{then}", self.cumulative(offset))]
            samples, counts = f"sum({self.own(f'llmops:drift_cumulative{then}', _LAST_EDGE)})", self.differences(then)
        else:
            upto, samples, counts = [], f"sum({self.source(offset=offset)})", self.categories(offset)
        return [
            *upto,
            self.record(f"llmops:drift_samples{then}", samples),
            self.record(f"llmops:drift_share{then}", self.share(counts, then)),
        ]

    def cumulative(self, offset: str) -> str:
        """Requests up to each edge that the baseline uses, by edge as a whole number (`hi`)."""
        edges = "|".join(str(each.upper or "[+]Inf") for each in self.baseline.bins)
        found = self.source(f'le=~"({edges})([.]0)?"', offset=offset)
        upto = f'sum by (hi) (label_replace({found}, "hi", "$1", "le", "(.+?)([.]0)?"))'
        return f'{upto}\nor label_replace(vector(0), "hi", "0", "", "")'

    def differences(self, then: str) -> str:
        """Requests per bin: up to its upper edge, less up to its lower one; a bin whose edge is gone is left out.

        Adding the baseline's shares on both sides, where they cancel, is how the counts come by the name of their bin.
        """
        upto, named = self.own(f"llmops:drift_cumulative{then}"), self.expected
        return (
            f"({named} + on (hi) group_left () {upto})\n"
            f'- on (bin) ({named} + on (lo) group_left () label_replace({upto}, "lo", "$1", "hi", "(.*)"))'
        )

    def categories(self, offset: str) -> str:
        """Requests per named category, and all the others together; a category nobody used counts zero."""
        label = SERIES[self.baseline.signal].label
        named = quoted("|".join(_literal(each.label) for each in self.baseline.bins if each.label != OTHER))
        known, others = (self.source(f"{label}{which}{named}", offset=offset) for which in ("=~", "!~"))
        return (
            f'sum by (bin) (label_replace({known}, "bin", "$1", "{label}", "(.*)"))\n'
            f'or label_replace(sum({others}), "bin", "{OTHER}", "", "")\n'
            f"or sum by (bin) (0 * {self.expected})"
        )

    def share(self, counts: str, then: str) -> str:
        """Smoothed share of each bin, as the baseline's are: (c + 0.5) / (N + 0.5 K)."""
        samples = self.own(f"llmops:drift_samples{then}")
        return f"(clamp_min({counts}, 0) + 0.5)\n/ on () group_left () ((sum({samples}) > 0) + {0.5 * self.bins!r})"

    # -- comparing -----------------------------------------------------------------------------------------------

    @property
    def psi_terms(self) -> str:
        share = self.own("llmops:drift_share")
        return f"({share} - on (bin) {self.expected}) * on (bin) ln({share} / on (bin) {self.expected})"

    def whole(self, terms: str, count: str) -> str:
        """The sum over bins, and nothing at all when one of them is missing."""
        return f"sum({terms}) and on () (count({count}) == {self.bins})"

    @property
    def n(self) -> str:
        return f"sum({self.own('llmops:drift_samples')})"

    @property
    def noise(self) -> str:
        return f"(1 / {self.n} + {1 / self.baseline.samples!r})"

    @property
    def psi(self) -> str:
        terms = self.own("llmops:drift_psi_bin")
        return self.whole(terms, terms)

    @property
    def debiased(self) -> str:
        return f"sum({self.own('llmops:drift_psi')}) - {self.bins - 1} * {self.noise}"

    @property
    def chi_square(self) -> str:
        return f"sum({self.own('llmops:drift_psi')}) / {self.noise}"

    @property
    def jensen_shannon(self) -> str:
        """By entropies: half of the window's and of the baseline's, less that of their mean; one of them is known."""
        share = self.own("llmops:drift_share")
        middle = f"0.5 * ({share} + on (bin) {self.expected})"
        known = 0.5 * sum(each * log(each) for each in self.baseline.shares)
        divergence = f"0.5 * sum({share} * ln({share})) + {known!r} - sum({middle} * ln({middle}))"
        return f"sqrt(clamp_min({divergence}, 0) / {log(2)!r}) and on () {self.own('llmops:drift_psi')}"

    @property
    def kolmogorov_smirnov(self) -> str:
        upto = accumulate(each.count / self.baseline.samples for each in self.baseline.bins)
        literals = "\nor ".join(
            f'label_replace(vector({share!r}), "hi", "{each.upper}", "", "")'
            for each, share in zip(self.baseline.bins[:-1], upto, strict=False)
        )
        shares = f"{self.own('llmops:drift_cumulative')} / on () group_left () {self.n}"
        return f"max(abs({shares} - on (hi) (\n{literals}))) and on () {self.own('llmops:drift_psi')}"

    @property
    def last_week(self) -> str:
        """Debiased PSI against the same hour of last week; absent until that hour held enough requests."""
        then, share = self.own("llmops:drift_share_last_week"), self.own("llmops:drift_share")
        n_then = f"sum({self.own('llmops:drift_samples_last_week')})"
        terms = f"({share} - on (bin) {then}) * on (bin) ln({share} / on (bin) {then})"
        noise = f"(1 / {self.n} + 1 / {n_then})"
        enough = f"{n_then} >= {self.baseline.min_samples}"
        return f"({self.whole(terms, then)} and on () ({enough})) - {self.bins - 1} * {noise}"

    # -- alerts --------------------------------------------------------------------------------------------------

    def drifted(self) -> Rule:
        bar, score = self.baseline, self.own("llmops:drift_psi_debiased")
        then = {"alertname": "LLMTrafficDrift", "alertstate": "firing", "adapter": ""} | self.watched.labels
        expression = f"""
            {score} > {bar.threshold!r}
              and on () {self.own("llmops:drift_chi_square")} > {bar.chi_square_critical!r}
              and on () {self.own("llmops:drift_samples")} >= {bar.min_samples}
              unless on () (
                {self.own("llmops:drift_psi_last_week")} <= {bar.threshold!r}
                  and on () {score} <= {WEEK_TOLERANCE * bar.threshold!r}
                  unless on () ALERTS{{{matchers(then | {"signal": bar.signal})}}} offset 1w
              )"""
        bins, requests = self.own("llmops:drift_psi_bin"), self.own("llmops:drift_samples")
        return self.alert(
            "LLMTrafficDrift",
            expression,
            self.labels,
            held=self.held,
            summary=f"{self.name}: {bar.signal} drifted, debiased PSI {_DECIMALS} over {bar.threshold:.3f}",
            description=f"Bins that contribute most: {{{{ range query `topk(3, {bins})` }}}}{{{{ .Labels.bin }}}} "
            f'({{{{ printf "%.3f" .Value }}}}) {{{{ end }}}}of {{{{ range query `{requests}` }}}}'
            f'{{{{ printf "%.0f" .Value }}}}{{{{ end }}}} requests in {self.window}.',
        )

    def unscored(self) -> Rule:
        """Traffic without a score, which would otherwise disarm the alert in silence."""
        enough, signal = self.baseline.min_samples, self.baseline.signal
        scored = f"({self.own('llmops:drift_psi')} and on () {self.own('llmops:drift_samples')} >= {enough})"
        answered = self.source('code=~"2.."', metric=REQUESTS)
        return self.alert(
            "LLMDriftSignalMissing",
            f"sum({answered}) >= {2 * enough} unless on () {scored}",
            self.labels | {"cause": "Buckets"},
            held="30m",
            summary=f"{self.name} has traffic, but {signal} has no score",
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
                self.watched.labels | {"cause": "Scrape"},
                held="20m",
                summary=f"No gateway is scraped: drift of {self.name} is unknown",
                description="Prometheus has no series of it: check the scrape configuration and NetworkPolicy.",
            ),
            self.alert(
                "LLMDriftSignalMissing",
                f"sum(increase({REQUESTS}{{{matchers(renamed)}}}[{self.window}])) > 0",
                self.watched.labels | {"cause": "Labels"},
                held="30m",
                summary=f"The scrape renames the gateway's labels: drift of {self.name} is unknown",
                description="The gateway's series arrive with exported_namespace. Set honorLabels: true on its scrape.",
            ),
        ]

    @property
    def name(self) -> str:
        return "/".join(self.watched.labels.values())

    def alert(self, name: str, expression: str, labels: dict[str, str], *, held: str, **texts: str) -> Rule:
        return {
            "alert": name,
            "expr": dedent(expression).strip(),
            "for": held,
            "labels": labels | {"severity": "warning"},
            "annotations": texts | runbook(self.runbooks, name),
        }


def _literal(text: str) -> str:
    """A category inside a regular expression, without characters that mean something there."""
    return "".join(letter if letter.isalnum() or letter in "_-" else f"[{letter}]" for letter in text)
