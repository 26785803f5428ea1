"""What keeps a pod from serving, in the words of the closed set of reasons."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.judge import pods

Json = dict[str, Any]


def pod(*, container: Json | None = None, conditions: list[Json] | None = None, phase: str = "Running") -> Json:
    status: Json = {"phase": phase, "conditions": conditions or []}
    if container is not None:
        status["containerStatuses"] = [{"name": "engine", "image": "engine:1", "ready": False, **container}]
    return {"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status}


def unscheduled(message: str) -> Json:
    entry = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(conditions=[entry], phase="Pending")


def waiting(reason: str, message: str = "") -> Json:
    return pod(container={"state": {"waiting": {"reason": reason, "message": message}}}, phase="Pending")


def running(ready_changed: str) -> Json:
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": ready_changed}
    state = {"running": {"startedAt": "2026-01-01T00:01:00Z"}}
    return pod(container={"state": state, "started": True}, conditions=[ready])


def exited(message: str, code: int = 1, reason: str = "Error") -> Json:
    ended = {"exitCode": code, "reason": reason, "message": message}
    state = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": ended},
        "restartCount": 3,
    }
    return pod(container=state)


CASES: list[tuple[str, Json, str | None, str]] = [
    (
        "no gpu free",
        unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
        "WaitingForGPU",
        "nvidia.com/gpu",
    ),
    ("too little memory", unscheduled("0/1 nodes are available: 1 Insufficient memory."), "Unschedulable", "memory"),
    (
        "a taint",
        unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}."),
        "Unschedulable",
        "taint",
    ),
    ("no volume", unscheduled('persistentvolumeclaim "w" not found'), "VolumePending", "w"),
    ("no image", waiting("ErrImagePull", "not found"), "ImagePullFailed", "engine:1"),
    ("still no image", waiting("ImagePullBackOff", "back-off"), "ImagePullFailed", "engine:1"),
    ("no secret", waiting("CreateContainerConfigError", 'secret "hf" not found'), "SecretNotFound", "hf"),
    ("being created", pod(phase="Pending"), "Starting", ""),
    ("loading", pod(container={"state": {"running": {}}, "started": False}), "LoadingWeights", ""),
    ("just started", running(ready_changed="2026-01-01T00:00:00Z"), "LoadingWeights", ""),
    ("was ready and is not", running(ready_changed="2026-01-01T00:05:00Z"), "PodNotReady", ""),
    ("killed by the kernel", exited("", 137, "OOMKilled"), "OutOfMemory", "limits.memory"),
    ("no memory on the gpu", exited("torch.OutOfMemoryError: CUDA out of memory. Tried"), "OutOfMemory", "maxModelLen"),
    (
        "no room for the cache",
        exited("ValueError: No available memory for the cache blocks."),
        "OutOfMemory",
        "maxModelLen",
    ),
    (
        "unknown argument",
        exited("api_server.py: error: unrecognized arguments: --nope", 2),
        "EngineArgsInvalid",
        "--nope",
    ),
    ("wrong value", exited("ValueError: Cannot find quantization foo"), "EngineArgsInvalid", "quantization foo"),
    ("anything else", exited("Traceback\nRuntimeError: boom: x\nbye"), "CrashLooping", "RuntimeError: boom"),
    ("no words at all", exited("", 7), "CrashLooping", "exit code 7"),
    ("stopped by its probe", exited("", 137), "CrashLooping", "health check did not succeed in time"),
    ("a secret in its words", exited("RuntimeError: bad token hf_abcdefghijklmnop"), "CrashLooping", "***"),
]


@pytest.mark.parametrize(("seen", "reason", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_trouble(seen: Json, reason: str | None, words: str) -> None:
    found = pods.trouble([seen])
    assert found is not None
    assert found.reason == reason
    assert words in found.message
    assert "hf_abcdefghijklmnop" not in found.message


def test_a_pod_on_its_way_out_is_no_trouble() -> None:
    leaving = waiting("ErrImagePull")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pods.trouble([leaving]) is None


def test_the_trouble_a_reader_can_mend_comes_first() -> None:
    found = pods.trouble(
        [pod(phase="Pending"), exited("error: unrecognized arguments: --x", 2), unscheduled("0/1 nodes")]
    )
    assert found is not None
    assert found.reason == "EngineArgsInvalid"


def test_an_error_line_is_at_most_256_characters() -> None:
    assert len(pods.last_error("ValueError: " + "x" * 5000)) == 256


def test_a_ready_pod_without_a_time_is_ready_since_its_creation() -> None:
    found = pod(conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": None}])
    assert str(pods.ready_since([found])) == "2026-01-01 00:00:00+00:00"
