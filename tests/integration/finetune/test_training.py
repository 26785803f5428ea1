"""Training as it happens to people: pods are told to go, are killed, disks tear; and specs ask for what cannot be."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from hack.dashboards.questions import FINE_TUNE
from tests.integration.conftest import free_port
from tests.integration.finetune.conftest import Ended, Jobs, rows
from tests.integration.scraping import all_answered, questions, scraping

pytestmark = pytest.mark.timeout(1200)
Json = dict[str, Any]

STEPS = 24
SPEC: Json = {
    "hyperparameters": {
        "max_steps": STEPS,
        "learning_rate": "1e-2",
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
    },
    "lora": {"r": 4, "dropout": "0.1"},
    "checkpoint": {"everySteps": 6, "keep": 2},
    "evaluation": {"maxRows": 8, "maxNewTokens": 8},
}
SEED = 20261121


def artifact(jobs: Jobs, ended: Ended) -> Path:
    return jobs.volume / str(ended.outcome["uri"])


def curve(folder: Path) -> dict[int, float]:
    history = json.loads((folder / "report.json").read_text())["history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def step(events: list[Json]) -> int:
    return max((event["step"] for event in events if event["event"] == "progress"), default=0)


@pytest.mark.long
def test_a_run_that_is_evicted_killed_and_torn_ends_as_if_nothing_had_happened(jobs: Jobs) -> None:
    jobs.given(rows(120))
    calm = Jobs(jobs.python, jobs.model, jobs.volume.with_name("calm"))
    calm.given(rows(120))
    undisturbed = calm.train(**SPEC)
    assert undisturbed.outcome["outcome"] == "Completed", undisturbed.output

    moments = random.Random(SEED)
    first = moments.randint(2, 9)
    evicted = jobs.start("finetune", SPEC)
    evicted.until(lambda events: step(events) >= first)
    evicted.process.send_signal(signal.SIGTERM)
    ended = evicted.ended()
    assert (ended.code, ended.outcome["outcome"]) == (43, "Interrupted"), ended.output
    stopped_at = ended.outcome["step"]

    killed = jobs.start("finetune", SPEC)
    killed.until(lambda events: any(event["event"] == "checkpoint" and event["step"] >= 12 for event in events))
    begun = next(event["step"] for event in killed.events() if event["event"] == "progress" and "loss" in event)
    killed.process.kill()
    killed.ended()
    assert begun == stopped_at + 1  # an eviction with notice costs no step

    newest = max((jobs.volume / "checkpoints").iterdir())
    torn = newest / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    again = jobs.train(**SPEC)
    assert again.outcome["outcome"] == "Completed", again.output
    resumed = next(event["step"] for event in again.events if event["event"] == "progress" and "loss" in event)
    assert resumed <= int(newest.name.removeprefix("step-"))

    assert again.outcome["digest"] == undisturbed.outcome["digest"]
    assert curve(artifact(jobs, again)) == curve(artifact(calm, undisturbed))
    assert len(curve(artifact(jobs, again))) == STEPS
    assert again.outcome["restarts"] == 2


def test_the_artifact_can_be_served_and_says_where_it_comes_from(jobs: Jobs, tmp_path: Path) -> None:
    jobs.given(rows(120))
    port = free_port()
    labels = {"namespace": "team-a", "fine_tune_job": "tickets"}  # the PodMonitor's
    with scraping(tmp_path / "prometheus", [(f"127.0.0.1:{port}", labels)]) as prometheus:
        run = jobs.start("finetune", SPEC, f"--metrics-port={port}")
        all_answered(prometheus.ask, questions([FINE_TUNE], namespace="team-a", job="tickets"))
        ended = run.ended()
    assert ended.outcome["outcome"] == "Completed", ended.output
    folder = artifact(jobs, ended)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, "hf://o/m")
    assert (folder / "adapter_model.safetensors").stat().st_size > 0
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["digest"] == ended.outcome["digest"]
    assert provenance["dataset"]["digest"] == json.loads((jobs.volume / "data" / "report.json").read_text())["digest"]
    assert provenance["spec"]["hyperparameters"]["max_steps"] == STEPS
    metrics = ended.outcome["metrics"]
    assert float(metrics["evalLoss"]) < float(metrics["baseEvalLoss"])
    assert {"bleu", "baseBleu", "bleuGain", "chrF", "exactMatch", "tokenF1", "rougeL", "perplexity"} <= metrics.keys()
    said = json.loads((folder / "report.json").read_text())
    assert said["evaluation"]["rows"] == 24
    assert said["evaluation"]["answered"] == 8
    loss = next(one for one in said["evaluation"]["metrics"] if one["name"] == "evalLoss")
    assert loss["low"] <= loss["tuned"] - loss["base"] <= loss["high"] < 0
    people = (folder / "report.md").read_text()
    assert "| loss (nats per token) |" in people
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "![Loss by step](loss.png)" in people
    assert len(list((jobs.volume / "checkpoints").iterdir())) <= 3

    found = jobs.train(**SPEC)  # a Job that was made anew finds the work done
    assert found.outcome["digest"] == ended.outcome["digest"]
    assert not any(event["event"] == "training" for event in found.events)


def test_every_weight_is_trained_and_left_as_a_whole_model(jobs: Jobs) -> None:
    jobs.given(rows(120))
    ended = jobs.train(method="Full", hyperparameters={"max_steps": 4, "learning_rate": "1e-3"})
    assert ended.outcome["outcome"] == "Completed", ended.output
    names = {path.name for path in artifact(jobs, ended).iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "provenance.json"} <= names


def test_training_stops_when_nothing_gets_better(jobs: Jobs) -> None:
    jobs.given(rows(120))
    spec = SPEC | {"hyperparameters": SPEC["hyperparameters"] | {"max_steps": 200, "learning_rate": "1e-12"}}
    ended = jobs.train(**spec, earlyStopping={"patience": 1})
    assert ended.outcome["outcome"] == "Completed", ended.output
    assert ended.outcome["last"] < 200


WILD = {"learning_rate": "1e5", "max_steps": 20, "logging_steps": 1}
REFUSED: list[tuple[str, Json, str, str]] = [
    ("four bits on a CPU", {"method": "QLoRA", "accelerator": {"profile": "gpu"}}, "InvalidSpec", "need a GPU"),
    ("a rate that blows up", {"hyperparameters": WILD, "method": "Full"}, "Diverged", "lower hyperparameters."),
]


@pytest.mark.parametrize(("spec", "reason", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_go_on_says_why_and_is_not_tried_again(jobs: Jobs, spec: Json, reason: str, says: str) -> None:
    jobs.given(rows(120))
    ended = jobs.train(**spec)
    assert (ended.code, ended.outcome["outcome"]) == (40, reason), ended.output
    assert says in ended.outcome["message"]


def test_a_job_that_is_killed_twice_before_its_first_checkpoint_gives_up(jobs: Jobs) -> None:
    jobs.given(rows(120))
    for _ in range(2):
        run = jobs.start("finetune", SPEC)
        run.until(lambda events: any(event["event"] == "training" for event in events))
        run.process.kill()
        run.ended()
    ended = jobs.train(**SPEC)
    assert (ended.code, ended.outcome["outcome"]) == (40, "NoProgress")
