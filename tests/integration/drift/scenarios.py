"""Traffic as promtool understands it: what the gateway's counters look like while something happens to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from llmops import names
from llmops.api.drift import FrozenBaseline, Watched
from llmops.judge.drift.baseline import Categories, Histogram, counted
from llmops.judge.drift.threshold import frozen

WATCHED = Watched(namespace="team-a", model="support")
AT = datetime(2026, 11, 20, tzinfo=UTC)

# Prompt tokens of the requests that arrive in one minute.
USUAL = (40, 45, 110, 115, 118, 200, 210, 220, 231, 400, 410, 420, 450, 800, 850, 880, 1500, 1600, 1700, 3000)
LONGER = (200, 210, 800, 850, 880, 1500, 1600, *[1700] * 3, *[3000] * 9, 9000)
REASONS = {"stop": 18.0, "length": 2.0}


# The gateway's own, less those that this traffic does not tell apart.
EDGES = tuple(edge for edge in names.TOKEN_BUCKETS if 30 <= edge <= 6000)


def histogram(tokens: Iterable[int], edges: tuple[int, ...] = EDGES) -> Histogram:
    return counted(tokens, edges)


def learned(key: str = "model@1") -> list[FrozenBaseline]:
    hour = histogram(USUAL * 60)
    reasons = Categories({reason: count * 60 for reason, count in REASONS.items()})
    return [
        frozen("PromptTokens", [hour] * 10, key=key, signals=2, at=AT),
        frozen("FinishReason", [reasons] * 10, key=key, signals=2, at=AT),
    ]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some minutes of even traffic.

    `tokens` None: there is no gateway. `every`: minutes between such batches. `restart`: counters begin at zero.
    `scraped` False: the gateway counts and nobody looks.
    """

    minutes: int
    tokens: Sequence[int] | None = USUAL
    reasons: Mapping[str, float] = field(default_factory=lambda: REASONS)
    every: int = 1
    restart: bool = False
    scraped: bool = True


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """One gateway pod and what it counts."""

    phases: Sequence[Phase]
    pod: str = "gateway-0"
    edges: tuple[int, ...] = EDGES
    spelling: str = "{}"
    respelled_after: int | None = None
    namespace_label: str = "namespace"

    def series(self) -> list[dict[str, str]]:
        own = {self.namespace_label: "team-a", "model": "support", "adapter": "", "tenant": "acme", "pod": self.pod}
        of_phase = [None if each.tokens is None else histogram(each.tokens, self.edges) for each in self.phases]
        spelled = [self.spelling.format(edge) for edge in self.edges] + ["+Inf"]
        counters = {
            bucket(own, le): [None if counts is None else sum(counts.counts[: index + 1]) for counts in of_phase]
            for index, le in enumerate(spelled)
        }
        for reason in sorted({reason for each in self.phases for reason in each.reasons}):
            counters[name(own | {"reason": reason}, "llmops_gateway_finish_reason_total")] = [
                None if each.tokens is None else each.reasons.get(reason, 0.0) * bool(each.tokens)
                for each in self.phases
            ]
        counters[name(own | {"code": "200"}, "llmops_gateway_requests_total")] = [
            None if each.tokens is None else float(len(each.tokens)) for each in self.phases
        ]
        lines = [{"series": series, "values": self.values(rates)} for series, rates in counters.items()]
        up = self.values([None if each.tokens is None else 0.0 for each in self.phases])
        gauge = {"series": name({"pod": self.pod}, "llmops_gateway_connections"), "values": up}
        return [*self.respelled(lines), gauge]

    def respelled(self, lines: list[dict[str, str]]) -> list[dict[str, str]]:
        """From `respelled_after` minutes on, the same counters arrive as le="200.0" where they were le="200"."""
        if self.respelled_after is None:
            return lines
        first, second = self.phases
        assert first.minutes == self.respelled_after
        kept = []
        for line in lines:
            before, after = line["values"].split(" ")
            old, new = line["series"], re.sub(r'le="(\d+)"', r'le="\1.0"', line["series"])
            gaps = (f"_x{first.minutes}", f"_x{second.minutes}")
            both = (
                [(old, f"{before} {gaps[1]}"), (new, f"{gaps[0]} {after}")] if new != old else [(old, line["values"])]
            )
            kept += [{"series": series, "values": values} for series, values in both]
        return kept

    def values(self, rates: Sequence[float | None]) -> str:
        """Promtool's notation: `a+bxn` is n + 1 samples, `_xn` is n gaps."""
        parts, now = [], 0.0
        for phase, rate in zip(self.phases, rates, strict=True):
            now = 0.0 if phase.restart or rate is None else now
            step = (rate or 0.0) / phase.every
            seen = rate is not None and phase.scraped
            parts.append(f"{now + step!r}+{step!r}x{phase.minutes - 1}" if seen else f"_x{phase.minutes}")
            now += step * phase.minutes
        return " ".join(parts)


def bucket(labels: Mapping[str, str], le: str) -> str:
    return name({"le": le, "gen_ai_token_type": "input", **labels}, "gen_ai_client_token_usage_bucket")


def name(labels: Mapping[str, str], metric: str) -> str:
    inside = ",".join(f'{key}="{text}"' for key, text in sorted(labels.items()))
    return f"{metric}{{{inside}}}"


def unit_test(rule_files: Sequence[str], gateways: Sequence[Gateway], **checks: Any) -> dict[str, Any]:
    """One promtool test; `checks` are its alert_rule_test and promql_expr_test."""
    series = [line for gateway in gateways for line in gateway.series()]
    return {
        "rule_files": list(rule_files),
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, **checks}],
    }
