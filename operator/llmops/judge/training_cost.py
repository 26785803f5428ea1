"""How long a training run takes and what it costs, before it begins.

Arithmetic per trained token: 6 operations per weight, 2 forwards and 4 backwards (Kaplan et al. 2020, section 2.1); an
adapter saves the gradients of the frozen weights, a third of that; recomputing activations adds another forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops.api.fine_tune_status import BaseModelStatus
from llmops.judge.cost import CENT, SECONDS_PER_HOUR

TRL_EPOCHS = Decimal(3)

# Hidden size, layers and vocabulary of usual models, by billions of weights.
SHAPES = {
    Decimal("0.5"): (896, 24, 151_936),
    Decimal("1.5"): (1536, 28, 151_936),
    Decimal(3): (2048, 36, 151_936),
    Decimal(8): (4096, 32, 128_256),
    Decimal(14): (5120, 48, 152_064),
    Decimal(32): (5120, 64, 152_064),
    Decimal(70): (8192, 80, 128_256),
    Decimal(405): (16_384, 126, 128_256),
}


@dataclass(frozen=True)
class Estimate:
    """Tokens that are trained, seconds that takes, accelerators it occupies, and the cost of it."""

    tokens: int
    seconds: int
    accelerators: int
    cost: Decimal | None

    @property
    def accelerator_hours(self) -> Decimal:
        """What spec.budget.gpuHours bounds."""
        return Decimal(self.seconds * self.accelerators) / SECONDS_PER_HOUR

    def disagreement(self, stated: Decimal) -> str:
        """A sentence when a stated cost is not the computed one, to the cent; empty when it is or nobody knows."""
        if self.cost is None or self.cost.quantize(CENT) == stated.quantize(CENT):
            return ""
        return f"{stated.quantize(CENT)} is stated, and {self.cost.quantize(CENT)} is computed."


def shaped(parameters: int, *, hidden: int = 0, layers: int = 0, vocabulary: int = 0) -> BaseModelStatus:
    """A model of so many weights; what is not told is that of the usual model nearest in size."""
    billions = Decimal(parameters) / 10**9
    near = min(SHAPES, key=lambda size: abs((size / billions).ln()))
    usual = SHAPES[near]
    return BaseModelStatus(
        parameters=parameters,
        hidden_size=hidden or usual[0],
        layers=layers or usual[1],
        vocabulary_size=vocabulary or usual[2],
    )


def tokens(spec: FineTuneJobSpec, *, rows: int, tokens_per_row: int) -> int:
    """Tokens that are trained: of max_steps steps where that is given, else of every row in every epoch."""
    asked = spec.hyperparameters
    longest = int(asked["max_length"]) if str(asked.get("max_length", "")).isdigit() else tokens_per_row
    each = min(longest, tokens_per_row)
    if str(asked.get("max_steps", "")).isdigit():
        batch = int(asked.get("per_device_train_batch_size", 8)) * int(asked.get("gradient_accumulation_steps", 1))
        return int(asked["max_steps"]) * batch * each * spec.nodes * spec.accelerator.count
    return int(Decimal(str(asked.get("num_train_epochs", TRL_EPOCHS))) * rows * each)


def operations_per_token(spec: FineTuneJobSpec, model: BaseModelStatus, *, gpu: bool) -> int:
    """Floating-point operations for one trained token."""
    passes = 6 if spec.method == "Full" else 4
    return (passes + (2 if gpu else 0)) * model.parameters


def estimate(
    spec: FineTuneJobSpec, trained: int, *, tokens_per_second: Decimal, price_per_hour: Decimal | None
) -> Estimate:
    """Time and cost of training so many tokens at the speed of one accelerator."""
    accelerators = spec.nodes * spec.accelerator.count
    seconds = int((trained / (tokens_per_second * accelerators)).to_integral_value(rounding="ROUND_CEILING"))
    paid = Decimal(seconds * accelerators) / SECONDS_PER_HOUR
    return Estimate(trained, seconds, accelerators, None if price_per_hour is None else paid * price_per_hour)
