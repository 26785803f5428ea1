"""Drift: what users may ask for (`spec.drift`), and the frozen baseline that rules and verdicts share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from llmops import names
from llmops.api.fields import ObjectName
from llmops.api.meta import SpecModel
from llmops.api.rules import MapByKey, Matches, Rule

Signal = Literal[
    "PromptTokens",
    "CompletionTokens",
    "FinishReason",
    "MaxTokens",
    "ErrorClass",
    "ToolCall",
    "PrefixHit",
    "EmptyAnswer",
    "Refusal",
    "Repetition",
    "JSONValidity",
    "Language",
]
SIGNALS: tuple[Signal, ...] = ("PromptTokens", "CompletionTokens", "FinishReason")  # those watched by default
INPUTS: frozenset[Signal] = frozenset({"PromptTokens", "MaxTokens"})  # what clients decide; all others are answers'
TEXT_SIGNALS: frozenset[Signal] = frozenset({"EmptyAnswer", "Refusal", "Repetition", "JSONValidity", "Language"})
Window = Literal["1m", "5m", "15m", "30m", "1h", "2h", "6h", "12h", "1d"]
Action = Literal["Alert", "FreezePromotion", "StartFineTune"]

WINDOW_SECONDS: dict[Window, int] = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "2h": 7200,
    "6h": 21_600,
    "12h": 43_200,
    "1d": 86_400,
}

# What `llmops drift ack` and `rebase` write on the object: an RFC 3339 time. Whatever began before it is meant.
ACKNOWLEDGED_ANNOTATION = f"{names.GROUP}/drift-acknowledged"
REBASED_ANNOTATION = f"{names.GROUP}/drift-rebased"


@dataclass(frozen=True)
class Series:
    """Where a signal stands in a gateway's metrics: the label tells its buckets or categories apart."""

    metric: str
    label: str
    where: tuple[tuple[str, str], ...] = ()

    @property
    def is_histogram(self) -> bool:
        """Whether its bins are buckets, which count upwards."""
        return self.label == "le"


def _tokens(token_type: str) -> Series:
    return Series("gen_ai_client_token_usage_bucket", "le", (("gen_ai_token_type", token_type),))


def _text(signal: str) -> Series:
    return Series("llmops_gateway_text_total", "value", (("signal", signal),))


SERIES: dict[Signal, Series] = {
    "PromptTokens": _tokens("input"),
    "CompletionTokens": _tokens("output"),
    "FinishReason": Series("llmops_gateway_finish_reason_total", "reason"),
    "MaxTokens": Series("llmops_gateway_max_tokens_bucket", "le"),
    "ErrorClass": Series("llmops_gateway_requests_total", "code"),
    "ToolCall": Series("llmops_gateway_tool_use_total", "use"),
    "PrefixHit": Series("llmops_gateway_prefix_hit_total", "share"),
    "EmptyAnswer": _text("empty"),
    "Refusal": _text("refusal"),
    "Repetition": _text("repetition"),
    "JSONValidity": _text("json"),
    "Language": _text("language"),
}

OTHER = "(other)"  # the bin of every category that the baseline does not name; parentheses: no engine's word for it

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
_PSI = "(0[.](0[1-9]|[1-9][0-9]?)[0-9]{0,2}|[1-9][0-9]?([.][0-9]{1,4})?)"


def evaluation_seconds(window: Window) -> int:
    """How often a window is looked at, by the rules and by the operator: sixty times while it passes, at most."""
    return min(60, WINDOW_SECONDS[window] // 60)


def moment(text: str) -> datetime | None:
    """An RFC 3339 time in UTC; None when it is not one."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class BaselineSpec(SpecModel):
    """What the deployment's traffic is compared with."""

    mode: Literal["Learn"] = Field(
        default="Learn",
        description="Learn: the deployment's own traffic, frozen once there is enough of it. Default: Learn.",
    )
    since: Annotated[
        str,
        Rule(
            cel=f"self.matches('^{_TIME}$') && timestamp(self) > timestamp('2020-01-01T00:00:00Z')",
            holds=lambda text: re.fullmatch(_TIME, text) is not None and (moment(text) or _EPOCH) > _EPOCH,
            message="'{self}' is not a time: write it like 2026-11-20T00:00:00Z",
        ),
        Field(max_length=20),
    ] | None = Field(
        default=None,
        description="Learn from here on, so that what Prometheus recorded earlier counts. Later revisions and rebases "
        "learn from their own begin. Default: when drift was switched on. Example: 2026-11-20T00:00:00Z.",
    )  # fmt: skip
    min_samples: Annotated[int, Field(ge=200, le=100_000_000)] = Field(
        default=2000, description="Requests to learn from before anything can alarm. Default: 2000."
    )
    min_days: Annotated[int, Field(ge=0, le=90)] = Field(
        default=7,
        description="Days to learn from before anything can alarm: a week knows the weekend. Default: 7.",
    )


class ThresholdSpec(SpecModel):
    """A bar set by hand."""

    signal: Signal = Field(description="Which signal. Example: PromptTokens.")
    psi: Annotated[
        str,
        Field(max_length=7),
        Matches(_PSI, "'{self}' is not a threshold: write a decimal of at least 0.01, as in 0.25"),
    ] = Field(description="Debiased PSI above which the signal drifts, in place of what was learned. Example: 0.25.")


class ActionSpec(SpecModel):
    """What follows when drift begins."""

    rules = (
        Rule(
            cel="(self.type == 'StartFineTune') == has(self.fineTuneJob)",
            holds=lambda action: (action.type == "StartFineTune") == (action.fine_tune_job is not None),
            message="fineTuneJob and type StartFineTune belong together: give both, or neither",
            path=".fineTuneJob",
        ),
    )

    type: Action = Field(
        description="Alert: condition, Event and Prometheus alert, which come in any case. FreezePromotion: adapters "
        "stay as they are. StartFineTune: a suspended copy of a FineTuneJob is made. Example: Alert."
    )
    cooldown_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = Field(
        default=86_400, description="Not again within this time, in seconds. Default: 86400."
    )
    fine_tune_job: ObjectName | None = Field(
        default=None,
        description="FineTuneJob of this namespace that StartFineTune copies. Default: none. Example: tickets.",
    )


class DriftSpec(SpecModel):
    """Watch the deployment's traffic for change, without looking at its text."""

    signals: Annotated[
        list[Signal],
        Field(min_length=1, max_length=12),
        Rule(
            cel="self.all(one, self.exists_one(other, other == one))",
            holds=lambda signals: len(set(signals)) == len(signals),
            message="a signal is named twice: leave one out",
        ),
    ] | None = Field(
        default=None,
        description="Which distributions are watched. MaxTokens: what requests allow. ErrorClass: status codes. "
        "ToolCall: tools offered and called. PrefixHit: prompt tokens from the engine's cache. EmptyAnswer, Refusal, "
        "Repetition, JSONValidity and Language look at text and need gateway.textSample. "
        "Default: PromptTokens, CompletionTokens, FinishReason. Example: [PromptTokens].",
    )  # fmt: skip
    baseline: BaselineSpec = Field(default=BaselineSpec(), description="What they are compared with.")
    window: Window = Field(
        default="1h",
        description="How much recent traffic is compared: a longer one sees smaller changes, later. Minutes are for "
        "hundreds of requests a minute. Another window learns its bar anew. Default: 1h.",
    )
    persistence_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=900,
        description="How long a signal must lie over its bar to drift, and under it to be well again. Default: 900.",
    )
    thresholds: Annotated[list[ThresholdSpec], MapByKey("signal")] = Field(
        default=[], max_length=12, description="Bars in place of learned ones. Try them with `llmops drift replay`."
    )
    actions: Annotated[list[ActionSpec], MapByKey("type")] = Field(
        default=[], max_length=3, description="What follows when drift begins, beside condition and alert."
    )

    @property
    def watches(self) -> tuple[Signal, ...]:
        """The signals, in the order in which they are told of."""
        return tuple(self.signals or SIGNALS)


class Frozen(BaseModel):
    """A value the operator stores for itself, as JSON beside the rules it generated."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class BaselineBin(Frozen):
    """One bin of a frozen baseline: merged neighbouring buckets, or one category.

    `lower` (exclusive) and `upper` (inclusive, None: no bound) are tokens; both are None for a category.
    """

    label: str
    count: float = Field(ge=0)
    lower: int | None = None
    upper: int | None = None


class FrozenBaseline(Frozen):
    """One signal's reference and the bar that was learned from it; numbers are final when it is made.

    `key` digests what the baseline is valid for (model, adapter, template, bucket set): another key, another baseline.
    `window` is the length the threshold was learned for, `learned_from` and `frozen_at` the ends of the reference.
    `bins` ascend and cover everything. `threshold` is debiased PSI, `chi_square_critical` the significance floor,
    `min_samples` the requests below which a window says nothing, `windows` how many windows taught the threshold.
    """

    key: str
    signal: Signal
    window: Window | None = None
    learned_from: datetime | None = None
    frozen_at: datetime
    bins: Annotated[tuple[BaselineBin, ...], Field(min_length=2, max_length=20)]
    threshold: float = Field(gt=0)
    chi_square_critical: float = Field(gt=0)
    min_samples: int = Field(gt=0)
    windows: int = Field(default=0, ge=0)

    @property
    def samples(self) -> float:
        """Requests in the reference."""
        return sum(each.count for each in self.bins)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each bin's share of the reference, smoothed as windows are: (c + 0.5) / (M + 0.5 K)."""
        whole = self.samples + 0.5 * len(self.bins)
        return tuple((each.count + 0.5) / whole for each in self.bins)

    @property
    def digest(self) -> str:
        """Names this baseline in series and rules, so that two of them can never be mixed up in one expression."""
        return names.digest([self.key, self.signal, [(each.label, each.count) for each in self.bins]], length=8)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Whose traffic: one model of one namespace, or one adapter of it (None: all its traffic)."""

    namespace: str
    model: str
    adapter: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """As the gateway's metrics and the recorded series carry them."""
        both = {"namespace": self.namespace, "model": self.model}
        return both if self.adapter is None else both | {"adapter": self.adapter}

    def identity(self, baseline: FrozenBaseline) -> str:
        """The baseline as a label of its series; it differs between deployments even where their baselines do not."""
        return names.digest([self.labels, baseline.digest], length=8)
