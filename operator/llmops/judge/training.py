"""How far a FineTuneJob is, from its Jobs, their pods and what they said.

What was once found out stays: pods and Jobs may be gone, the spec cannot change, and so neither can the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmops.api.conditions import ConditionType, Reason
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.fine_tune_status import (
    ArtifactStatus,
    BaseModelStatus,
    FineTuneJobStatus,
    ProgressStatus,
    UsageStatus,
)
from llmops.judge import outcomes, pods
from llmops.judge.redaction import redacted
from llmops.judge.verdict import MESSAGE_LIMIT, Verdict, abnormal, conditions, in_order, shortened

Json = dict[str, Any]

_ORDER = (
    ConditionType.ACCEPTED,
    ConditionType.DATASET_VALID,
    ConditionType.RUNNING,
    ConditionType.COMPLETE,
    ConditionType.FAILED,
    ConditionType.OVERFITTING,
    ConditionType.DIVERGED,
    ConditionType.RECONCILING,
    ConditionType.STALLED,
)
_INDEX = "batch.kubernetes.io/job-completion-index"
_REASONS = {reason.value: reason for reason in Reason}
_ACCEPTED = Verdict("True", Reason.ACCEPTED, "The spec is valid and acted on.")


@dataclass(frozen=True)
class Stage:
    """One of the two Jobs as it is seen, with its pods; `job` is `None` while it does not exist."""

    job: Json | None = None
    pods: tuple[Json, ...] = ()

    @property
    def outcome(self) -> Json | None:
        """What its pod that ended last said; of several that train together, the first one speaks."""
        return outcomes.newest(self.leading)

    @property
    def leading(self) -> tuple[Json, ...]:
        """The pods with the first index of a Job of several, and every pod of one of one."""
        return tuple(pod for pod in self.pods if (pod["metadata"].get("labels") or {}).get(_INDEX, "0") == "0")

    @property
    def running(self) -> bool:
        """Whether a pod of it runs now."""
        return any(
            pod.get("status", {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
            for pod in self.pods
        )

    @property
    def ended(self) -> bool:
        """Whether the Job has come to its end, good or bad."""
        return bool(self.finished("Complete") or self.finished("Failed"))

    def finished(self, kind: str) -> Json | None:
        """The Job's final condition `Complete` or `Failed`."""
        for entry in (self.job or {}).get("status", {}).get("conditions") or []:
            if entry["type"] == kind and entry["status"] == "True":
                return dict(entry)
        return None


@dataclass(frozen=True)
class Seen:
    """One look at a FineTuneJob's children. `progress` is the trainer's last progress line."""

    check: Stage
    training: Stage
    progress: Json | None = None


@dataclass(frozen=True)
class Bounds:
    """What the run may take: the model's size, what was used, and why it may not begin or go on, as sentences."""

    model: BaseModelStatus = field(default_factory=BaseModelStatus)
    usage: UsageStatus = field(default_factory=UsageStatus)
    unfit: str = ""
    spent: str = ""


def over(status: FineTuneJobStatus) -> bool:
    """Whether the job has come to its end, good or bad."""
    return any(
        condition.type in (ConditionType.COMPLETE, ConditionType.FAILED) and condition.status == "True"
        for condition in status.conditions
    )


def found_good(status: FineTuneJobStatus) -> bool:
    """Whether the data was found good at an earlier look."""
    return _known(status, ConditionType.DATASET_VALID)


def checked(status: FineTuneJobStatus, seen: Seen) -> bool:
    """Whether the data was found good, now or earlier."""
    return found_good(status) or seen.check.finished("Complete") is not None


def ended_at(status: FineTuneJobStatus) -> datetime | None:
    """When the job came to its end."""
    return next(
        (
            condition.last_transition_time
            for condition in status.conditions
            if condition.type in (ConditionType.COMPLETE, ConditionType.FAILED) and condition.status == "True"
        ),
        None,
    )


def model(status: FineTuneJobStatus, seen: Seen) -> BaseModelStatus:
    """The base model's size: as the check of the data told it, now or earlier."""
    told = (seen.check.outcome or {}).get("model")
    if status.base_model.parameters or not isinstance(told, dict):
        return status.base_model
    sizes = {name: told.get(name) for name in BaseModelStatus.model_fields}
    return BaseModelStatus(**{name: size for name, size in sizes.items() if isinstance(size, int) and size >= 0})


def of(
    job: FineTuneJob, seen: Seen, *, claim: str, waiting: str, now: datetime, bounds: Bounds | None = None
) -> FineTuneJobStatus:
    """The whole status.

    Args:
        job: The object, with the status it had.
        seen: Its children.
        claim: The job's volume claim, for where the artifact is.
        waiting: What it waits for before it can begin, as a sentence; empty when nothing.
        now: For times of transitions.
        bounds: What it may take.
    """
    before, bounds = job.status, bounds or Bounds()
    if over(before):
        return before.model_copy(update={"observed_generation": job.metadata.generation})
    data = _dataset(before, seen.check)
    state = _state(job, seen, data, waiting, bounds)
    unfit = state.reason == Reason.INSUFFICIENT_MEMORY
    done = state.reason == Reason.COMPLETED
    failed = state.status == "False" and state.reason in _final(seen, data, bounds)
    verdicts = {
        ConditionType.ACCEPTED: state if unfit else _ACCEPTED,
        ConditionType.DATASET_VALID: data,
        ConditionType.RUNNING: Verdict("False", state.reason, state.message) if done else state,
        ConditionType.COMPLETE: state if done else Verdict("False", state.reason, state.message),
        ConditionType.FAILED: Verdict("True" if failed else "False", state.reason, state.message),
        **({ConditionType.STALLED: Verdict("True", state.reason, state.message)} if failed else {}),
        **({} if failed else abnormal(state, settled=done or job.spec.suspend)),
    }
    verdicts |= _learning(before, seen)
    outcome = seen.training.outcome if done else None
    return FineTuneJobStatus(
        observed_generation=job.metadata.generation,
        conditions=conditions(verdicts, before.conditions, order=_ORDER, generation=job.metadata.generation, now=now),
        start_time=before.start_time or _began(seen),
        completion_time=now.replace(microsecond=0) if done else None,
        progress=_progress(before.progress, seen, outcome),
        base_model=bounds.model,
        usage=bounds.usage,
        artifact=_artifact(outcome, claim) if outcome else before.artifact,
        evaluation=_metrics(outcome) if outcome else before.evaluation,
    )


def refused(job: FineTuneJobStatus, generation: int, verdict: Verdict, now: datetime) -> FineTuneJobStatus:
    """The status of a spec that cannot be acted on."""
    if over(job):
        return job
    verdicts = {ConditionType.ACCEPTED: verdict, ConditionType.RUNNING: verdict, ConditionType.COMPLETE: verdict}
    verdicts |= abnormal(verdict, settled=False)
    replaced = {*verdicts, ConditionType.RECONCILING, ConditionType.STALLED}
    kept = [condition for condition in job.conditions if condition.type not in replaced]
    stamped = conditions(verdicts, job.conditions, order=_ORDER, generation=generation, now=now)
    return job.model_copy(update={"observed_generation": generation, "conditions": in_order([*stamped, *kept], _ORDER)})


def _learning(before: FineTuneJobStatus, seen: Seen) -> dict[ConditionType, Verdict]:
    """What the losses say, as soon as there are some; what was said last stays while no pod tells anything new."""
    outcome = seen.training.outcome
    told = seen.progress or outcome
    if told is None or "step" not in told:
        return {
            ConditionType(entry.type): Verdict(entry.status, _REASONS[entry.reason], entry.message)
            for entry in before.conditions
            if entry.type in (ConditionType.OVERFITTING, ConditionType.DIVERGED) and entry.reason in _REASONS
        }
    fine = Verdict("False", Reason.LEARNING, "The losses are as they should be.")
    verdicts = {ConditionType.OVERFITTING: fine, ConditionType.DIVERGED: fine}
    if evaluations := told.get("overfitting"):
        said = (
            f"The held-out loss was worse {evaluations} times in a row while the training loss fell. The best "
            "checkpoint is what is exported; train on more rows, for fewer epochs, or set earlyStopping."
        )
        verdicts[ConditionType.OVERFITTING] = Verdict("True", Reason.OVERFITTING, said)
    if outcome and outcome["outcome"] == Reason.DIVERGED:
        said = shortened(redacted(str(outcome.get("message", ""))), MESSAGE_LIMIT)
        verdicts[ConditionType.DIVERGED] = Verdict("True", Reason.DIVERGED, said)
    return verdicts


def _dataset(before: FineTuneJobStatus, check: Stage) -> Verdict:
    for condition in before.conditions:
        if condition.type == ConditionType.DATASET_VALID and condition.status == "True":
            return Verdict("True", Reason.DATASET_VALID, condition.message)
    outcome = check.outcome
    if check.finished("Complete"):
        message = str(outcome["message"]) if outcome else "Every row was read and fits the method."
        return Verdict("True", Reason.DATASET_VALID, shortened(redacted(message), MESSAGE_LIMIT))
    if failure := check.finished("Failed"):
        return _failure(check, failure, Reason.CHECK_FAILED)
    if problem := _trouble(check.pods):
        return Verdict("Unknown", problem.reason, problem.message)
    return Verdict("Unknown", Reason.VALIDATING, "The data set is being checked on a CPU.")


def _state(job: FineTuneJob, seen: Seen, data: Verdict, waiting: str, bounds: Bounds) -> Verdict:
    """What it is doing: `True` while it trains, the reason otherwise."""
    training = seen.training
    if training.finished("Complete"):
        outcome = training.outcome
        said = str(outcome["message"]) if outcome else "The artifact is written."
        return Verdict("True", Reason.COMPLETED, shortened(redacted(said), MESSAGE_LIMIT))
    if failure := training.finished("Failed"):
        return _failure(training, failure, Reason.TRAINER_FAILED)
    if data.status == "False":
        return data
    if bounds.spent:
        return Verdict("False", Reason.BUDGET_EXCEEDED, bounds.spent)
    if job.spec.suspend:
        return Verdict(
            "False", Reason.SUSPENDED, "spec.suspend is true: checkpoints are kept. Set it to false to go on."
        )
    if waiting:
        return Verdict("False", Reason.RESOLVING, waiting)
    if data.status != "True":
        return Verdict("False", data.reason, data.message)
    if bounds.unfit:
        return Verdict("False", Reason.INSUFFICIENT_MEMORY, bounds.unfit)
    return _stage(training)


def _stage(training: Stage) -> Verdict:
    """Where the training Job is, while it has not ended."""
    if training.running:
        return Verdict("True", Reason.TRAINING, "The trainer runs; status.progress has steps and losses.")
    if problem := _trouble(training.pods):
        return Verdict("False", problem.reason, problem.message)
    if (training.job or {}).get("spec", {}).get("suspend"):
        return Verdict("False", Reason.QUEUED, "The training Job waits for its queue to admit it.")
    outcome = training.outcome
    if outcome is None:
        return Verdict("False", Reason.STARTING, "The training pod is being created.")
    if outcome["outcome"] == Reason.COMPLETED:
        return Verdict("False", Reason.TRAINING, "The artifact is written; Kubernetes is closing the Job.")
    said = f"A pod ended: {outcome.get('message', '')} The next one goes on from the last checkpoint."
    return Verdict("False", Reason.RESUMING, shortened(redacted(said), MESSAGE_LIMIT))


def _final(seen: Seen, data: Verdict, bounds: Bounds) -> set[Reason]:
    """The reason, if the end was bad."""
    if bounds.spent:
        return {Reason.BUDGET_EXCEEDED}
    if failure := seen.training.finished("Failed"):
        return {_failure(seen.training, failure, Reason.TRAINER_FAILED).reason}
    return {data.reason} if data.status == "False" else set()


def _trouble(job_pods: Sequence[Json]) -> pods.Trouble | None:
    """What keeps a pod from starting. One that runs, has ended or fails is told by its outcome."""
    waiting = [pod for pod in job_pods if pod.get("status", {}).get("phase") == "Pending"]
    problem = pods.trouble(waiting)
    return problem if problem and problem.stuck else None


def _failure(stage: Stage, condition: Json, otherwise: Reason) -> Verdict:
    if condition.get("reason") == "DeadlineExceeded":
        return Verdict(
            "False", Reason.DEADLINE_EXCEEDED, "spec.deadlineSeconds passed. Create a job that may take longer."
        )
    outcome = stage.outcome
    if outcome is None:
        return Verdict("False", *_crash(stage, otherwise))
    reason = _REASONS.get(outcome["outcome"], otherwise)
    return Verdict("False", reason, shortened(redacted(str(outcome.get("message", ""))), MESSAGE_LIMIT))


def _crash(stage: Stage, otherwise: Reason) -> tuple[Reason, str]:
    """A pod that was killed left no words of ours."""
    for pod in stage.pods:
        for container in pod.get("status", {}).get("containerStatuses") or []:
            ended = container.get("state", {}).get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                remedy = "lower per_device_train_batch_size or max_length, or choose a profile with more memory."
                return Reason.OUT_OF_MEMORY, f"The pod used more host memory than its limit: {remedy}"
            if ended.get("exitCode"):
                line = pods.last_error(redacted(ended.get("message") or "")) or f"exit code {ended['exitCode']}"
                return otherwise, f"The pod failed: {line}"
    return otherwise, "The Job failed and its pods left no message."


def _progress(before: ProgressStatus, seen: Seen, outcome: Json | None) -> ProgressStatus:
    """In steps of a percent: a status that moves with every step would wake its own reconcile."""
    ended = [pod for pod in seen.training.leading if pod.get("status", {}).get("phase") == "Failed"]
    restarts = max(before.restarts, len(ended))
    if outcome:
        facts = {"step": outcome.get("last", before.step), "total_steps": outcome.get("total", before.total_steps)}
        best = {"best_step": outcome.get("step"), "best_eval_loss": _decimal(outcome.get("best_loss"))}
        facts |= {"last_checkpoint_step": facts["step"], "eta_seconds": 0}
        # An evicted pod is gone and cannot be counted; the trainer has kept the number on its volume.
        return before.model_copy(update={**facts, **best, "restarts": max(restarts, outcome.get("restarts", 0))})
    now = seen.progress
    if now is None or _percent(now["step"], now["total"]) == _percent(before.step, before.total_steps):
        return before.model_copy(update={"restarts": restarts})
    return ProgressStatus(
        step=now["step"],
        total_steps=now["total"],
        epoch=_decimal(now.get("epoch")),
        train_loss=_decimal(now.get("loss")) or before.train_loss,
        eval_loss=_decimal(now.get("eval_loss")) or before.eval_loss,
        best_eval_loss=_decimal(now.get("best_loss")) or before.best_eval_loss,
        best_step=now.get("best_step", before.best_step),
        tokens_per_second=now.get("tokens_per_second"),
        eta_seconds=now.get("eta_seconds"),
        last_checkpoint_step=now.get("checkpoint"),
        restarts=restarts,
    )


def _percent(step: int, total: int | None) -> int | None:
    return 100 * step // total if total else None


def _decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _artifact(outcome: Json, claim: str) -> ArtifactStatus:
    uri = f"pvc://{claim}/{outcome.get('uri', '')}"
    return ArtifactStatus(uri=uri, digest=outcome.get("digest"), provenance=f"{uri}/provenance.json")


def _metrics(outcome: Json) -> dict[str, str]:
    return {str(name): str(value) for name, value in (outcome.get("metrics") or {}).items()}


def _began(seen: Seen) -> datetime | None:
    born = [
        datetime.fromisoformat(pod["metadata"]["creationTimestamp"]) for pod in (*seen.check.pods, *seen.training.pods)
    ]
    return min(born, default=None)


def _known(status: FineTuneJobStatus, kind: ConditionType) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)
