"""The adapter-effect probe: does the engine answer with the adapter as its training recorded, and not as without it.

An engine that finds no layer for an adapter's weights serves the base model under the adapter's name, and says
nothing. What its training measured on a few rows is in the artifact; the engine is asked for the same numbers. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

RECORD = "probe.json"
# Nats per token. Engines compute in other number formats than trainers and sum in another order.
NOISE = 0.02
# An effect below this part of the recorded one is none, and an answer further than this part from it is another one.
PART = 0.25


class Row(BaseModel):
    """One row of the record: its tokens, and the log-probabilities of those from `start` on, without and with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[int, ...] = Field(min_length=2)
    start: int = Field(ge=1)
    base: tuple[float, ...]
    tuned: tuple[float, ...]


class Recorded(BaseModel):
    """What training measured of its own result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    rows: tuple[Row, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Answered:
    """What the engine answered to one row: log-probabilities of its tokens, without and with the adapter."""

    base: tuple[float, ...]
    tuned: tuple[float, ...]


@dataclass(frozen=True)
class Flaw:
    """Why an adapter is not served: a condition's reason and a sentence with the numbers."""

    reason: str
    message: str


def flaw(recorded: Recorded, answered: Sequence[Answered]) -> Flaw | None:
    """What is wrong with an adapter, by mean absolute differences per token; `None` when it is proven.

    The engine's own distance from the record without the adapter is the measure of what numbers alone may do: another
    number format or quantization moves both sides alike.
    """
    base = [value for row in recorded.rows for value in row.base]
    tuned = [value for row in recorded.rows for value in row.tuned]
    without = [value for row in answered for value in row.base]
    with_it = [value for row in answered for value in row.tuned]
    meant, served = _distance(base, tuned), _distance(without, with_it)
    noise, error = _distance(base, without), _distance(tuned, with_it)
    if meant < NOISE / 10:
        return Flaw("AdapterNoEffect", f"Its training changed nothing: {meant:.4f} nats per token. Train it longer.")
    if served < PART * meant:
        return Flaw(
            "AdapterNoEffect",
            f"With it the engine answers as without it: {served:.4f} nats per token apart, {meant:.4f} were recorded. "
            "Its layers are not those of the served model.",
        )
    if noise > max(NOISE, meant):
        return Flaw(
            "AdapterMismatch",
            f"The served model is not the one it was trained on: without the adapter it is {noise:.4f} nats per token "
            "from the record.",
        )
    if error > max(NOISE, PART * meant, 3 * noise):
        return Flaw(
            "AdapterMismatch",
            f"The engine answers otherwise than its training recorded: {error:.4f} nats per token apart, of an effect "
            f"of {meant:.4f}. The engine does not use all of its layers.",
        )
    return None


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other) or not one:
        return float("inf")
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
