"""What a run's losses say, and what its runs remember of each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from llmops_serving.jobs.ending import Stopped
from llmops_serving.jobs.finetune import curves
from llmops_serving.jobs.finetune.attempts import Attempts, Memory
from llmops_serving.jobs.finetune.launch import verdict

Json = dict[str, Any]


def history(evaluated: list[float], trained: list[float]) -> list[Json]:
    """One evaluation per training loss, every ten steps, after the base model's."""
    found: list[Json] = [{"step": 0, "eval_loss": 9.0}]
    for number, (loss, held_out) in enumerate(zip(trained, evaluated, strict=True), start=1):
        found += [{"step": 10 * number, "loss": loss}, {"step": 10 * number, "eval_loss": held_out}]
    return found


FALLING = [3.0, 2.5, 2.0, 1.5, 1.2, 1.0]
CURVES: list[tuple[str, list[float], list[float], int | None, int]] = [
    ("both fall", [3, 2.6, 2.3, 2.1, 2.0, 1.9], FALLING, 2, 0),
    ("the held-out loss rises three times", [3, 2, 1.9, 2.0, 2.1, 2.2], FALLING, 3, 3),
    ("not often enough", [3, 2, 1.9, 1.8, 2.1, 2.2], FALLING, 3, 0),
    ("often enough for less patience", [3, 2, 1.9, 1.8, 2.1, 2.2], FALLING, 2, 2),
    ("both rise: that is something else", [1, 2, 3, 4, 5, 6], FALLING[::-1], 2, 0),
    ("it recovers, and was overfitting nevertheless", [3, 2, 2.1, 2.2, 2.3, 1.9], FALLING, 3, 3),
    ("nobody said how patient to be", [3, 2, 2.1, 2.2, 2.3, 2.4], FALLING, None, 4),
]


@pytest.mark.parametrize(
    ("evaluated", "trained", "patience", "expected"), [case[1:] for case in CURVES], ids=[case[0] for case in CURVES]
)
def test_overfitting_is_a_rising_held_out_loss_under_a_falling_one(
    evaluated: list[float], trained: list[float], patience: int | None, expected: int
) -> None:
    assert curves.overfitting(history(evaluated, trained), patience) == expected


def test_the_best_evaluation_is_never_the_base_models() -> None:
    found = history([9.5, 9.2, 9.4], [3, 2, 1])
    assert curves.best(found) == (20, 9.2)
    assert curves.base_loss(found) == 9.0
    assert curves.since_best(found) == 1
    assert curves.best([]) is curves.base_loss([]) is None
    assert curves.since_best([]) == curves.overfitting([], 1) == 0


def test_a_loss_that_is_no_number_is_not_the_best() -> None:
    assert curves.best(history([math.nan, 2.0, 3.0], [3, 2, 1])) == (20, 2.0)


def test_two_failures_at_one_step_are_the_last(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert [memory.began(0).runs, memory.began(0).runs] == [1, 2]
    with pytest.raises(Stopped, match="began at step 0") as refusal:
        memory.began(0)
    assert (refusal.value.outcome, refusal.value.exit_code) == ("NoProgress", 40)


def test_progress_and_being_told_to_stop_are_no_failures(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for step in (0, 0, 6, 6):
        memory.began(step)
    memory.forgive()
    assert memory.began(6) == Attempts(runs=5, step=6, failures=0)


def test_a_halved_micro_batch_is_remembered_and_a_torn_file_is_a_first_run(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.began(0)
    memory.halve()
    assert memory.began(6).halved
    (tmp_path / "attempts.json").write_text('{"runs": 3, "st')
    assert memory.read() == Attempts()


def test_of_several_processes_whoever_must_act_is_told_first() -> None:
    assert [verdict({43}), verdict({0, 43}), verdict({40, 43, 0}), verdict({0}), verdict(set())] == [43, 43, 40, 0, 1]
