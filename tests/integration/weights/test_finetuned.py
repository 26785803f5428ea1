"""A model that a FineTuneJob made: copied whole, and only when it is the one that was promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmops_serving.jobs.finetune.checkpoints import sealed
from tests.integration.weights.job import Ended, Job

DIGEST = "sha256:" + "1f" * 32


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """What the trainer leaves of method Full: the model and its records, sealed."""
    work = tmp_path / "work"
    work.mkdir()
    save_file({"w": np.ones(4, np.float32)}, work / "model.safetensors")
    (work / "config.json").write_text('{"model_type": "llama"}')
    (work / "report.json").write_text(json.dumps({"digest": DIGEST}))
    return sealed(work, tmp_path / "artifact" / "1f1f")


def copy(job: Job, artifact: Path, promised: str = DIGEST) -> Ended:
    return job.run("--source=finetune://tickets", f"--origin={artifact}", f"--promised={promised}")


def test_it_is_copied_whole(job: Job, artifact: Path) -> None:
    done = copy(job, artifact)
    assert (done.code, done.reason, done.outcome["revision"]) == (0, "Complete", DIGEST)
    for name in ("model.safetensors", "config.json"):
        assert (job.dest / name).read_bytes() == (artifact / name).read_bytes()


def test_another_one_than_promised_is_not_taken(job: Job, artifact: Path) -> None:
    done = copy(job, artifact, "sha256:" + "00" * 32)
    assert (done.code, done.reason) == (40, "ChecksumMismatch")


def test_a_damaged_file_is_not_taken(job: Job, artifact: Path) -> None:
    weights = artifact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert copy(job, artifact).reason == "ChecksumMismatch"


def test_one_that_is_not_there_is_told(job: Job, tmp_path: Path) -> None:
    done = copy(job, tmp_path / "nothing")
    assert (done.code, done.reason) == (40, "ModelNotFound")
