"""One run of a training job: from checked rows and the newest whole checkpoint to the artifact, or to the next run."""

from __future__ import annotations

import fcntl
import gc
import json
import math
import os
import platform
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import torch
from datasets import disable_progress_bars
from transformers import TrainerState
from transformers.utils import logging as transformers_logging

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.dataset.check import REPORT
from llmops_serving.jobs.dataset.rendering import Renderer
from llmops_serving.jobs.ending import Ended, Stopped
from llmops_serving.jobs.finetune import curves, learners, proof, report, room, settings, watch
from llmops_serving.jobs.finetune.artifact import Artifact, Artifacts
from llmops_serving.jobs.finetune.attempts import Attempts, Memory
from llmops_serving.jobs.finetune.checkpoints import Checkpoints
from llmops_serving.jobs.finetune.evaluation import Judge
from llmops_serving.jobs.finetune.gang import Gang, joined
from llmops_serving.jobs.finetune.metrics import Metrics
from llmops_serving.jobs.outcome import EXIT_INTERRUPTED, EXIT_TIME_MAY_HEAL
from llmops_serving.jobs.weights.marker import completed

log = structlog.get_logger()

INTERRUPTED, OUT_OF_MEMORY = "Interrupted", "OutOfMemory"
TOLD = ("evalLoss", "bleu", "exactMatch")  # of the metrics, in the outcome's sentence
# What decides the result besides the spec, with TRL's defaults of today.
RECORDED = (
    "seed",
    "max_steps",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "warmup_steps",
    "weight_decay",
    "bf16",
)
DATA_RECORDED = (
    "digest",
    "format",
    "rows",
    "duplicates",
    "empty",
    "language",
    "short",
    "long",
    "masked",
    "train",
    "eval",
    "test",
)
Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run is given: the spec, the job's volume, the base model, the name of the image, a port for metrics."""

    spec: FineTuneJobSpec
    job: Path
    model: Path
    image: str = ""
    metrics_port: int = 0

    @property
    def patience(self) -> int | None:
        """Evaluations without a better loss after which training ends; `None`: never."""
        early = self.spec.early_stopping
        return early.patience if early else None


def trained(run: Run) -> Ended:
    """Train, resume or find the artifact already made; of several processes the first one leaves it.

    Raises:
        Stopped: Interrupted (with a checkpoint), Diverged, NoProgress, OutOfMemory, InvalidSpec.
    """
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    gang = joined()
    with _alone(run.job, gang):
        artifacts, checkpoints, memory = Artifacts(run.job), Checkpoints(run.job / "checkpoints"), Memory(run.job)
        if made := gang.agreed(artifacts.finished):
            return _completed(made)
        found = gang.agreed(checkpoints.newest)
        attempts = gang.agreed(lambda: memory.began(found[0] if found else 0))
        try:
            learner = _to_the_end(run, gang, checkpoints, attempts)
        except Stopped as stopped:
            if stopped.outcome == INTERRUPTED and gang.leads:
                memory.forgive()
            raise
        if not gang.leads:
            return Ended("Completed", "The first process leaves the artifact.")
        made = _leave(run, artifacts, checkpoints, learner, attempts.runs - 1)
        shutil.rmtree(run.job / "work", ignore_errors=True)
        return _completed(made)


def _to_the_end(run: Run, gang: Gang, checkpoints: Checkpoints, attempts: Attempts) -> learners.Learner:
    """Train from the newest checkpoint; where a step does not fit into memory, once more with half the micro-batch.

    Raises:
        Stopped: it could not be done, or was told to stop.
    """
    try:
        return _attempt(run, gang, checkpoints, halved=attempts.halved)
    except Stopped as stopped:
        asked = settings.values(run.spec).get("per_device_train_batch_size", 8)
        if stopped.outcome != OUT_OF_MEMORY or attempts.halved or asked == 1:
            raise
        Memory(run.job).halve()
        if gang.size > 1:  # the others wait for this process: all must begin anew
            message = "A step did not fit into memory; the next try halves the micro-batch."
            raise Stopped(OUT_OF_MEMORY, message, exit_code=EXIT_TIME_MAY_HEAL) from stopped
        log.info("halved", because=str(stopped))
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _attempt(run, gang, checkpoints, halved=True)


def _attempt(run: Run, gang: Gang, checkpoints: Checkpoints, *, halved: bool) -> learners.Learner:
    found = gang.agreed(checkpoints.newest)
    callback = watch.Watch(
        checkpoints,
        keep=run.spec.checkpoint.keep,
        patience=run.patience,
        gang=gang,
        metrics=Metrics(run.metrics_port if gang.leads else 0),
    )
    output = run.job / "work"
    if gang.leads:
        shutil.rmtree(output, ignore_errors=True)
    gang.wait()
    work = output / f"process-{gang.rank}"
    work.mkdir(parents=True)
    learner = learners.learner(
        run.spec,
        run.model,
        Renderer.of(run.model, max_length=settings.max_length(run.spec, run.model)),
        folders=(run.job / "data", work),
        config=partial(settings.config, run.spec, run.model, output, fresh=found is None, halved=halved),
        callback=callback,
    )
    if found and (state := _over(found[1], run.patience)):
        learner.state = state  # only the artifact is missing
        return learner
    with _told_to_stop(callback):
        _train(learner, found[1] if found else None)
    state = learner.state
    if callback.stop and state.global_step < state.max_steps:
        raise Stopped(
            INTERRUPTED,
            f"Stopped as told at step {state.global_step}; the next pod goes on from there.",
            exit_code=EXIT_INTERRUPTED,
            facts={
                "step": state.global_step,
                "total": state.max_steps,
                "overfitting": curves.overfitting(state.log_history, run.patience),
            },
        )
    return learner


def _over(checkpoint: Path, patience: int | None) -> TrainerState | None:
    """The state of a checkpoint that nothing more is to be learned after."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    stopped = patience is not None and curves.since_best(state.log_history) >= patience
    return state if stopped or state.global_step >= state.max_steps else None


def _completed(made: Artifact) -> Ended:
    facts = made.facts
    told = [
        f"{name} {facts['metrics'][name]} (gain {facts['metrics'][f'{name}Gain']})"
        for name in TOLD
        if name in facts["metrics"]
    ]
    said = f": {', '.join(told)}" if told else ""
    message = f"The best checkpoint is step {facts['step']} of {facts['total']}{said}."
    return Ended("Completed", message, facts={"uri": made.path, "digest": made.digest, **facts})


@contextmanager
def _alone(job: Path, gang: Gang) -> Iterator[None]:
    """Wait for the pod before this one to let go of the volume; the kernel lets go for a killed one."""
    if not gang.leads:
        gang.wait()
        yield
        return
    job.mkdir(parents=True, exist_ok=True)
    with (job / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        gang.wait()
        yield


@contextmanager
def _told_to_stop(callback: watch.Watch) -> Iterator[None]:
    def stop(*_: object) -> None:
        callback.stop = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(learner: learners.Learner, checkpoint: Path | None) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        with nullcontext() if torch.cuda.is_available() else room.bounded(here):
            learner.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not room.lacks(error):
            raise
        raise Stopped(
            OUT_OF_MEMORY,
            "The memory is too small for a step, also with half the micro-batch: lower hyperparameters.max_length or "
            "per_device_train_batch_size, or choose a profile with more memory.",
        ) from error
    except OSError as error:
        raise Stopped(
            "DiskFull" if error.errno == 28 else "TrainerFailed",
            f"The job's volume cannot be written: {error.strerror}. Use a larger spec.storage.size.",
            exit_code=EXIT_TIME_MAY_HEAL,
        ) from error


def _leave(
    run: Run, artifacts: Artifacts, checkpoints: Checkpoints, learner: learners.Learner, restarts: int
) -> Artifact:
    state: TrainerState = learner.state
    found = curves.best(state.log_history)
    step = found[0] if found else state.global_step
    evaluation = Judge(
        Renderer.of(run.model, max_length=settings.max_length(run.spec, run.model)),
        answers=run.spec.evaluation.max_rows,
        longest=run.spec.evaluation.max_new_tokens,
    ).evaluated(run.job / "data", learner.model, checkpoints.at(step), run.model)
    metrics = report.status(evaluation.metrics)
    if losses := curves.losses(state.log_history):
        metrics["trainLoss"] = f"{losses[-1][1]:.4g}"
    facts = {
        "step": step,
        "last": state.global_step,
        "total": state.max_steps,
        "restarts": restarts,
        "best_loss": found[1] if found else None,
        "overfitting": curves.overfitting(state.log_history, run.patience),
        "metrics": metrics,
    }
    data, provenance = _read(run.job / "data" / REPORT), _provenance(run, learner.args)
    said = report.as_json(facts, data, state.log_history, evaluation, provenance)
    chosen = checkpoints.at(step)
    probe = None if run.spec.method == "Full" else proof.record(learner.model, chosen, _answers(learner))
    return artifacts.leave(run.spec, chosen, run.model, said=said, probe=probe)


def _answers(learner: learners.Learner) -> Iterator[tuple[list[int], int]]:
    """Rows and where their answers begin; held-out ones first, because what was learned by heart is no measure."""
    for rows in (learner.eval_dataset, learner.train_dataset):
        for row in rows or ():
            if "prompt_ids" in row:
                yield row["prompt_ids"] + row["chosen_ids"], len(row["prompt_ids"])
            else:
                begin = next(place for place, label in enumerate(row["labels"]) if label >= 0)
                yield row["input_ids"], max(1, begin)


def _provenance(run: Run, config: settings.Config) -> Json:
    """Every input of the result. No time and no path: the same inputs make the same record."""
    marker = completed(run.model)
    data = _read(run.job / "data" / REPORT)
    asked = {name: getattr(config, name) for name in RECORDED}
    return {
        "spec": run.spec.model_dump(by_alias=True, mode="json", exclude_none=True),
        "base": {"revision": marker.revision, "digest": marker.digest} if marker else {},
        "dataset": {name: data.get(name) for name in DATA_RECORDED},
        "config": {
            **asked,
            "max_length": settings.max_length(run.spec, run.model),
            "optim": _word(config.optim),
            "lr_scheduler_type": _word(config.lr_scheduler_type),
        },
        "image": run.image,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
        | {"python": platform.python_version()},
    }


def _word(choice: Any) -> str:
    """An enumeration's value: its name differs by version."""
    return str(getattr(choice, "value", choice))


def _read(path: Path) -> Json:
    found: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def threads() -> int:
    """As many as this process may use: torch counts the node's processors, which the pod was not promised."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return max(1, len(os.sched_getaffinity(0)) // here)
    allowed = math.ceil(int(quota) / int(period)) if quota != "max" else len(os.sched_getaffinity(0))
    return max(1, min(allowed, len(os.sched_getaffinity(0))) // here)
