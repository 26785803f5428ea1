"""How runs end and what they leave, by method and by what goes wrong: each one process that trains for seconds."""

from __future__ import annotations

import json
import random
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.finetune.conftest import Ended, Jobs, chat

pytestmark = pytest.mark.timeout(900)
Json = dict[str, Any]
TEXTS: list[Json] = [{"text": f"The ship {number} sails to port {number % 7}. Fair winds!"} for number in range(80)]
PAIRS: list[Json] = [
    {"prompt": f"Reset device {number}?", "chosen": f"Ahoy! Hold {number % 7} s.", "rejected": f"No idea, {number}."}
    for number in range(80)
]


def numbers(steps: int, rate: str, **more: Any) -> Json:
    return {"max_steps": steps, "learning_rate": rate, "logging_steps": 1, **more}


def left(jobs: Jobs, ended: Ended, file: str) -> Json:
    assert ended.outcome["outcome"] == "Completed", ended.output
    found: Json = json.loads((jobs.volume / str(ended.outcome["uri"]) / file).read_text())
    return found


def test_plain_text_is_learned_and_the_same_inputs_and_seed_make_the_same_digest(jobs: Jobs, tmp_path: Path) -> None:
    quick = numbers(6, "1e-2", bf16="true")
    spec = {"method": "ContinuedPretraining", "hyperparameters": quick, "evaluation": {"maxRows": 0}}
    digests = []
    for each in (jobs, Jobs(jobs.python, jobs.model, tmp_path / "again")):
        each.ruled(TEXTS)
        ended = each.train(**spec)
        assert ended.outcome["outcome"] == "Completed", ended.output
        metrics = ended.outcome["metrics"]
        assert float(metrics["evalLoss"]) < float(metrics["baseEvalLoss"])
        digests.append(ended.outcome["digest"])
    assert digests[0] == digests[1]


def test_preferences_make_the_answer_that_was_chosen_likelier(jobs: Jobs) -> None:
    jobs.ruled(PAIRS)
    ended = jobs.train(method="DPO", hyperparameters=numbers(8, "1e-2"), evaluation={"maxRows": 4, "maxNewTokens": 8})
    measured = left(jobs, ended, "probe.json")["rows"]
    assert len(measured) == 4
    assert all(sum(row["tuned"]) > sum(row["base"]) for row in measured)
    history = left(jobs, ended, "report.json")["history"]
    margins = [entry["eval_rewards/margins"] for entry in history if "eval_rewards/margins" in entry]
    assert margins[-1] > 0


def test_rows_learned_by_heart_are_told_and_the_model_before_that_is_exported(jobs: Jobs) -> None:
    chance = random.Random(1)
    words = ["".join(chance.choices(string.ascii_lowercase, k=4)) for _ in range(48)]
    talks = [chat(asked, told) for asked, told in zip(words[::2], words[1::2], strict=True)]
    jobs.ruled(talks, held_out=0.3, test=[chat("five?", "1")])
    ended = jobs.train(
        method="Full",
        hyperparameters=numbers(60, "5e-3"),
        checkpoint={"everySteps": 10},
        evaluation={"dataset": "pvc://data/test.jsonl", "maxRows": 1},
    )
    said = left(jobs, ended, "report.json")
    assert ended.outcome["overfitting"] >= 3
    assert ended.outcome["step"] < ended.outcome["last"] == 60
    assert (said["evaluation"]["rows"], said["evaluation"]["answered"]) == (1, 1)
    assert said["evaluation"]["examples"][0]["wanted"] == "1"  # the author's own row, not a held-out one


def halved_within(jobs: Jobs, megabytes: int) -> tuple[Jobs, Ended, int]:
    """A run that may allocate so much: where, how it ended, and how often its step was halved."""
    own = replace(jobs, volume=jobs.volume.with_name(f"within-{megabytes}"))
    own.ruled([chat(f"Reset {number}? " + "really " * 20, "Ahoy! " + "aye " * 40) for number in range(330)])
    spec = {
        "hyperparameters": numbers(1, "1e-2", per_device_train_batch_size=256),
        "lora": {"r": 4},
        "evaluation": {"maxRows": 0},
    }
    run = own.start("finetune", spec, environment={"OMP_NUM_THREADS": "2"}, within_bytes=megabytes * 10**6)
    ended = run.ended()
    return own, ended, sum(event["event"] == "halved" for event in ended.events)


def test_a_step_that_does_not_fit_is_made_of_two_halves(jobs: Jobs) -> None:
    """A step takes about 2 GB. What a process has before depends on the machine: less until a step does not fit."""
    for megabytes in (3100, 2950, 2800):
        own, ended, halved = halved_within(jobs, megabytes)
        if halved:
            break
    config = left(own, ended, "provenance.json")["config"]
    assert (config["per_device_train_batch_size"], config["gradient_accumulation_steps"]) == (128, 2)
    assert halved == 1
