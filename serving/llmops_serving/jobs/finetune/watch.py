"""What is done between two optimizer steps: tell, seal checkpoints, stop when told or when it is no use."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import structlog
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmops_serving.jobs.ending import Stopped
from llmops_serving.jobs.finetune.checkpoints import Checkpoints

log = structlog.get_logger()

DIVERGED = 3.0  # times the first loss


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not installed where types are checked
    """One run's callback. `stop` is set by the signal handler and read after every step.

    Args:
        checkpoints: Where finished checkpoints go.
        keep: How many of them stay, besides the best.
        patience: Evaluations without a better loss after which training ends; `None`: never.
    """

    def __init__(self, checkpoints: Checkpoints, *, keep: int, patience: int | None) -> None:
        self._checkpoints, self._keep, self._patience = checkpoints, keep, patience
        self._began, self._tokens = time.monotonic(), 0
        self.stop = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._began, self._tokens = time.monotonic(), state.num_input_tokens_seen
        log.info("training", step=state.global_step, total=state.max_steps, epochs=args.num_train_epochs)
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_save = True
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"
        elif self.stop:
            # What is saved is what was learned; an evaluation would eat the time that is left.
            control.should_save, control.should_training_stop, control.should_evaluate = True, True, False
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> TrainerControl:
        told = logs or {}
        if "loss" in told:
            self._judge(float(told["loss"]), state)
        if "loss" in told or "eval_loss" in told:
            self._tell(told, state, args)
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        del args
        if self._patience is not None and since_best(state) >= self._patience:
            log.info("no better loss", evaluations=self._patience, step=state.global_step)
            control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        made = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._checkpoints.seal(made, state.global_step)
        found = best(state)
        self._checkpoints.prune(self._keep, found[0] if found else None)
        log.info("checkpoint", step=state.global_step, total=state.max_steps)
        return control

    def _judge(self, loss: float, state: TrainerState) -> None:
        first = next((float(entry["loss"]) for entry in state.log_history if "loss" in entry), loss)
        if not math.isfinite(loss) or (loss > DIVERGED * first and loss > 1):
            raise Stopped(
                "Diverged",
                f"The loss went from {first:.3f} to {loss:.3f} at step {state.global_step}: lower "
                "hyperparameters.learning_rate, raise warmup_steps, or look for damaged rows.",
                facts={"step": state.global_step, "total": state.max_steps},
            )

    def _tell(self, told: dict[str, Any], state: TrainerState, args: TrainingArguments) -> None:
        seconds = time.monotonic() - self._began
        speed = (state.num_input_tokens_seen - self._tokens) / seconds if seconds > 0 else 0.0
        found = best(state)
        facts: dict[str, Any] = {
            "step": state.global_step,
            "total": state.max_steps,
            "epoch": round(state.epoch or 0.0, 3),
            "tokens_per_second": round(speed),
            "checkpoint": max(self._checkpoints.steps(), default=0),
        }
        if "loss" in told:
            facts["loss"] = round(float(told["loss"]), 5)
        if "eval_loss" in told:
            facts["eval_loss"] = round(float(told["eval_loss"]), 5)
        if found:
            facts["best_step"], facts["best_loss"] = found[0], round(found[1], 5)
        del args
        log.info("progress", **facts)


def evaluations(state: TrainerState) -> list[tuple[int, float]]:
    """Step and loss of every evaluation after the first step, in order."""
    return [
        (int(entry["step"]), float(entry["eval_loss"]))
        for entry in state.log_history
        if "eval_loss" in entry and entry["step"]
    ]


def best(state: TrainerState) -> tuple[int, float] | None:
    """Step and loss of the best evaluation so far; the base model's own does not count."""
    return min(evaluations(state), key=lambda found: found[1], default=None)


def base_loss(state: TrainerState) -> float | None:
    """The held-out loss before the first step: the base model's."""
    return next(
        (float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry and not entry["step"]), None
    )


def since_best(state: TrainerState) -> int:
    """How many evaluations came after the best one."""
    losses = [loss for _, loss in evaluations(state)]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0
