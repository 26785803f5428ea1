"""Recording rules that score a deployment's traffic against its frozen baselines, all signals in each expression.

A rule costs a Prometheus some twenty microseconds before it computes anything, and each selector in it as much again:
it prints and parses the expression at every evaluation, its regular expressions included. So a rule is written once for
all signals where that is possible, selectors look for one short text (`baselines`), and vectors meet on the labels
`signal` and `baseline`: what is counted of one signal never meets another one's bins. And what never changes is not
written every minute: a baseline's literals are four times rarer, and read from the sixteen evaluations behind, which a
Prometheus may be away.

Forces that shape the expressions:
- `increase()` per series, then `sum`: the other way round a restarted gateway makes the sum jump backwards.
- `le` is read in both spellings ("200", "200.0"), because Prometheus 3 rewrites what Prometheus 2 stores as scraped,
  and after an upgrade one window holds both.
- Counts are smoothed and clamped: an empty bin would make PSI infinite, extrapolation makes counts of -1e-12.
- A score exists only when every bin of the baseline was found, so that a lost bin reads as "missing", never as "small".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import log
from typing import Any

from llmops import names
from llmops.api.drift import OTHER, SERIES, FrozenBaseline, Watched, Window, evaluation_seconds

Rule = dict[str, Any]

# Literals: the baseline, and the bars that a score must pass.
EXPECTED = "llmops:drift_baseline_share"
REFERENCE = "llmops:drift_baseline_samples"
THRESHOLD = "llmops:drift_threshold"
DEGREES = "llmops:drift_degrees"  # of freedom: one less than there are bins, K - 1
CRITICAL = "llmops:drift_excess_critical"  # by how much chi-square must pass its expectation, K - 1
ENOUGH = "llmops:drift_min_samples"
# Recorded.
SAMPLES = "llmops:drift_samples"
SHARE = "llmops:drift_share"
DEBIASED = "llmops:drift_psi_debiased"
CUMULATIVE = "llmops:drift_cumulative"
COUNT = "llmops:drift_count"
BAR = "llmops:drift_bar"  # what a score must pass now
DRIFT_ALERT = "LLMTrafficDrift"
LAST = "_last_week"  # at the end of a name: the same of that hour

WEEK_TOLERANCE = 2  # how far above its threshold a signal may lie and still be excused by the same hour last week

SIGNAL = "(signal, baseline)"
BIN = "(signal, baseline, bin)"
RANGE, CATEGORY = 'hi!=""', 'hi=""'  # two kinds of bins


def companion_seconds(window: Window) -> int:
    """How often the second group is evaluated. Four minutes at most: a series counts as gone after five."""
    return 4 * evaluation_seconds(window)


def duration(seconds: int) -> str:
    """As Prometheus prints it."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def quoted(text: str) -> str:
    """A PromQL string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def matchers(labels: dict[str, str], *more: str) -> str:
    """The inside of a PromQL selector's braces."""
    return ",".join([*(f"{key}={quoted(value)}" for key, value in labels.items()), *more])


@dataclass(frozen=True)
class Scores:
    """The expressions build on each other top down; `then` is "" or LAST."""

    watched: Watched
    baselines: tuple[FrozenBaseline, ...]
    window: Window

    def rules(self) -> list[Rule]:
        """Every score, in the order in which each needs the ones before."""
        return [
            *self.counted(),
            self.record(SAMPLES, self.samples()),
            self.record(SHARE, self.share()),
            self.record(DEBIASED, self.debiased),
        ]

    def companions(self) -> list[Rule]:
        """The baseline, what people look at beside the score, and the bar, for which last week is looked at."""
        return [
            *(rule for each in self.baselines for rule in self.frozen(each)),
            self.record("llmops:drift_jensen_shannon", self.jensen_shannon),
            *(self.of(each, "llmops:drift_kolmogorov_smirnov", self.gap(each)) for each in self.histograms),
            *self.counted(then=LAST, offset=" offset 1w"),
            self.record(BAR, self.bar),
        ]

    # -- what identifies the series ------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """All baselines as one label: of two rule files that disagree about one of them, neither writes the other's."""
        return names.digest([self.watched.identity(each) for each in self.baselines], length=8)

    @property
    def histograms(self) -> tuple[FrozenBaseline, ...]:
        return tuple(each for each in self.baselines if SERIES[each.signal].is_histogram)

    @property
    def categories(self) -> tuple[FrozenBaseline, ...]:
        return tuple(each for each in self.baselines if not SERIES[each.signal].is_histogram)

    def record(self, name: str, expression: str, **labels: str) -> Rule:
        """For all signals, which the expression or the labels tell apart."""
        return {
            "record": name,
            "expr": expression,
            "labels": self.watched.labels | {"baselines": self.identity} | labels,
        }

    def of(self, baseline: FrozenBaseline, name: str, expression: str, **labels: str) -> Rule:
        """For one signal."""
        about = {"signal": baseline.signal, "baseline": self.watched.identity(baseline)}
        return self.record(name, expression, **about, **labels)

    def own(self, name: str, *more: str) -> str:
        """Selects recorded series of all signals by one label alone: each further matcher costs as much again."""
        return f"{name}{{{matchers({'baselines': self.identity}, *more)}}}"

    def its(self, name: str, baseline: FrozenBaseline) -> str:
        """Selects recorded series of one signal."""
        return f"{name}{{{matchers({'baseline': self.watched.identity(baseline)})}}}"

    def source(self, baseline: FrozenBaseline, *more: str, offset: str = "") -> str:
        """`increase()` of the gateway's series of this signal."""
        series = SERIES[baseline.signal]
        where = matchers(self.watched.labels | dict(series.where), *more)
        return f"increase({series.metric}{{{where}}}[{self.window}]{offset})"

    # -- the baseline as literals --------------------------------------------------------------------------------

    def frozen(self, baseline: FrozenBaseline) -> list[Rule]:
        bars = {
            THRESHOLD: baseline.threshold,
            DEGREES: len(baseline.bins) - 1,
            ENOUGH: baseline.min_samples,
            REFERENCE: baseline.samples,
        }
        if baseline in self.doubtful:
            bars[CRITICAL] = _excess(baseline)
        ranges = SERIES[baseline.signal].is_histogram
        return [
            *(
                self.of(
                    baseline,
                    EXPECTED,
                    f"vector({share!r})",
                    bin=each.label,
                    **({"lo": str(each.lower or 0), "hi": str(each.upper or "+Inf")} if ranges else {}),
                )
                for each, share in zip(baseline.bins, baseline.shares, strict=True)
            ),
            *(self.of(baseline, name, f"vector({value!r})") for name, value in bars.items()),
        ]

    def literal(self, name: str, *more: str) -> str:
        """Selects what `frozen` wrote, or what is evaluated as rarely."""
        return f"last_over_time({self.own(name, *more)}[{self.behind}])"

    @property
    def behind(self) -> str:
        """How far back literals are looked for."""
        return duration(max(60, 4 * companion_seconds(self.window)))

    @property
    def expected(self) -> str:
        return self.literal(EXPECTED)

    @property
    def doubtful(self) -> tuple[FrozenBaseline, ...]:
        """Those whose score may lie over the threshold, of enough requests, and yet be what sampling alone makes.

        Of all others the third bar follows from the first two: what sampling makes is largest in the smallest sample.
        """
        return tuple(
            each
            for each in self.baselines
            if _excess(each) * (1 / each.min_samples + 1 / each.samples) > each.threshold
        )

    # -- counting ------------------------------------------------------------------------------------------------

    def counted(self, *, then: str = "", offset: str = "") -> list[Rule]:
        """Requests in the window: up to each edge, and in each category."""
        upto, count = CUMULATIVE + then, COUNT + then
        return [
            *(self.of(each, upto, self.upto_edges(each, offset)) for each in self.histograms),
            *(self.of(each, count, self.by_category(each, offset)) for each in self.categories),
        ]

    def samples(self, then: str = "") -> str:
        """Requests in the window."""
        counted = list[str]()
        if self.histograms:
            counted.append(self.own(CUMULATIVE + then, 'hi="+Inf"'))
        if self.categories:
            counted.append(self.own(COUNT + then))
        return "\nor ".join(f"sum by {SIGNAL} ({each})" for each in counted)

    def counts(self, then: str) -> str:
        """Requests per bin."""
        counted = list[str]()
        if self.histograms:
            counted.append(f"({self.differences(self.own(CUMULATIVE + then))})")
        if self.categories:
            named = f'label_replace({self.own(COUNT + then)}, "bin", "{OTHER}", "bin", "")'
            zero = f"0 * {self.literal(EXPECTED, CATEGORY)}"  # a category nobody used
            counted.append(f"({named} or on {BIN} {zero})")
        return "\nor ".join(counted)

    def upto_edges(self, baseline: FrozenBaseline, offset: str) -> str:
        """Requests up to each edge that the baseline uses, by edge as a whole number (`hi`).

        Both spellings in full: whole words are looked up, a pattern is tried on every bucket there is.
        """
        edges = [str(each.upper) for each in baseline.bins if each.upper is not None]
        spelled = "|".join([*edges, *(rf"{edge}\.0" for edge in edges), r"\+Inf"])
        found = self.source(baseline, f"le=~{quoted(spelled)}", offset=offset)
        return f'sum by (hi) (label_replace({found}, "hi", "$1", "le", "(.+?)([.]0)?"))'

    def by_category(self, baseline: FrozenBaseline, offset: str) -> str:
        """Requests per named category, and all the others together: those have no `bin` yet."""
        named = quoted("|".join(_literal(each.label) for each in baseline.bins if each.label != OTHER))
        found, label = self.source(baseline, offset=offset), SERIES[baseline.signal].label
        return f'sum by (bin) (label_replace({found}, "bin", "$0", "{label}", {named}))'

    def differences(self, upto: str) -> str:
        """Requests per bin: up to its upper edge, less up to its lower one; a bin whose edge is gone is left out.

        Adding the baseline's shares on both sides, where they cancel, is how the counts come by the name of their bin.
        """
        named, first = (self.literal(EXPECTED, edge) for edge in (RANGE, 'lo="0"'))
        lower = f'label_replace({upto}, "lo", "$1", "hi", "(.*)")'
        return (
            f"({named} + on (baseline, hi) group_left () {upto})\n"
            f"- on {BIN} (({named} + on (baseline, lo) group_left () {lower}) or {first})"
        )

    def share(self, then: str = "") -> str:
        """Smoothed share of each bin, as the baseline's are: (c + 0.5) / (N + 0.5 K)."""
        samples = f"({self.samples(then)})" if then else self.own(SAMPLES)
        whole = f"(({samples} > 0) + on (baseline) 0.5 * ({self.literal(DEGREES)} + 1))"
        return f"(clamp_min({self.counts(then)}, 0) + 0.5)\n/ on (baseline) group_left () {whole}"

    # -- comparing -----------------------------------------------------------------------------------------------

    def scored(self, reference: str, samples: str, lost: str) -> str:
        """Debiased PSI against a reference: its shares and its sample; absent for a baseline with `lost` bins."""
        share = self.own(SHARE)
        terms = f"({share} - on {BIN} {reference}) * on {BIN} ln({share} / on {BIN} {reference})"
        bias = f"{self.literal(DEGREES)} * on {SIGNAL} {self.noise(samples)}"
        score = f"sum without (bin) ({terms})" + (f"\nunless on (baseline) ({lost})" if lost else "")
        return f"({score})\n- on {SIGNAL} {bias}"

    def noise(self, reference: str) -> str:
        """Times K - 1, what sampling alone adds to PSI on average; PSI in units of it follows chi-square."""
        return f"(1 / {self.own(SAMPLES)} + on {SIGNAL} 1 / {reference})"

    @property
    def debiased(self) -> str:
        """Edges can be lost, categories cannot: those that are not there were not used."""
        return self.scored(self.expected, self.literal(REFERENCE), self.lost(CUMULATIVE))

    def lost(self, upto: str) -> str:
        """The baselines whose edges are not all there: there are as many as bins."""
        if not self.histograms:
            return ""
        return f"count by (baseline) ({self.own(upto)}) <= on (baseline) {self.literal(DEGREES)}"

    @property
    def bar(self) -> str:
        """What a score must pass: its threshold, or more where last week or the size of the sample explains it.

        Neither changes within minutes: the bar is looked at four times more rarely than the score.
        """
        threshold = self.literal(THRESHOLD)
        excused = f"{WEEK_TOLERANCE} * {threshold} and on (baseline) (({self.last_week}) <= on {SIGNAL} {threshold})"
        bars = [threshold, f'label_replace({excused}, "by", "last week", "", "")']
        if self.doubtful:
            sampled = f"{self.literal(CRITICAL)} * on {SIGNAL} {self.noise(self.literal(REFERENCE))}"
            bars.append(f'label_replace({sampled}, "by", "sampling", "", "")')
        return f"max by {SIGNAL} (" + "\nor ".join(bars) + ")"

    @property
    def last_week(self) -> str:
        """The same against that hour of last week; absent if it held too few requests, or alarmed itself."""
        then, samples = f"({self.share(LAST)})", f"({self.samples(LAST)})"
        enough = f"({samples} >= on (baseline) {self.literal(ENOUGH)})"
        return (
            f"({self.scored(then, samples, self.lost(CUMULATIVE + LAST))})\nand on (baseline) {enough}\n"
            f"unless on (signal) {self.alarmed}"
        )

    @property
    def alarmed(self) -> str:
        """The signals that alarmed at that time: what was a drift then is no excuse now."""
        then = {"alertname": DRIFT_ALERT, "alertstate": "firing", "adapter": ""} | self.watched.labels
        return f"ALERTS{{{matchers(then)}}} offset 1w"

    @property
    def jensen_shannon(self) -> str:
        """By entropies: half of the window's and of the baseline's, less that of their mean."""
        middle = f"(0.5 * ({self.own(SHARE)} + on {BIN} {self.expected}))"
        window, known, both = (
            f"sum by {SIGNAL} ({each} * ln({each}))" for each in (self.own(SHARE), self.expected, middle)
        )
        divergence = f"0.5 * ({window} + {known}) - {both}"
        return f"sqrt(clamp_min({divergence}, 0) / {log(2)!r})\nand on (baseline) {self.own(DEBIASED)}"

    def gap(self, baseline: FrozenBaseline) -> str:
        """Kolmogorov-Smirnov: the largest gap between the shares up to each edge."""
        upto = accumulate(each.count / baseline.samples for each in baseline.bins)
        literals = "\nor ".join(
            f'label_replace(vector({share!r}), "hi", "{each.upper}", "", "")'
            for each, share in zip(baseline.bins[:-1], upto, strict=False)
        )
        cumulative, samples, psi = (self.its(name, baseline) for name in (CUMULATIVE, SAMPLES, DEBIASED))
        shares = f"{cumulative} / on () group_left () {samples}"
        return f"max(abs({shares} - on (hi) (\n{literals}))) and on () {psi}"


def _excess(baseline: FrozenBaseline) -> float:
    """By how much chi-square must pass its expectation."""
    return baseline.chi_square_critical - len(baseline.bins) + 1


def _literal(text: str) -> str:
    """A category inside a regular expression, without characters that mean something there."""
    return "".join(letter if letter.isalnum() or letter in "_-" else f"[{letter}]" for letter in text)
