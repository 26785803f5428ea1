"""FineTuneJobs on a real API server, with exactly the rights the chart gives: children, refusals, suspension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hack.waiting import eventually
from tests.apiserver.operating import ProxiedPlane, audited_plane, own_plane, writes

Json = dict[str, Any]


plane = own_plane(audited_plane)
pytestmark = pytest.mark.usefixtures("operator")


def apply(plane: ProxiedPlane, namespace: str, **spec: Any) -> None:
    wanted = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "s3://bucket/t.jsonl"}, **spec}
    meta = {"name": "tickets", "namespace": namespace}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": wanted}
    plane.kubectl("apply", "--server-side", "--field-manager=user", "-f", "-", stdin=json.dumps(manifest))


def condition(plane: ProxiedPlane, namespace: str, kind: str) -> Json:
    live = json.loads(plane.kubectl("get", "ftj", "tickets", "-n", namespace, "-o", "json"))
    for entry in live.get("status", {}).get("conditions", []):
        if entry["type"] == kind and entry["observedGeneration"] == live["metadata"]["generation"]:
            return dict(entry)
    return {}


def get(plane: ProxiedPlane, namespace: str, what: str, *more: str) -> Json:
    found: Json = json.loads(plane.kubectl("get", what, "-n", namespace, "-o", "json", *more))
    return found


def wait_for(plane: ProxiedPlane, namespace: str, kind: str, reason: str) -> Json:
    return eventually(
        lambda: found if (found := condition(plane, namespace, kind)).get("reason") == reason else None,
        f"{kind} with reason {reason}",
    )


def children(plane: ProxiedPlane, namespace: str) -> list[str]:
    return sorted(plane.kubectl("get", "jobs,pvc,networkpolicies", "-n", namespace, "-o", "name").split())


DIGEST = "sha256:" + "1f" * 32
VOLUME = ["networkpolicy.networking.k8s.io/tickets-training", "persistentvolumeclaim/tickets-finetune"]
CHECKING = ["job.batch/tickets-dataset", *VOLUME]
TRAINING = ["job.batch/tickets-dataset", "job.batch/tickets-training", *VOLUME]


def finish(plane: ProxiedPlane, namespace: str, component: str = "dataset", **facts: Any) -> None:
    """What a kubelet writes when a pod was content; the Job controller, which runs here, does the rest."""
    labels = ["-n", namespace, "-l", f"app.kubernetes.io/component={component}", "-o", "name"]
    pod = eventually(lambda: plane.kubectl("get", "pods", *labels).split(), f"a pod of {component}")[0]
    ended = {
        "exitCode": 0,
        "message": json.dumps({"outcome": "DatasetValid", "message": "300 rows.", **facts}),
        "startedAt": "2026-11-21T10:00:00Z",
        "finishedAt": "2026-11-21T10:01:00Z",
    }
    container = {"name": component, "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    status = {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}
    patch = json.dumps({"status": status})
    plane.kubectl("patch", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_data_is_checked_before_anything_is_trained(plane: ProxiedPlane, directory: Path, namespace: str) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Running", "Validating")
    assert children(plane, namespace) == CHECKING
    assert writes(directory, namespace)[:4] == [
        "patch persistentvolumeclaims/tickets-finetune",
        "patch networkpolicies/tickets-training",
        "patch jobs/tickets-dataset",
        "patch finetunejobs/tickets/status",
    ]


def test_good_data_is_trained_on(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace)
    eventually(lambda: children(plane, namespace) == CHECKING, "the checking Job")
    finish(plane, namespace)
    eventually(lambda: children(plane, namespace) == TRAINING, "the training Job")
    valid = wait_for(plane, namespace, "DatasetValid", "DatasetValid")
    assert (valid["status"], valid["message"]) == ("True", "300 rows.")


def test_a_suspended_job_keeps_its_volume_and_goes_on_where_it_was(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace)
    eventually(lambda: children(plane, namespace) == CHECKING, "the checking Job")
    finish(plane, namespace)
    eventually(lambda: children(plane, namespace) == TRAINING, "the training Job")
    plane.kubectl("patch", "ftj/tickets", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    wait_for(plane, namespace, "Running", "Suspended")
    eventually(lambda: children(plane, namespace) == VOLUME, "no Job")
    plane.kubectl("patch", "ftj/tickets", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    eventually(
        lambda: children(plane, namespace) == ["job.batch/tickets-training", *VOLUME], "training without a second check"
    )


SIZE = {"parameters": 8_030_261_248, "hidden_size": 4096, "layers": 32, "vocabulary_size": 128_256}


def test_a_run_that_cannot_fit_is_refused_before_a_training_pod(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace, accelerator={"profile": "small"})
    eventually(lambda: children(plane, namespace) == CHECKING, "the checking Job")
    finish(plane, namespace, model=SIZE)
    accepted = wait_for(plane, namespace, "Accepted", "InsufficientMemory")
    assert "profile 'small' has 2.0 GiB" in accepted["message"]
    assert condition(plane, namespace, "DatasetValid")["status"] == "True"
    assert children(plane, namespace) == CHECKING
    plane.kubectl("annotate", "ftj/tickets", "-n", namespace, "llmops.dev/skip-fit-check=true")
    eventually(lambda: children(plane, namespace) == TRAINING, "the training Job")
    assert condition(plane, namespace, "Accepted")["status"] == "True"


def test_a_run_ends_with_its_budget(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace, budget={"gpuHours": "1"})
    finish(plane, namespace)
    pod = eventually(lambda: pods_of(plane, namespace, "training"), "the training pod")[0]["metadata"]["name"]
    patch = json.dumps({"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}})
    plane.kubectl("patch", f"pod/{pod}", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    failed = wait_for(plane, namespace, "Failed", "BudgetExceeded")
    assert (failed["status"], "spec.budget.gpuHours is 1." in failed["message"]) == ("True", True)
    eventually(lambda: children(plane, namespace) == CHECKING, "no training Job")
    status = get(plane, namespace, "ftj/tickets")["status"]
    assert status["usage"]["acceleratorSeconds"] > 3600


def test_after_its_time_a_finished_job_keeps_its_volume_only(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace, ttlSecondsAfterFinished=0)
    finish(plane, namespace)
    finish(plane, namespace, "training", outcome="Completed", uri="artifact/1f0c", digest=DIGEST)
    wait_for(plane, namespace, "Complete", "Completed")
    eventually(lambda: children(plane, namespace) == VOLUME, "no Job")
    assert get(plane, namespace, "ftj/tickets")["status"]["artifact"]["digest"] == DIGEST


def test_pods_that_train_together_have_names_of_their_own(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace, nodes=2, storage={"accessMode": "ReadWriteMany"})
    finish(plane, namespace)
    pods = eventually(
        lambda: found if len(found := pods_of(plane, namespace, "training")) == 2 else None, "two training pods"
    )
    assert {pod["spec"]["hostname"] for pod in pods} == {"tickets-training-0", "tickets-training-1"}
    assert {pod["spec"]["subdomain"] for pod in pods} == {"tickets-training"}
    assert get(plane, namespace, "service/tickets-training")["spec"]["publishNotReadyAddresses"]
    command = pods[0]["spec"]["containers"][0]["command"]
    assert "--master-addr=tickets-training-0.tickets-training" in command


def pods_of(plane: ProxiedPlane, namespace: str, component: str) -> list[Json]:
    found: list[Json] = get(plane, namespace, "pods", "-l", f"app.kubernetes.io/component={component}")["items"]
    return found


REFUSED: list[tuple[str, Json, str, str]] = [
    ("a-profile-nobody-has", {"accelerator": {"profile": "h100"}}, "UnknownProfile", "Use one of: cpu, gpu"),
    ("a-profile-nothing-trains-on", {"accelerator": {"profile": "gpu"}}, "UnknownProfile", "profiles.gpu.trainerImage"),
    ("no-such-deployment", {"baseModel": {"deployment": "nobody"}}, "InvalidSpec", "does not exist in this namespace"),
]


@pytest.mark.parametrize(("name", "spec", "reason", "words"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_is_said(plane: ProxiedPlane, name: str, spec: Json, reason: str, words: str) -> None:
    plane.kubectl("create", "namespace", name)
    apply(plane, name, **spec)
    accepted = wait_for(plane, name, "Accepted", reason)
    assert accepted["status"] == "False"
    assert words in accepted["message"]
    assert children(plane, name) == []


def deployment(plane: ProxiedPlane, namespace: str, replicas: int) -> None:
    wanted = {
        "model": {"source": "oci://models/tiny:1"},
        "replicas": replicas,
        "adapters": [{"name": "polite", "source": "finetune://tickets"}],
    }
    meta = {"name": "support", "namespace": namespace}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": wanted}
    plane.kubectl("apply", "--server-side", "--field-manager=user", "-f", "-", stdin=json.dumps(manifest))


def told(plane: ProxiedPlane, namespace: str) -> tuple[str, Json]:
    """The reason of AdaptersReady and the first entry of status.adapters."""
    status = get(plane, namespace, "llmd/support").get("status", {})
    reasons = {entry["type"]: entry["reason"] for entry in status.get("conditions", [])}
    return reasons.get("AdaptersReady", ""), (status.get("adapters") or [{}])[0]


def test_an_adapter_that_is_not_trained_yet_is_told_and_the_model_is_served(
    plane: ProxiedPlane, namespace: str
) -> None:
    deployment(plane, namespace, 0)
    message = "FineTuneJob tickets does not exist in this namespace."
    missing = {"name": "polite", "readyReplicas": 0, "message": message}
    eventually(lambda: told(plane, namespace) == ("AdapterNotFound", missing), "the word of the missing job")
    plane.kubectl("get", "deployment/support-engine", "-n", namespace)


def trained(plane: ProxiedPlane, namespace: str, **spec: Any) -> None:
    """A FineTuneJob that has come to its end."""
    apply(plane, namespace, baseModel={"source": "oci://models/tiny:1"}, suspend=True, **spec)
    wait_for(plane, namespace, "Running", "Suspended")  # then nobody else writes its status
    complete = {"type": "Complete", "status": "True", "reason": "Completed", "message": "", "observedGeneration": 1}
    complete["lastTransitionTime"] = "2026-11-21T10:00:00Z"
    artifact = {"uri": "pvc://tickets-finetune/artifact/1f1f", "digest": DIGEST}
    patch = json.dumps({"status": {"conditions": [complete], "artifact": artifact}})
    arguments = ["ftj/tickets", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch]
    plane.kubectl("patch", *arguments)


def engine_runs(plane: ProxiedPlane, namespace: str, start: int) -> str:
    """What scheduler and kubelet write of an engine that answers, at its `start`-th start; the pod's name."""
    labels = "app.kubernetes.io/component=engine"
    pod = eventually(lambda: get(plane, namespace, "pods", "-l", labels)["items"], "the engine's pod")[0]
    name = str(pod["metadata"]["name"])
    if not pod["spec"].get("nodeName"):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(node))
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        plane.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))
    running = {"running": {"startedAt": "2026-11-21T10:00:00Z"}}
    container = {"name": "engine", "image": "i", "imageID": "i", "ready": True, "restartCount": start - 1}
    container |= {"state": running, "containerID": f"containerd://{start}", "started": True}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T10:01:00Z"}
    status = {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}]}
    status |= {"conditions": [ready], "containerStatuses": [container]}
    patch = json.dumps({"status": status})
    plane.kubectl("patch", f"pod/{name}", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    return name


def loaded(plane: ProxiedPlane, namespace: str, failed: Json) -> Json:
    """The Job that loads adapters, when its pod has ended with these failures."""
    labels = ["-l", "app.kubernetes.io/component=adapters"]
    job: Json = eventually(lambda: get(plane, namespace, "jobs", *labels)["items"], "the Job that loads")[0]
    its = ["-l", f"batch.kubernetes.io/job-name={job['metadata']['name']}"]
    pod = eventually(lambda: get(plane, namespace, "pods", *its)["items"], "its pod")[0]["metadata"]["name"]
    outcome = json.dumps({"outcome": "AdaptersLoaded", "message": "", "failed": failed})
    times = {"startedAt": "2026-11-21T10:01:00Z", "finishedAt": "2026-11-21T10:02:00Z"}
    container = {"name": "adapters", "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    container["state"] = {"terminated": {"exitCode": 0, "message": outcome, **times}}
    patch = json.dumps({"status": {"phase": "Succeeded", "containerStatuses": [container]}})
    plane.kubectl("patch", f"pod/{pod}", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    return job


def test_a_pod_is_announced_for_an_adapter_only_while_its_engine_has_proven_it(
    plane: ProxiedPlane, namespace: str
) -> None:
    trained(plane, namespace)
    deployment(plane, namespace, 1)
    name = engine_runs(plane, namespace, 1)

    def announced() -> str | None:
        annotations = get(plane, namespace, f"pod/{name}")["metadata"].get("annotations", {})
        found: str | None = annotations.get("llmops.dev/adapters")
        return found

    assert announced() is None
    loaded(plane, namespace, {})
    eventually(lambda: announced() == "polite", "the announcement")
    proven = {"name": "polite", "source": "finetune://tickets", "digest": DIGEST, "readyReplicas": 1}
    eventually(lambda: told(plane, namespace) == ("AdaptersLoaded", proven), "the condition")
    eventually(lambda: get(plane, namespace, "jobs")["items"] == [], "no Job that has nothing to do left")

    engine_runs(plane, namespace, 2)  # the engine starts again, and knows of no adapter
    eventually(lambda: announced() == "", "no announcement")
    flaw = {"reason": "AdapterNoEffect", "message": "0.0000 nats per token apart."}
    loaded(plane, namespace, {"polite": flaw})
    failed = proven | {"readyReplicas": 0, "message": flaw["message"]}
    eventually(lambda: told(plane, namespace) == ("AdapterNoEffect", failed), "the condition")
    assert announced() == ""
    assert get(plane, namespace, "deployment/support-engine")["metadata"]["generation"] == 1


def test_a_model_of_our_own_making_is_copied_when_it_is_complete(plane: ProxiedPlane, namespace: str) -> None:
    wanted = {"model": {"source": "finetune://tickets"}, "replicas": 1}
    meta = {"name": "support", "namespace": namespace}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": wanted}
    plane.kubectl("apply", "--server-side", "--field-manager=user", "-f", "-", stdin=json.dumps(manifest))

    def weights() -> str:
        conditions = get(plane, namespace, "llmd/support").get("status", {}).get("conditions", [])
        return next((entry["reason"] for entry in conditions if entry["type"] == "WeightsReady"), "")

    eventually(lambda: weights() == "ModelNotFound", "the word of the missing job")
    trained(plane, namespace, method="Full")
    labels = ["-l", "app.kubernetes.io/component=weights"]
    job = eventually(lambda: get(plane, namespace, "jobs", *labels)["items"], "the Job that copies")[0]
    assert f"--promised={DIGEST}" in job["spec"]["template"]["spec"]["containers"][0]["args"]
    finish(plane, namespace, "weights", outcome="Complete", revision=DIGEST, digest="sha256:7d", bytes=7)
    eventually(lambda: weights() == "Verified", "the copy")
    plane.kubectl("delete", "ftj/tickets", "-n", namespace)
    name = f"deployment/{get(plane, namespace, 'llmd/support')['metadata']['name']}-engine"
    plane.kubectl("patch", "llmd/support", "-n", namespace, "--type=merge", "-p", '{"spec":{"replicas":2}}')
    eventually(lambda: get(plane, namespace, name)["spec"]["replicas"] == 2, "another look")
    assert weights() == "Verified"
    assert get(plane, namespace, "jobs", *labels)["items"][0]["metadata"]["uid"] == job["metadata"]["uid"]
