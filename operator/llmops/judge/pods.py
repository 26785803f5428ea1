"""Why pods do not serve, read from what the scheduler, the kubelet and the engine itself reported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmops.api.conditions import Reason
from llmops.judge.redaction import redacted
from llmops.judge.verdict import shortened

Json = dict[str, Any]


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from serving. `stuck`: waiting alone will not mend it."""

    reason: Reason
    message: str
    stuck: bool = True


# What an engine that ran out of memory says, and what one that was started wrongly says: vLLM's and torch's words.
_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|No available memory for the cache blocks|Cannot allocate memory"
    r"|larger than the (?:maximum number of tokens|available KV cache memory)|less than desired GPU memory",
    re.IGNORECASE,
)
_ARGUMENTS = re.compile(
    r"error: (?:unrecognized arguments|argument |the following arguments|ambiguous option)"
    r"|ValidationError|ValueError|NotImplementedError|KeyError: '.*(?:dtype|quantization)|is not supported",
)
_ERROR_LINE = re.compile(r"\w*(?:Error|Exception)\b.*:|^(?:.*: )?error: ")
# By SIGTERM or SIGKILL: not by itself. The kernel's own kill for want of memory has a reason of its own.
_STOPPED = (143, 137)
_PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}


def is_ready(pod: Json) -> bool:
    """Whether the pod answers requests and is not on its way out."""
    return condition(pod, "Ready") == "True" and not pod["metadata"].get("deletionTimestamp")


def condition(pod: Json, kind: str) -> str | None:
    """Status of one pod condition."""
    for entry in pod.get("status", {}).get("conditions") or []:
        if entry["type"] == kind:
            return str(entry["status"])
    return None


def ready_since(pods: Iterable[Json]) -> datetime | None:
    """When the first of the pods that are ready now became so; since its creation, where its node gives no time."""
    times = [
        datetime.fromisoformat(entry.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])
        for pod in pods
        if is_ready(pod)
        for entry in pod["status"]["conditions"]
        if entry["type"] == "Ready"
    ]
    return min(times, default=None)


def trouble(pods: Sequence[Json]) -> Trouble | None:
    """The worst trouble among pods that do not serve; `None` when none of them has one."""
    found = [problem for pod in pods if not is_ready(pod) if (problem := of(pod))]
    return min(found, key=lambda problem: _ORDER.index(problem.reason), default=None)


# What a reader can act on comes before what may pass by itself.
_ORDER = (
    Reason.IMAGE_PULL_FAILED,
    Reason.SECRET_NOT_FOUND,
    Reason.ENGINE_ARGS_INVALID,
    Reason.OUT_OF_MEMORY,
    Reason.CRASH_LOOPING,
    Reason.WAITING_FOR_GPU,
    Reason.UNSCHEDULABLE,
    Reason.VOLUME_PENDING,
    Reason.LOADING_WEIGHTS,
    Reason.STARTING,
    Reason.POD_NOT_READY,
)


def of(pod: Json) -> Trouble | None:
    """What keeps this pod from serving."""
    if pod["metadata"].get("deletionTimestamp"):
        return None
    status = pod.get("status", {})
    for entry in status.get("conditions") or []:
        if entry["type"] == "PodScheduled" and entry["status"] == "False":
            return _unscheduled(entry.get("message", ""))
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if problem := _container(container, was_ready=_was_ready(pod, container)):
            return problem
    if status.get("phase") == "Pending":
        return Trouble(Reason.STARTING, "The pod is placed; its volumes and image are being prepared.", stuck=False)
    return None


def _unscheduled(message: str) -> Trouble:
    lacking = re.search(r"Insufficient ((?!cpu\b|memory\b|ephemeral-storage\b|pods\b)[\w.-]+/[\w.-]+)", message)
    text = shortened(message)
    if lacking:
        return Trouble(Reason.WAITING_FOR_GPU, f"No node has a free {lacking[1]}: {text}")
    if "persistentvolumeclaim" in message or "volume" in message.lower():
        return Trouble(Reason.VOLUME_PENDING, f"The weights volume cannot be used: {text}")
    return Trouble(Reason.UNSCHEDULABLE, f"No node fits the pod: {text}")


def _was_ready(pod: Json, container: Json) -> bool:
    """Whether a running container that is not ready has been: its pod then changed after the container started."""
    started = container.get("state", {}).get("running", {}).get("startedAt")
    changed = next(
        (c["lastTransitionTime"] for c in pod["status"].get("conditions") or [] if c["type"] == "Ready"), None
    )
    return bool(started and changed and datetime.fromisoformat(changed) > datetime.fromisoformat(started))


def _container(container: Json, *, was_ready: bool) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    if waiting.get("reason") in _PULL_REASONS:
        said = shortened(waiting.get("message", waiting["reason"]))
        return Trouble(
            Reason.IMAGE_PULL_FAILED,
            f"Image {container['image']} cannot be pulled: {said}. Check the name, or add a pull secret.",
        )
    if waiting.get("reason") == "CreateContainerConfigError":
        said = shortened(waiting.get("message", ""))
        return Trouble(
            Reason.SECRET_NOT_FOUND, f"The container cannot be configured: {said}. Create it, or fix the name."
        )
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    if ended and ended.get("exitCode", 0) != 0 and not container.get("ready"):
        return crash(ended, restarts=container.get("restartCount", 0))
    if "running" in container.get("state", {}) and not container.get("ready"):
        if was_ready:
            return Trouble(Reason.POD_NOT_READY, "The engine runs but its health check fails.", stuck=False)
        return Trouble(Reason.LOADING_WEIGHTS, "The engine is loading the weights.", stuck=False)
    return None


def crash(ended: Json, *, restarts: int) -> Trouble:
    """Why a container exited, from its exit code and the last lines it printed."""
    text = redacted(ended.get("message") or "")
    line = last_error(text)
    if ended.get("reason") == "OOMKilled":
        return Trouble(
            Reason.OUT_OF_MEMORY,
            "The engine used more host memory than its limit. "
            "Raise spec.pod.resources.limits.memory or use a smaller model.",
        )
    if _MEMORY.search(text):
        return Trouble(
            Reason.OUT_OF_MEMORY,
            f"The engine ran out of accelerator memory: {line} "
            "Lower spec.engine.maxModelLen, set spec.engine.quantization, or raise spec.accelerator.count.",
        )
    if ended.get("exitCode") == 2 or _ARGUMENTS.search(line):
        return Trouble(Reason.ENGINE_ARGS_INVALID, f"The engine refused its settings: {line} Check spec.engine.")
    said = f"last error: {line}" if line else f"exit code {ended.get('exitCode')}"
    if ended.get("exitCode") in _STOPPED:
        return Trouble(
            Reason.CRASH_LOOPING,
            f"The engine was stopped because its health check did not succeed in time ({restarts} restarts); {said}",
        )
    return Trouble(Reason.CRASH_LOOPING, f"The engine keeps exiting ({restarts} restarts); {said}")


def last_error(text: str) -> str:
    """The last line that names an error, else the last line; at most 256 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if _ERROR_LINE.search(line):
            return shortened(re.sub(r"^\(\S+ pid=\d+\) ", "", line))
    return shortened(lines[-1]) if lines else ""


def waiting_for(pods: Iterable[Json], now: datetime) -> timedelta:
    """For how long the oldest pod that does not serve has existed."""
    born = [datetime.fromisoformat(pod["metadata"]["creationTimestamp"]) for pod in pods if not is_ready(pod)]
    return max((now - time for time in born), default=timedelta())
