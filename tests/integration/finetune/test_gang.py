"""Two pods that train together, started as their Job starts them: torchrun and gloo, here on one machine."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from llmops.api.fine_tune_job import FineTuneJob
from llmops.desired import gang
from llmops.desired.weights import FINAL_EXIT_CODES
from tests.integration.finetune.conftest import Ended, Jobs, Process, rows

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
Json = dict[str, Any]
MODULE = "llmops_serving.jobs.finetune"
STEPS = 24  # the pod is lost early among them, also on a machine that is slow to look


def spec(batch: int, **changes: Any) -> Json:
    return {
        "method": "LoRA",
        "lora": {"r": 4, "dropout": "0"},
        "hyperparameters": {
            "max_steps": STEPS,
            "learning_rate": "1e-3",
            "per_device_train_batch_size": batch,
            "logging_steps": 1,
        },
        "checkpoint": {"everySteps": 3},
        "evaluation": {"maxRows": 0},
        **changes,
    }


def together(jobs: Jobs, wanted: Json) -> list[Process]:
    """Both pods, with the address of the first one's host name on this machine."""
    whole = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "pvc://data/t.jsonl"}, **wanted}
    head = {"apiVersion": "llmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "t"}}
    command = gang.command(FineTuneJob.from_manifest({**head, "spec": whole}), "t-training", MODULE)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    started = []
    for index in range(2):
        here = {
            "python3": str(jobs.python),
            "--node-rank=$(JOB_COMPLETION_INDEX)": f"--node-rank={index}",
            "--master-addr=t-training-0.t-training": "--master-addr=127.0.0.1",
            f"--master-port={gang.PORT}": f"--master-port={port}",
        }
        termination = jobs.volume.with_suffix(f".termination-{index}")
        arguments = ["--spec", json.dumps(whole), "--job", str(jobs.volume), "--model", str(jobs.model)]
        arguments += ["--termination-log", str(termination)]
        log = jobs.volume.with_suffix(f".log-{index}")
        started.append(Process([*(here.get(part, part) for part in command), *arguments], log, termination, {}))
    return started


def losses(ended: Ended) -> dict[int, float]:
    told = [event for event in ended.events if event["event"] == "progress" and "loss" in event]
    return {event["step"]: event["loss"] for event in told}


def lost(pod: Process) -> None:
    """As a node that goes takes a container: all of its processes at once, and without a word."""
    tasks = Path(f"/proc/{pod.process.pid}/task").iterdir()
    family = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    pod.process.kill()
    for process in family:
        os.kill(process, signal.SIGKILL)


def test_two_pods_learn_what_one_learns_although_one_is_lost(jobs: Jobs, tmp_path: Path) -> None:
    jobs.given(rows(60))
    first, second = together(jobs, spec(2, nodes=2))
    first.until(lambda events: any(event["event"] == "checkpoint" for event in events))
    lost(second)
    ended = first.ended()
    assert ended.code not in {0, *FINAL_EXIT_CODES}, ended.output  # so that its Job starts it again, too
    assert max(losses(ended)) < STEPS

    again, other = [process.ended() for process in together(jobs, spec(2, nodes=2))]
    assert (again.code, other.code) == (0, 0), again.output + other.output
    assert again.outcome["outcome"] == "Completed"
    assert min(losses(again)) > 1  # both went on from the checkpoint
    alone = Jobs(jobs.python, jobs.model, tmp_path / "alone")
    alone.given(rows(60))
    single = losses(alone.train(**spec(4)))
    assert losses(ended) | losses(again) == pytest.approx(single, rel=2e-3)
    assert set(single) == set(range(1, STEPS + 1))
