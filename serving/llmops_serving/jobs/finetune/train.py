"""One run of a training job: from checked rows and the newest whole checkpoint to the artifact, or to the next run."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import structlog
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerState
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.dataset.check import EVAL, REPORT, TRAIN
from llmops_serving.jobs.dataset.rendering import Renderer
from llmops_serving.jobs.ending import EXIT_INTERRUPTED, Ended, Stopped
from llmops_serving.jobs.finetune import proof, settings, watch
from llmops_serving.jobs.finetune.artifact import Artifact, Artifacts
from llmops_serving.jobs.finetune.checkpoints import Checkpoints
from llmops_serving.jobs.outcome import EXIT_TIME_MAY_HEAL
from llmops_serving.jobs.weights.marker import completed

log = structlog.get_logger()

FAILURES_AT_ONE_STEP = 2
INTERRUPTED = "Interrupted"
# What decides the result besides the spec, with TRL's defaults of today.
RECORDED = (
    "seed",
    "max_length",
    "max_steps",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "warmup_steps",
    "weight_decay",
    "bf16",
)
Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run is given: the spec, the job's volume, the base model and the name of the image."""

    spec: FineTuneJobSpec
    job: Path
    model: Path
    image: str = ""


def trained(run: Run) -> Ended:
    """Train, resume or find the artifact already made.

    Raises:
        Stopped: Interrupted (with a checkpoint), Diverged, NoProgress, OutOfMemory, InvalidSpec.
    """
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    with _alone(run.job):
        artifacts = Artifacts(run.job)
        if made := artifacts.finished():
            return _completed(made)
        checkpoints = Checkpoints(run.job / "checkpoints")
        found = checkpoints.newest()
        restarts = _attempt(run.job, found[0] if found else 0)
        try:
            trainer = _to_the_end(run, checkpoints, found[1] if found else None)
        except Stopped as stopped:
            if stopped.outcome == INTERRUPTED:
                _forgive(run.job)
            raise
        made = _leave(run, artifacts, checkpoints, trainer, restarts)
        shutil.rmtree(run.job / "work", ignore_errors=True)
        return _completed(made)


def _to_the_end(run: Run, checkpoints: Checkpoints, resumed: Path | None) -> SFTTrainer:
    early = run.spec.early_stopping
    callback = watch.Watch(checkpoints, keep=run.spec.checkpoint.keep, patience=early.patience if early else None)
    trainer = _trainer(run, callback, resumed=resumed is not None)
    with _told_to_stop(callback):
        _train(trainer, resumed)
    state = trainer.state
    if callback.stop and state.global_step < state.max_steps:
        raise Stopped(
            INTERRUPTED,
            f"Stopped as told at step {state.global_step}; the next pod goes on from there.",
            exit_code=EXIT_INTERRUPTED,
            facts={"step": state.global_step, "total": state.max_steps},
        )
    return trainer


def _completed(made: Artifact) -> Ended:
    metrics = made.facts["metrics"]
    told = ", ".join(f"{name} {value}" for name, value in metrics.items())
    message = f"The best checkpoint is step {made.facts['step']} of {made.facts['total']}: {told}."
    return Ended("Completed", message, facts={"uri": made.path, "digest": made.digest, **made.facts})


@contextmanager
def _alone(job: Path) -> Iterator[None]:
    """Wait for the pod before this one to let go of the volume; the kernel lets go for a killed one."""
    job.mkdir(parents=True, exist_ok=True)
    with (job / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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


def _attempt(job: Path, step: int) -> int:
    """Record that a run begins at `step`; returns how many began before.

    Raises:
        Stopped: NoProgress, when as many as may have begun here and did not end well.
    """
    place = job / "attempts.json"
    try:
        said = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {"runs": 0, "step": 0, "failures": -1}
    failures = said["failures"] + 1 if said["step"] == step else 0
    if failures >= FAILURES_AT_ONE_STEP:
        raise Stopped(
            "NoProgress",
            f"{failures} runs in a row began at step {step} and ended before the next checkpoint. The log of the last "
            "pod says why; lower checkpoint.everySteps if pods are lost often.",
            facts={"step": step},
        )
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps({"runs": said["runs"] + 1, "step": step, "failures": failures}), encoding="utf-8")
    partial.rename(place)
    return int(said["runs"])


def _forgive(job: Path) -> None:
    """This run ended as it was told to: it is none of the failures."""
    place = job / "attempts.json"
    said = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({**said, "failures": -1}), encoding="utf-8")


def _trainer(run: Run, callback: watch.Watch, *, resumed: bool) -> SFTTrainer:
    work = run.job / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    renderer = Renderer.of(run.model, max_length=settings.max_length(run.spec, run.model))
    tokenizer = renderer.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # labels of padding are ignored by their place, not by their token
    train = _rows(run.job / "data" / TRAIN, renderer, work)
    held_out = _rows(run.job / "data" / EVAL, renderer, work)
    config = settings.config(run.spec, run.model, work, fresh=not resumed, held_out=len(held_out) > 0)
    gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        run.model,
        # Adapters are trained beside weights of half precision; whole weights need every bit of the update.
        dtype=torch.bfloat16 if gpu and run.spec.method != "Full" else torch.float32,
        quantization_config=settings.quantization(run.spec),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out if len(held_out) else None,
        processing_class=tokenizer,
        peft_config=settings.lora(run.spec),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # the callback above tells the same as JSON
    return trainer


def _rows(path: Path, renderer: Renderer, work: Path) -> Dataset:
    """The rows as tokens and labels, on disk; rows of which the cut left nothing to learn stay out."""

    def rows(name: str) -> Iterator[Json]:
        with Path(name).open("rb") as stream:
            for line in stream:
                row = renderer.rendered(orjson.loads(line))
                if row.learned:
                    yield {"input_ids": row.ids, "labels": row.labels}

    if not path.exists() or not path.stat().st_size:
        return Dataset.from_dict({"input_ids": [], "labels": []})
    made = Dataset.from_generator(
        rows, gen_kwargs={"name": str(path)}, cache_dir=str(work / "rows"), fingerprint=path.stem
    )
    if not isinstance(made, Dataset):
        raise TypeError(f"{path.name} became a {type(made).__name__}")
    return made


def _train(trainer: SFTTrainer, checkpoint: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise Stopped(
            "OutOfMemory",
            "The accelerator's memory is too small for a step: lower hyperparameters.per_device_train_batch_size and "
            "raise gradient_accumulation_steps by as much, or lower max_length.",
        ) from error
    except OSError as error:
        raise Stopped(
            "DiskFull" if error.errno == 28 else "TrainerFailed",
            f"The job's volume cannot be written: {error.strerror}. Use a larger spec.storage.size.",
            exit_code=EXIT_TIME_MAY_HEAL,
        ) from error


def _leave(run: Run, artifacts: Artifacts, checkpoints: Checkpoints, trainer: SFTTrainer, restarts: int) -> Artifact:
    state: TrainerState = trainer.state
    found = watch.best(state)
    step = found[0] if found else state.global_step
    metrics: dict[str, str] = {}
    if found:
        metrics |= {"evalLoss": f"{found[1]:.4f}", "perplexity": f"{math.exp(min(found[1], 700)):.3f}"}
    if (base := watch.base_loss(state)) is not None:
        metrics["baseEvalLoss"] = f"{base:.4f}"
    losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
    if losses:
        metrics["trainLoss"] = f"{losses[-1]:.4f}"
    facts = {
        "step": step,
        "last": state.global_step,
        "total": state.max_steps,
        "restarts": restarts,
        "metrics": metrics,
    }
    report = {"facts": facts, "data": _read(run.job / "data" / REPORT), "history": state.log_history}
    chosen = checkpoints.at(step)
    return artifacts.leave(
        run.spec,
        chosen,
        run.model,
        provenance=_provenance(run, trainer.args),
        report=report,
        probe=None if run.spec.method == "Full" else proof.record(trainer.model, chosen, _answers(trainer)),
    )


def _answers(trainer: SFTTrainer) -> Iterator[tuple[list[int], int]]:
    """Rows and where their answers begin; held-out ones first, because what was learned by heart is no measure."""
    for rows in (trainer.eval_dataset, trainer.train_dataset):
        for row in rows or ():
            yield row["input_ids"], next(place for place, label in enumerate(row["labels"]) if label >= 0)


def _provenance(run: Run, config: SFTConfig) -> Json:
    """Every input of the result. No time and no path: the same inputs make the same record."""
    marker = completed(run.model)
    data = _read(run.job / "data" / REPORT)
    asked = {name: getattr(config, name) for name in RECORDED}
    return {
        "spec": run.spec.model_dump(by_alias=True, mode="json", exclude_none=True),
        "base": {"revision": marker.revision, "digest": marker.digest} if marker else {},
        "dataset": {"digest": data.get("digest"), "train": data.get("train"), "eval": data.get("eval")},
        "config": {**asked, "optim": _word(config.optim), "lr_scheduler_type": _word(config.lr_scheduler_type)},
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
    """As many as the pod may use: torch counts the node's processors, which is not what the pod was promised."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return len(os.sched_getaffinity(0))
    allowed = math.ceil(int(quota) / int(period)) if quota != "max" else len(os.sched_getaffinity(0))
    return max(1, min(allowed, len(os.sched_getaffinity(0))))
