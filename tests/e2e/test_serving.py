"""The promises of the README, on a real node with real vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.cluster import tools
from hack.demo.__main__ import chat
from hack.demo.install import RELEASE, SYSTEM, Platform, run
from hack.waiting import eventually
from tests.e2e.conftest import MODEL, Space, ask

pytestmark = pytest.mark.timeout(1800)


def test_an_applied_model_answers_also_the_charts_test_and_its_deletion_leaves_nothing(
    space: Space, platform: Platform, gateway: str
) -> None:
    space.apply("support")
    ready = space.wait("support", "Serving")
    assert ready["status"] == "True"

    assert chat(gateway, "support", "What is a function?") > 4  # streamed, piece by piece
    answer = ask(gateway, f"{space.name}/support")
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["usage"]["completion_tokens"] >= 1

    arguments = ("test", RELEASE, "-n", SYSTEM, "--logs", "--timeout", "120s")
    said = run(tools.program("helm", "helm"), *arguments, kubeconfig=platform.provider.kubeconfig)
    assert "Succeeded" in said

    status = space.get("llmd", "support")["status"]
    assert len(status["model"]["revision"]) == 40  # a commit, not a branch
    assert status["model"]["digest"].startswith("sha256:")

    space.kubectl("delete", "llmd/support", "--timeout=180s")
    kinds = "deployments,services,networkpolicies,poddisruptionbudgets,jobs,pvc"
    eventually(lambda: "support" not in space.kubectl("get", kinds, "-o", "name") or None, "no child")


def test_a_sleeping_model_holds_the_request_wakes_and_answers(space: Space, gateway: str) -> None:
    target = {"requestsPerSecond": 4}
    auto = {"minReplicas": 0, "maxReplicas": 1, "target": target, "scaleToZeroAfterSeconds": 5}
    space.apply("sleeper", autoscaling={**auto, "scaleDownStabilizationSeconds": 1})
    space.wait("sleeper", "Serving")
    space.wait("sleeper", "ScaledToZero")
    eventually(lambda: not space.pods("sleeper"), "no pod")
    answer = ask(gateway, "sleeper")
    assert answer["status"] == 200, answer
    assert answer["usage"]["completion_tokens"] >= 1


def test_an_engine_that_still_starts_goes_as_soon_as_it_is_told_to(space: Space) -> None:
    """A slip is put right at once: nobody waits for what it had begun, least of all for a pod's grace period."""
    space.apply("hasty")
    engines = {"labelSelector": "app.kubernetes.io/component=engine"}

    def starting() -> bool:
        states = [pod["status"].get("containerStatuses", []) for pod in space.get("pod", **engines)["items"]]
        return any("running" in container["state"] for state in states for container in state)

    eventually(starting, "an engine that starts")
    space.kubectl("scale", "llmd/hasty", "--replicas=0")
    eventually(lambda: not space.get("pod", **engines)["items"], "no engine", 90)


def test_a_model_in_an_image_is_mounted_and_answers(space: Space, platform: Platform, gateway: str) -> None:
    packed = {"source": f"oci://{platform.images['demo-model']}"}
    space.apply("packed", model=packed, accelerator={"profile": "chart"})
    space.wait("packed", "Serving")
    assert ask(gateway, "packed")["status"] == 200
    assert not space.kubectl("get", "jobs,pvc", "-o", "name")  # nothing was downloaded, nothing is stored twice


@pytest.mark.long
def test_two_deployments_of_one_model_share_a_volume_that_can_be_shared(space: Space, gateway: str) -> None:
    storage = {"size": "1Gi", "accessMode": "ReadWriteMany"}
    space.apply("first", model={"source": MODEL, "storage": storage}, replicas=0)
    space.apply("second", model={"source": MODEL, "storage": storage})
    space.wait("first", "Verified", "WeightsReady")
    space.wait("second", "Serving")
    assert len(space.kubectl("get", "jobs", "-o", "name").split()) == 1  # downloaded once
    (volume,) = space.kubectl("get", "pvc", "-o", "name").split()

    space.kubectl("delete", "llmd/first", "--timeout=180s")
    assert ask(gateway, "second")["status"] == 200
    assert space.kubectl("get", "pvc", "-o", "name").split() == [volume]
    space.kubectl("delete", "llmd/second", "--timeout=180s")
    eventually(lambda: not space.kubectl("get", "pvc", "-o", "name"), "the volume goes with the last of them")


def model(source: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "storage": {"size": "1Gi"}, **more}


TROUBLES: list[tuple[str, dict[str, Any], str, str]] = [
    ("an unknown model", {"model": model("hf://llmops/no-such")}, "ModelNotFound", "no-such"),
    (
        "a secret that is not there",
        {"model": model("hf://llmops/tiny-llama", secretRef={"name": "no"})},
        "SecretNotFound",
        "no",
    ),
    (
        "an image that does not exist",
        {"engine": {"image": "localhost/no-such:1"}},
        "ImagePullFailed",
        "localhost/no-such:1",
    ),
    ("a wrong engine argument", {"engine": {"args": {"no-such-flag": "1"}}}, "EngineArgsInvalid", "no-such-flag"),
]


@pytest.mark.parametrize(
    ("spec", "reason", "words"), [case[1:] for case in TROUBLES], ids=[case[0] for case in TROUBLES]
)
def test_trouble_says_what_to_do(space: Space, spec: dict[str, Any], reason: str, words: str) -> None:
    space.apply("sick", **spec)
    found = space.wait("sick", reason)
    assert found["status"] == "False"
    assert words in found["message"]


def test_a_quota_is_named(space: Space) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"requests.memory": "1Gi"}},
    }
    space.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    space.apply("greedy")
    assert "small" in space.wait("greedy", "QuotaExceeded")["message"]
