"""What is done between two optimizer steps: tell, seal checkpoints, stop when told or when it is no use."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import structlog
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmops_serving.jobs.ending import Stopped
from llmops_serving.jobs.finetune import curves
from llmops_serving.jobs.finetune.checkpoints import Checkpoints
from llmops_serving.jobs.finetune.gang import Gang
from llmops_serving.jobs.finetune.metrics import Metrics

log = structlog.get_logger()

DIVERGED = 3.0  # times the first loss


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not installed where types are checked
    """One run's callback. `stop` is set by the signal handler and read after every step.

    Args:
        checkpoints: Where finished checkpoints go.
        keep: How many of them stay, besides the best.
        patience: Evaluations without a better loss after which training ends; `None`: never.
        gang: The processes that train together.
        metrics: Shows the same numbers to Prometheus.
    """

    def __init__(
        self, checkpoints: Checkpoints, *, keep: int, patience: int | None, gang: Gang, metrics: Metrics
    ) -> None:
        self._checkpoints, self._keep, self._patience, self._gang = checkpoints, keep, patience, gang
        self._metrics = metrics
        self._clock = _Clock()
        self.stop = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._clock = _Clock(state.global_step, state.num_input_tokens_seen)
        if self._gang.leads:
            log.info("training", step=state.global_step, total=state.max_steps, epochs=args.num_train_epochs)
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_save = True
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"
        elif self._gang.anyone(self.stop):
            # What is saved is what was learned; an evaluation would eat the time that is left.
            self.stop = True
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
        del args
        told = logs or {}
        if "loss" in told:
            self._judge(float(told["loss"]), state)
        if self._gang.leads and ("loss" in told or "eval_loss" in told):
            self._tell(told, state)
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        del args
        if self._patience is not None and curves.since_best(state.log_history) >= self._patience:
            log.info("no better loss", evaluations=self._patience, step=state.global_step)
            control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._gang.wait()  # every process writes its own part
        if self._gang.leads:
            made = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._checkpoints.seal(made, state.global_step)
            found = curves.best(state.log_history)
            self._checkpoints.prune(self._keep, found[0] if found else None)
            log.info("checkpoint", step=state.global_step, total=state.max_steps)
        self._gang.wait()
        return control

    def _judge(self, loss: float, state: TrainerState) -> None:
        first = next((found for _, found in curves.losses(state.log_history)), loss)
        if not math.isfinite(loss) or (loss > DIVERGED * first and loss > 1):
            raise Stopped(
                "Diverged",
                f"The loss went from {first:.3f} to {loss:.3f} at step {state.global_step}: lower "
                "hyperparameters.learning_rate, raise warmup_steps, or look for damaged rows.",
                facts={"step": state.global_step, "total": state.max_steps},
            )

    def _tell(self, told: dict[str, Any], state: TrainerState) -> None:
        """One line of progress; `kubectl logs`, the operator and `llmops logs -f` read the same."""
        found = curves.best(state.log_history)
        facts: dict[str, Any] = {
            "step": state.global_step,
            "total": state.max_steps,
            "epoch": round(state.epoch or 0.0, 3),
            "tokens_per_second": round(self._clock.tokens_per_second(state)),
            "eta_seconds": self._clock.left(state),
            "checkpoint": max(self._checkpoints.steps(), default=0),
            "overfitting": curves.overfitting(state.log_history, self._patience),
        }
        for name in ("loss", "eval_loss"):
            if name in told:
                facts[name] = round(float(told[name]), 5)
        if found:
            facts["best_step"], facts["best_loss"] = found[0], round(found[1], 5)
        self._metrics.show(facts)
        log.info("progress", **facts)


class _Clock:
    """Speed since a run began; what was learned by earlier runs took their time."""

    def __init__(self, step: int = 0, tokens: int = 0) -> None:
        self._began, self._step, self._tokens = time.monotonic(), step, tokens

    def tokens_per_second(self, state: TrainerState) -> float:
        return float((state.num_input_tokens_seen - self._tokens) / max(1e-9, time.monotonic() - self._began))

    def left(self, state: TrainerState) -> int | None:
        """Seconds to the last step, at the speed so far; `None` before the first one."""
        done = state.global_step - self._step
        seconds = time.monotonic() - self._began
        return math.ceil(seconds / done * (state.max_steps - state.global_step)) if done > 0 else None
