"""Time and cost of a run before it begins, against figures worked out by hand; and as the command prints them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops.cli import estimate
from llmops.judge import training_cost

Json = dict[str, Any]
BASE = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}}


def spec(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate({**BASE, **changes}, by_alias=True, by_name=False)


TRAINED: list[tuple[str, Json, int]] = [
    ("three epochs, as TRL does it", {}, 3 * 1000 * 200),
    ("half an epoch", {"hyperparameters": {"num_train_epochs": "0.5"}}, 100_000),
    ("long rows are cut", {"hyperparameters": {"num_train_epochs": 1, "max_length": 128}}, 128_000),
    (
        "so many steps of so many rows, on two accelerators of two pods",
        {
            "hyperparameters": {"max_steps": 10, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            "accelerator": {"count": 2},
            "nodes": 2,
        },
        10 * 4 * 2 * 200 * 4,
    ),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in TRAINED], ids=[case[0] for case in TRAINED])
def test_tokens_are_counted_as_they_are_trained(changes: Json, expected: int) -> None:
    assert training_cost.tokens(spec(**changes), rows=1000, tokens_per_row=200) == expected


def test_a_run_costs_its_accelerators_for_as_long_as_it_takes() -> None:
    pair = spec(accelerator={"count": 2})
    found = training_cost.estimate(pair, 7_200_000, tokens_per_second=Decimal(500), price_per_hour=Decimal("0.80"))
    assert (found.seconds, found.accelerator_hours, found.cost) == (7200, 4, Decimal("3.2"))
    assert found.disagreement(Decimal("3.20")) == ""
    assert found.disagreement(Decimal(32)) == "32.00 is stated, and 3.20 is computed."


def test_an_adapter_saves_a_third_of_the_arithmetic() -> None:
    model = training_cost.shaped(8_000_000_000)
    assert (model.hidden_size, model.layers) == (4096, 32)
    assert training_cost.operations_per_token(spec(method="Full"), model, gpu=False) == 48 * 10**9
    assert training_cost.operations_per_token(spec(), model, gpu=False) == 32 * 10**9
    assert training_cost.operations_per_token(spec(), model, gpu=True) == 48 * 10**9


def told(folder: Path, *arguments: str, **changes: Any) -> Result:
    job = {"apiVersion": "llmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "t"}}
    manifests = [{"kind": "ConfigMap"}, {**job, "spec": {**BASE, "accelerator": {"profile": "l4"}, **changes}}]
    (folder / "job.yaml").write_text(yaml.safe_dump_all(manifests))
    profile = {"resource": "nvidia.com/gpu", "memory": "24Gi", "pricePerHour": "0.80"}
    (folder / "values.yaml").write_text(yaml.safe_dump({"profiles": {"l4": profile}}))
    fixed = [str(folder / "job.yaml"), f"--profiles={folder / 'values.yaml'}", "--rows=6000", "--tokens-per-row=400"]
    return CliRunner().invoke(estimate.app, ["finetune", *fixed, *arguments])


SMALL = {"per_device_train_batch_size": 1, "max_length": 1024}


def test_what_fits_is_told_with_its_memory_time_and_cost(tmp_path: Path) -> None:
    said = told(tmp_path, "--parameters=8B", "--tokens-per-second=1000", hyperparameters=SMALL)
    assert said.exit_code == 0, said.output
    assert said.output.splitlines() == [
        "memory  17.9 GiB (weights 14.9 GiB, training state 0.6 GiB, activations 1.4 GiB) per accelerator of 24.0 GiB",
        "time    2 h 00 min for 7,200,000 tokens at 1,000 tokens/s on each of 1",
        "cost    1.60 for 2.00 accelerator hours",
    ]


PROBLEMS: list[tuple[str, list[str], Json, str]] = [
    ("too large", ["--parameters=70B"], {}, "it needs 154.5 GiB and has 24.0 GiB"),
    (
        "too long",
        ["--parameters=8B"],
        {"hyperparameters": SMALL, "deadlineSeconds": 3600},
        "spec.deadlineSeconds is 3600",
    ),
    ("too dear", ["--parameters=8B"], {"hyperparameters": SMALL, "budget": {"gpuHours": "1.5"}}, "gpuHours is 1.5"),
    (
        "stated otherwise",
        ["--parameters=8B", "--stated=16"],
        {"hyperparameters": SMALL},
        "16.00 is stated, and 1.60 is computed.",
    ),
]


@pytest.mark.parametrize(
    ("more", "changes", "says"), [case[1:] for case in PROBLEMS], ids=[case[0] for case in PROBLEMS]
)
def test_what_is_beyond_its_bounds_is_a_no(tmp_path: Path, more: list[str], changes: Json, says: str) -> None:
    said = told(tmp_path, "--tokens-per-second=1000", *more, **changes)
    assert said.exit_code == 1, said.output
    assert says in said.output


def test_speed_can_be_worked_out_from_the_accelerators_peak(tmp_path: Path) -> None:
    arguments = ["--parameters=8B", "--teraflops=160", "--utilization=0.3", "-o", "json"]
    said = told(tmp_path, *arguments, hyperparameters=SMALL)
    facts = json.loads(said.output)
    assert (facts["tokens"], facts["seconds"], facts["problems"]) == (7_200_000, 7200, [])  # 48e12 / 48e9 per second


@pytest.mark.parametrize("wrong", ["--parameters=eight", "--parameters=0B", "--memory=much"])
def test_what_is_no_number_is_wrong_usage(tmp_path: Path, wrong: str) -> None:
    assert told(tmp_path, "--parameters=8B", "--tokens-per-second=1000", wrong).exit_code == 2
    assert told(tmp_path, "--parameters=8B").exit_code == 2  # nobody knows how fast
