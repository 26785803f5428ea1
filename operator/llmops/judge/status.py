"""An LLMDeployment's status: every condition with its reason, made whole from what was seen.

Nothing here moves by itself (no current rate, no "last checked"): a status that changes without cause wakes its own
reconcile for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmops.api.conditions import ConditionType, Reason
from llmops.api.llm_deployment import LLMDeployment, LLMDeploymentStatus
from llmops.judge import pods
from llmops.judge.verdict import MESSAGE_LIMIT, Verdict, abnormal, conditions, in_order, shortened
from llmops.judge.weights import Weights

Json = dict[str, Any]

# A pod of a rollout that has been stuck for longer than this will not start by itself while the old ones keep what
# it waits for.
STUCK_ROLLOUT = timedelta(seconds=20)

_ORDER: tuple[str, ...] = (
    ConditionType.READY,
    ConditionType.ACCEPTED,
    ConditionType.WEIGHTS_READY,
    ConditionType.PROGRESSING,
    ConditionType.ADAPTERS_READY,
    ConditionType.SCALING_ACTIVE,
    ConditionType.DRIFTED,
    ConditionType.BACKED_UP,
    ConditionType.RECONCILING,
    ConditionType.STALLED,
)


@dataclass(frozen=True)
class Serving:
    """What was seen of the engines.

    Attributes:
        workload: The Deployment or LeaderWorkerSet; `None` while there is none.
        pods: Its pods, of every revision.
        capacity: What is free of the accelerator, as a sentence, when somebody waits for it.
    """

    workload: Json | None
    pods: tuple[Json, ...]
    capacity: str = ""

    @property
    def ready(self) -> int:
        """How many pods answer."""
        return sum(pods.is_ready(pod) for pod in self.pods)

    @property
    def replicas(self) -> int:
        """How many pods exist that are not on their way out."""
        return sum(not pod["metadata"].get("deletionTimestamp") for pod in self.pods)

    @property
    def rolled_out(self) -> bool:
        """Whether every pod is of the newest template and the controller has seen it."""
        if self.workload is None:
            return False
        status = self.workload.get("status", {})
        if status.get("observedGeneration", 0) < self.workload["metadata"].get("generation", 0):
            return False
        wanted = self.workload["spec"].get("replicas", 1)
        return bool(status.get("updatedReplicas", 0) == wanted == status.get("replicas", 0))


def refused(llm_status: LLMDeploymentStatus, generation: int, verdict: Verdict, now: datetime) -> LLMDeploymentStatus:
    """The status of a spec that cannot be acted on; what runs is left running and still reported."""
    verdicts = {ConditionType.ACCEPTED: verdict, ConditionType.PROGRESSING: verdict, **abnormal(verdict, settled=False)}
    replaced = {*verdicts, ConditionType.RECONCILING, ConditionType.STALLED}
    kept = [c for c in llm_status.conditions if c.type not in replaced]
    ready = next((c for c in kept if c.type == ConditionType.READY), None)
    if ready is None or ready.status != "True":
        verdicts[ConditionType.READY] = verdict
        kept = [c for c in kept if c.type != ConditionType.READY]
    stamped = conditions(verdicts, llm_status.conditions, order=_ORDER, generation=generation, now=now)
    return llm_status.model_copy(
        update={"observed_generation": generation, "conditions": in_order([*stamped, *kept], _ORDER)}
    )


def of(
    llm: LLMDeployment,
    *,
    serving: Serving,
    weights: Weights,
    scaling: Verdict,
    drifted: Verdict | None,
    adapters: Verdict | None,
    backed_up: Verdict | None,
    desired: int,
    claim: str | None,
    selector: str,
    endpoint: str,
    now: datetime,
) -> LLMDeploymentStatus:
    """The whole status."""
    moving = progress(serving, weights, desired, now)
    verdicts = {
        ConditionType.READY: readiness(llm, serving, weights, desired),
        ConditionType.ACCEPTED: Verdict("True", Reason.ACCEPTED, "The spec is valid and acted on."),
        ConditionType.WEIGHTS_READY: weights.verdict,
        ConditionType.PROGRESSING: moving,
        ConditionType.SCALING_ACTIVE: scaling,
        **({ConditionType.DRIFTED: drifted} if drifted else {}),
        **({ConditionType.ADAPTERS_READY: adapters} if adapters else {}),
        **({ConditionType.BACKED_UP: backed_up} if backed_up else {}),
        **abnormal(moving, settled=moving.reason == Reason.UP_TO_DATE),
    }
    before = llm.status
    return LLMDeploymentStatus(
        observed_generation=llm.metadata.generation,
        conditions=conditions(verdicts, before.conditions, order=_ORDER, generation=llm.metadata.generation, now=now),
        replicas=serving.replicas,
        ready_replicas=serving.ready,
        desired_replicas=desired,
        selector=selector,
        model=weights.model,
        weights=before.weights.model_copy(update={"claim": claim, "path": None}),
        adapters=before.adapters,
        endpoint=endpoint,
    )


def readiness(llm: LLMDeployment, serving: Serving, weights: Weights, desired: int) -> Verdict:
    """`Ready`: true only while a pod answers, or while nobody is meant to."""
    if serving.ready:
        count = f"{serving.ready} pod answers" if serving.ready == 1 else f"{serving.ready} pods answer"
        return Verdict("True", Reason.SERVING, f"{count} requests.")
    if not weights.ready:
        return weights.verdict
    if desired == 0 and llm.spec.autoscaling is None:
        return Verdict(
            "True", Reason.SCALED_TO_ZERO, "spec.replicas is 0. Raise it, or set spec.autoscaling to wake on requests."
        )
    if desired == 0:
        return Verdict("True", Reason.SCALED_TO_ZERO, "No request for a while; the next one wakes the model.")
    return _absent(serving)


def _absent(serving: Serving) -> Verdict:
    """Why nobody serves although somebody should."""
    if refusal := _creation_refused(serving.workload):
        return refusal
    if problem := pods.trouble(serving.pods):
        message = problem.message
        if problem.reason == Reason.WAITING_FOR_GPU and serving.capacity:
            message = f"{serving.capacity} {message}"
        return Verdict("False", problem.reason, shortened(message, MESSAGE_LIMIT))
    return Verdict("False", Reason.STARTING, "Pods are being created.")


def _creation_refused(workload: Json | None) -> Verdict | None:
    for entry in (workload or {}).get("status", {}).get("conditions") or []:
        if entry["type"] == "ReplicaFailure" and entry["status"] == "True":
            message = entry.get("message", "")
            reason = Reason.QUOTA_EXCEEDED if "exceeded quota" in message else Reason.FORBIDDEN
            return Verdict("False", reason, shortened(f"Pods may not be created: {message}", 512))
    return None


def progress(serving: Serving, weights: Weights, desired: int, now: datetime) -> Verdict:
    """`Progressing`: whether the last change is still under way, done, or stuck."""
    if not weights.ready:
        stuck = weights.verdict.reason not in (Reason.DOWNLOADING, Reason.RESOLVING, Reason.VERIFYING)
        return Verdict("False" if stuck else "True", weights.verdict.reason, weights.verdict.message)
    if (serving.rolled_out and serving.ready >= desired) or (desired == 0 and not serving.pods):
        return Verdict("True", Reason.UP_TO_DATE, "Everything runs as the spec says.")
    if refusal := _creation_refused(serving.workload):
        return refusal
    problem = pods.trouble(serving.pods)
    if problem and problem.stuck and serving.ready and pods.waiting_for(serving.pods, now) > STUCK_ROLLOUT:
        return Verdict(
            "False", Reason.ROLLOUT_BLOCKED, shortened(f"{problem.reason}: {problem.message}", MESSAGE_LIMIT)
        )
    if problem:
        message = (
            f"{serving.capacity} {problem.message}" if problem.reason == Reason.WAITING_FOR_GPU else problem.message
        )
        return Verdict("False" if problem.stuck else "True", problem.reason, shortened(message, MESSAGE_LIMIT))
    return Verdict("True", Reason.ROLLING_OUT, "Pods are being brought to the spec.")


def may_surge(serving: Serving, now: datetime) -> bool:
    """Whether a rollout may start a new pod before an old one stops.

    Yes, until a new pod turns out to fit on no node while old ones serve: then an old one must make room, or the
    rollout waits for ever on a full cluster. Settled again, it is yes again.
    """
    if serving.workload is None or serving.rolled_out:
        return True
    rolling = serving.workload["spec"].get("strategy", {}).get("rollingUpdate", {})
    if rolling.get("maxSurge") == 0:
        return False
    problem = pods.trouble(serving.pods)
    unplaced = problem is not None and problem.reason in (Reason.WAITING_FOR_GPU, Reason.UNSCHEDULABLE)
    return not (unplaced and serving.ready and pods.waiting_for(serving.pods, now) > STUCK_ROLLOUT)
