"""Whether a model's files are there, read from the weights Job, its pods and what they said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from llmops.api.conditions import ConditionType, Reason
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_status import ModelStatus, RestoredAdapter
from llmops.api.problem import NeedsUser
from llmops.judge import outcomes, pods
from llmops.judge.redaction import redacted
from llmops.judge.verdict import Verdict, shortened

Json = dict[str, Any]

RETRY_FAILED = timedelta(minutes=10)


@dataclass(frozen=True)
class Progress:
    """How far a download is, in bytes; `total` is `None` until the source has told."""

    done: int
    total: int | None


@dataclass(frozen=True)
class Weights:
    """The verdict on the files, and which bytes they are once that is known."""

    verdict: Verdict
    model: ModelStatus

    @property
    def ready(self) -> bool:
        """Whether engines may be started on them."""
        return self.verdict.status == "True"


@dataclass(frozen=True)
class Artifact:
    """A whole model that a FineTuneJob has finished: its directory on the job's volume, and its digest."""

    path: str
    digest: str


def artifact(name: str, job: FineTuneJob | None) -> Artifact | Verdict:
    """What the FineTuneJob of a finetune:// source has finished, or why there is nothing to copy yet.

    Raises:
        NeedsUser: it makes an adapter and no model.
    """
    if job is None:
        return Verdict("False", Reason.MODEL_NOT_FOUND, f"FineTuneJob {name} does not exist in this namespace.")
    if job.spec.method != "Full":
        raise NeedsUser(
            Reason.INVALID_SPEC,
            f"spec.model.source: FineTuneJob {name} of method {job.spec.method} makes an adapter and no model. Serve "
            "its base model and name it in spec.adapters, or use method Full.",
        )
    complete = next((entry for entry in job.status.conditions if entry.type == ConditionType.COMPLETE), None)
    made = job.status.artifact
    if complete is None or complete.status != "True" or not made.uri or not made.digest:
        why = f": {complete.message}" if complete else "."
        return Verdict("False", Reason.RESOLVING, shortened(f"FineTuneJob {name} is not complete{why}", 512))
    return Artifact(made.uri.partition("://")[2].partition("/")[2], made.digest)


def mounted_image() -> Weights:
    """Files inside an image: the kubelet pulls and verifies them with the pod."""
    return Weights(Verdict("True", Reason.VERIFIED, "The model is an image that the node mounts."), ModelStatus())


def of(job: Json | None, job_pods: Sequence[Json], progress: Progress | None, known: ModelStatus) -> Weights:
    """The verdict.

    Args:
        job: The weights Job of the present spec; `None` while it does not exist yet.
        job_pods: Its pods, in any order.
        progress: The last progress line of the running pod.
        known: What the status already says of these files: a fact that outlives the pod that reported it.
    """
    outcome = _outcome(job_pods)
    if (job and _finished(job, "Complete")) or (outcome and outcome["outcome"] == "Complete"):
        model = _model(outcome) if outcome else known
        large = f", {size(model.bytes)}" if model.bytes else ""
        revision = f" at revision {model.revision}" if model.revision else ""
        return Weights(Verdict("True", Reason.VERIFIED, f"Every file is verified{revision}{large}."), model)
    model = replace_model(known, outcome)
    if job and _finished(job, "Failed"):
        return Weights(_failure(outcome, job_pods, final=True), model)
    if outcome:
        return Weights(_failure(outcome, job_pods, final=False), model)
    if problem := pods.trouble(job_pods):
        return Weights(_unstarted(problem, progress), model)
    if job and (refusal := _refusal(job)):
        return Weights(refusal, model)
    return Weights(_downloading(progress), model)


def replace_model(known: ModelStatus, outcome: Json | None) -> ModelStatus:
    """What is known of the bytes so far: the resolved revision is recorded before the files are complete."""
    return known.model_copy(update={"revision": outcome["revision"]}) if outcome and outcome.get("revision") else known


def outdated(job: Json | None, claim: Json | None, now: datetime) -> bool:
    """Whether a finished Job says nothing about today's volume, and must run again.

    It does when the volume was deleted and made anew after the Job completed; and a failed Job is tried again after
    a while, because a Secret or a bucket may have been mended without any change of the spec.
    """
    if job is None:
        return False
    if _finished(job, "Complete") and claim is not None:
        completed = datetime.fromisoformat(job["status"]["completionTime"])
        return datetime.fromisoformat(claim["metadata"]["creationTimestamp"]) > completed
    for entry in job.get("status", {}).get("conditions") or []:
        if entry["type"] == "Failed" and entry["status"] == "True":
            return now - datetime.fromisoformat(entry["lastTransitionTime"]) > RETRY_FAILED
    return False


def progress(log: str) -> Progress | None:
    """What a pod's last log lines tell of how far it is."""
    said = outcomes.latest(log, "progress")
    return Progress(int(said["bytes"]), said.get("total")) if said else None


def in_steps(seen: Progress | None) -> Progress | None:
    """Progress in steps of ten percent: a status that moves with every byte would wake its own reconcile."""
    if seen is None or not seen.total:
        return None
    step = seen.done * 10 // seen.total
    return replace(seen, done=seen.total * step // 10)


def _downloading(seen: Progress | None) -> Verdict:
    stepped = in_steps(seen)
    if stepped is None or stepped.total is None:
        return Verdict("False", Reason.DOWNLOADING, "The model's files are being fetched and verified.")
    percent = stepped.done * 100 // stepped.total
    return Verdict(
        "False",
        Reason.DOWNLOADING,
        f"{size(stepped.done)} of {size(stepped.total)} fetched and hashed ({percent} %).",
    )


def _unstarted(problem: pods.Trouble, seen: Progress | None) -> Verdict:
    """A pod of the Job that runs is downloading; one that does not has the troubles any pod may have."""
    downloading = {Reason.LOADING_WEIGHTS, Reason.POD_NOT_READY, Reason.STARTING, Reason.CRASH_LOOPING}
    if problem.reason in downloading:
        return _downloading(seen)
    return Verdict("False", problem.reason, problem.message)


def _finished(job: Json, kind: str) -> bool:
    return any(
        entry["type"] == kind and entry["status"] == "True" for entry in job.get("status", {}).get("conditions") or []
    )


def _refusal(job: Json) -> Verdict | None:
    """A Job that may not make its pod says so only in its own condition or Events; an old one without pods shows it."""
    for entry in job.get("status", {}).get("conditions") or []:
        if entry.get("reason") == "FailedCreate" and entry["status"] == "True":
            return Verdict("False", Reason.FORBIDDEN, shortened(redacted(entry.get("message", ""))))
    return None


def _outcome(job_pods: Sequence[Json]) -> Json | None:
    """What the newest pod that ended has said in its termination message."""
    ended = []
    for pod in job_pods:
        for container in pod.get("status", {}).get("containerStatuses") or []:
            state = container.get("state", {}).get("terminated")
            if state and state.get("message"):
                ended.append((state.get("finishedAt") or "", state["message"]))
    for _, message in sorted(ended, reverse=True):
        try:
            value = json.loads(message)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and "outcome" in value:
            return value
    return None


def _model(outcome: Json) -> ModelStatus:
    restored = outcome.get("adapters") or {}
    return ModelStatus(
        revision=outcome.get("revision"),
        digest=outcome.get("digest"),
        bytes=outcome.get("bytes"),
        adapters=[RestoredAdapter(name=name, digest=digest) for name, digest in sorted(restored.items())],
    )


def _failure(outcome: Json | None, job_pods: Sequence[Json], *, final: bool) -> Verdict:
    if outcome is None:
        said = next((problem.message for pod in job_pods if (problem := pods.of(pod))), "It left no message.")
        return Verdict("False", Reason.WEIGHTS_FAILED, shortened(f"The weights Job failed. {said}"))
    reasons = {reason.value: reason for reason in Reason}
    reason = reasons.get(str(outcome.get("outcome")), Reason.WEIGHTS_FAILED)
    message = shortened(redacted(str(outcome.get("message", ""))), 512)
    return Verdict("False", reason, message if final else f"{message} It is tried again.".strip())


def size(count: int | None) -> str:
    """A number of bytes as people read it."""
    value = float(count or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
