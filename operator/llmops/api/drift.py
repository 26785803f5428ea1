"""Drift: what users may ask for (`spec.drift`), and the frozen baseline that rules and verdicts share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from llmops import names
from llmops.api.meta import SpecModel
from llmops.api.rules import Rule

Signal = Literal["PromptTokens", "CompletionTokens", "FinishReason"]
Window = Literal["15m", "30m", "1h", "2h", "6h", "12h", "1d"]

WINDOW_SECONDS: dict[Window, int] = {
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

OTHER = "(other)"  # the bin of every category that the baseline does not name; parentheses: no engine's word for it


class BaselineSpec(SpecModel):
    """What the deployment's traffic is compared with."""

    mode: Literal["Learn"] = Field(
        default="Learn", description="Learn: the deployment's own traffic, frozen once there is enough of it."
    )
    min_samples: int = Field(
        default=2000,
        ge=200,
        le=100_000_000,
        description="Requests to learn from before anything can alarm. Example: 2000.",
    )
    min_days: int = Field(
        default=7,
        ge=0,
        le=90,
        description="Days to learn from before anything can alarm; a week knows the weekend. 0: samples alone decide.",
    )


class ActionSpec(SpecModel):
    """What follows when drift begins."""

    rules = (
        Rule(
            cel="self.type != 'StartFineTune' || has(self.fineTuneJob)",
            holds=lambda action: action.type != "StartFineTune" or action.fine_tune_job is not None,
            message="type StartFineTune needs fineTuneJob: the name of the FineTuneJob to copy.",
            path=".fineTuneJob",
            cause="FieldValueRequired",
        ),
    )

    type: Literal["Alert", "FreezePromotion", "StartFineTune"] = Field(
        default="Alert",
        description="Alert: condition, event and Prometheus alert only. FreezePromotion: new adapters of fine-tunes "
        "are not promoted. StartFineTune: a suspended copy of a FineTuneJob is created for somebody to start.",
    )
    cooldown_seconds: int = Field(
        default=86_400, ge=0, le=2_592_000, description="Do not repeat the action sooner. Example: 86400."
    )
    fine_tune_job: str | None = Field(
        default=None, max_length=63, description="FineTuneJob of the same namespace that StartFineTune copies."
    )


class DriftSpec(SpecModel):
    """Watch the deployment's traffic for change, without looking at its text."""

    signals: Annotated[list[Signal], Field(min_length=1, max_length=8)] = Field(
        default=["PromptTokens", "CompletionTokens", "FinishReason"],
        description="Which distributions are watched. Example: [PromptTokens, CompletionTokens].",
    )
    baseline: BaselineSpec = Field(default=BaselineSpec(), description="What they are compared with.")
    window: Window = Field(
        default="1h", description="How much recent traffic is compared: longer sees smaller changes, later."
    )
    actions: list[ActionSpec] = Field(
        default=[ActionSpec()], max_length=8, description="What follows when drift begins. Default: Alert."
    )


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
    `bins` ascend and cover everything. `threshold` is debiased PSI, `chi_square_critical` the significance floor,
    `min_samples` the requests below which a window says nothing, `windows` how many windows taught the threshold.
    """

    key: str
    signal: Signal
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
