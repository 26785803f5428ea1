"""What the losses of a run say, from transformers' log history: pure, so that report, status and stop agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

History = Sequence[dict[str, Any]]
PATIENCE = 3  # evaluations that must get worse, where the spec does not say


def losses(history: History) -> list[tuple[int, float]]:
    """Step and loss on the training rows, in order."""
    return [(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]


def evaluations(history: History) -> list[tuple[int, float]]:
    """Step and loss of every evaluation after the first step, in order."""
    return [
        (int(entry["step"]), float(entry["eval_loss"])) for entry in history if "eval_loss" in entry and entry["step"]
    ]


def best(history: History) -> tuple[int, float] | None:
    """Step and loss of the best evaluation so far; the base model's own does not count."""
    numbers = (found for found in evaluations(history) if math.isfinite(found[1]))
    return min(numbers, key=lambda found: found[1], default=None)


def base_loss(history: History) -> float | None:
    """The held-out loss before the first step: the base model's."""
    return next((float(entry["eval_loss"]) for entry in history if "eval_loss" in entry and not entry["step"]), None)


def since_best(history: History) -> int:
    """How many evaluations came after the best one."""
    found = best(history)
    return sum(step > found[0] for step, _ in evaluations(history)) if found else 0


def overfitting(history: History, patience: int | None) -> int:
    """The most evaluations in a row that were worse while the training loss fell; 0 below `patience`."""
    longest = run = 0
    trained = losses(history)
    for (before, old), (step, new) in pairwise(evaluations(history)):
        fell = _mean(trained, before, step) < _mean(trained, 2 * before - step, before)
        run = run + 1 if new > old and fell else 0
        longest = max(longest, run)
    return longest if longest >= (patience or PATIENCE) else 0


def _mean(trained: Sequence[tuple[int, float]], after: int, until: int) -> float:
    """Mean training loss of the steps between two evaluations; infinite where none was logged."""
    between = [loss for step, loss in trained if after < step <= until]
    return fmean(between) if between else float("inf")
