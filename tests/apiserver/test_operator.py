"""What the operator does to a real API server, as the account and with the rights that the chart gives it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import tools
from hack.cluster.controlplane import LOOPBACK, free_port
from hack.waiting import eventually
from tests.apiserver.operating import Operator, ProxiedPlane, audited_plane, own_plane, writes

Json = dict[str, Any]
IMAGE = "oci://models/tiny:1"  # weights that need no Job: nothing of this tier runs pods
CHILDREN = ["deployment", "networkpolicy", "poddisruptionbudget", "service"]


plane = own_plane(audited_plane)


def apply(plane: ProxiedPlane, namespace: str, name: str = "m", **spec: Any) -> None:
    wanted = {"model": {"source": IMAGE}, "replicas": 0, **spec}
    manifest = {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"team": "a"}},
        "spec": wanted,
    }
    plane.kubectl(
        "apply", "--server-side", "--field-manager=user", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest)
    )


def get(plane: ProxiedPlane, namespace: str, what: str, name: str = "m") -> Json:
    found: Json = json.loads(plane.kubectl("get", what, name, "-n", namespace, "-o", "json"))
    return found


def condition(plane: ProxiedPlane, namespace: str, kind: str, name: str = "m") -> Json:
    live = get(plane, namespace, "llmd", name)
    for entry in live.get("status", {}).get("conditions", []):
        if entry["type"] == kind and entry["observedGeneration"] == live["metadata"]["generation"]:
            return dict(entry)
    return {}


def wait_for(plane: ProxiedPlane, namespace: str, kind: str, reason: str) -> Json:
    return eventually(
        lambda: found if (found := condition(plane, namespace, kind)).get("reason") == reason else None,
        f"{kind} with reason {reason}",
    )


def names(plane: ProxiedPlane, namespace: str) -> list[str]:
    listed = plane.kubectl("get", ",".join(CHILDREN), "-n", namespace, "-o", "name")
    return sorted(line.split("/")[0].split(".")[0] for line in listed.split())


@pytest.mark.usefixtures("operator")
def test_creation_writes_the_children_and_two_more(plane: ProxiedPlane, directory: Path, namespace: str) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    eventually(lambda: any("events" in write for write in writes(directory, namespace)), "the Event")
    assert writes(directory, namespace) == [
        "patch services/m-engine",
        "patch networkpolicies/m-engine",
        "patch poddisruptionbudgets/m-engine",
        "patch deployments/m-engine",
        "patch llmdeployments/m/status",
        "create events/m",
    ]


@pytest.mark.usefixtures("operator")
def test_the_users_object_is_left_as_it_was_written(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace)
    before = get(plane, namespace, "llmd")
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    after = get(plane, namespace, "llmd")
    assert after["spec"] == before["spec"]
    for field in ("annotations", "labels", "finalizers", "generation"):
        assert after["metadata"].get(field) == before["metadata"].get(field)


@pytest.mark.usefixtures("operator")
def test_an_edited_child_is_repaired(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    plane.kubectl("scale", "deployment/m-engine", "-n", namespace, "--replicas=3")
    patch = '{"spec":{"ports":[{"name":"http","port":8000,"targetPort":9999}]}}'
    plane.kubectl("patch", "service/m-engine", "-n", namespace, "-p", patch)
    eventually(lambda: get(plane, namespace, "deployment", "m-engine")["spec"]["replicas"] == 0, "replicas 0 again")
    eventually(
        lambda: get(plane, namespace, "service", "m-engine")["spec"]["ports"][0]["targetPort"] == "http",
        "the port again",
    )


@pytest.mark.usefixtures("operator")
def test_a_deleted_child_comes_back(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    old = get(plane, namespace, "networkpolicy", "m-engine")["metadata"]["uid"]
    plane.kubectl("delete", "networkpolicy/m-engine", "-n", namespace)
    eventually(lambda: names(plane, namespace) == CHILDREN, "all children again")
    assert get(plane, namespace, "networkpolicy", "m-engine")["metadata"]["uid"] != old


@pytest.mark.usefixtures("operator")
def test_what_the_spec_stops_asking_for_goes_away(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace, model={"source": "hf://o/one"})
    first = eventually(lambda: both(plane, namespace), "a volume and a job")
    apply(plane, namespace, model={"source": "hf://o/two"})
    eventually(lambda: (found := both(plane, namespace)) and not found & first, "only new ones")


def both(plane: ProxiedPlane, namespace: str) -> set[str] | None:
    """The names of the volume and the job, when there is exactly one of each."""
    found = set(plane.kubectl("get", "job,pvc", "-n", namespace, "-o", "name").split())
    return found if len(found) == 2 else None


@pytest.mark.usefixtures("operator")
def test_a_download_that_two_deployments_share_belongs_to_both(plane: ProxiedPlane, namespace: str) -> None:
    model = {"source": "hf://o/m", "storage": {"size": "1Gi", "accessMode": "ReadWriteMany"}}

    def belong_to(*owners: str) -> bool:
        listed = json.loads(plane.kubectl("get", "jobs,pvc", "-n", namespace, "-o", "json"))["items"]
        found = [{owner["name"] for owner in each["metadata"]["ownerReferences"]} for each in listed]
        return found == [set(owners)] * 2

    apply(plane, namespace, "first", model=model)
    eventually(lambda: belong_to("first"), "Job and volume of the first")
    apply(plane, namespace, "second", model=model)
    eventually(lambda: belong_to("first", "second"), "the second to have its share")


@pytest.mark.usefixtures("operator")
def test_the_scale_subresource_sets_the_size(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    plane.kubectl("scale", "llmd/m", "-n", namespace, "--replicas=2")
    eventually(lambda: get(plane, namespace, "deployment", "m-engine")["spec"]["replicas"] == 2, "two replicas")


@pytest.mark.usefixtures("operator")
def test_a_changed_spec_is_not_called_up_to_date_before_it_is(plane: ProxiedPlane, namespace: str) -> None:
    apply(plane, namespace, replicas=1)
    old = eventually(lambda: plane.kubectl("get", "pods", "-n", namespace, "-o", "name").split(), "a pod")
    answers = json.dumps({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    plane.kubectl("patch", old[0], "-n", namespace, "--subresource=status", "-p", answers)
    wait_for(plane, namespace, "Progressing", "UpToDate")
    progressing = '{.status.conditions[?(@.type=="Progressing")]'
    line = f'{progressing}.observedGeneration}} {progressing}.reason}}{{"\\n"}}'
    watch = ["get", "llmd/m", "-n", namespace, "--watch", "-o", f"jsonpath={line}"]
    program = str(tools.program("kubernetes", "kubectl"))
    with subprocess.Popen(
        [program, "--kubeconfig", str(plane.kubeconfig), *watch], stdout=subprocess.PIPE, text=True
    ) as told:
        assert told.stdout is not None
        assert told.stdout.readline().split() == ["1", "UpToDate"]
        apply(plane, namespace, replicas=1, engine={"maxModelLen": 128})
        # Nobody makes the second pod ready, so the rollout cannot end.
        first = next(line.split() for line in told.stdout if line.startswith("2 "))
        told.kill()
    assert first == ["2", "RollingOut"]


REFUSED: list[tuple[str, Json, str, str]] = [
    (
        "a profile the cluster does not have",
        {"accelerator": {"profile": "h100"}},
        "UnknownProfile",
        "Use one of: cpu, gpu",
    ),
    (
        "several nodes without LeaderWorkerSet",
        {"accelerator": {"profile": "gpu", "count": 2}, "engine": {"pipelineParallel": 2, "tensorParallel": 2}},
        "MissingCRD",
        "LeaderWorkerSet",
    ),
]


@pytest.mark.parametrize(("spec", "reason", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_acted_on_says_why(plane: ProxiedPlane, spec: Json, reason: str, words: str) -> None:
    namespace = f"refused-{reason.lower()}"
    plane.kubectl("create", "namespace", namespace)
    apply(plane, namespace, **spec)
    found = wait_for(plane, namespace, "Accepted", reason)
    assert found["status"] == "False"
    assert words in found["message"]
    assert condition(plane, namespace, "Ready")["status"] == "False"


@pytest.mark.usefixtures("operator")
def test_an_object_of_somebody_else_is_not_taken_over(plane: ProxiedPlane, namespace: str) -> None:
    plane.kubectl("create", "service", "clusterip", "m-engine", "--tcp=80:80", "-n", namespace)
    theirs = get(plane, namespace, "service", "m-engine")["spec"]
    apply(plane, namespace)
    assert "Service" in wait_for(plane, namespace, "Accepted", "Conflict")["message"]
    assert get(plane, namespace, "service", "m-engine")["spec"] == theirs


@pytest.mark.usefixtures("operator")
def test_what_somebody_else_says_in_the_status_stays_and_is_no_reason_to_write(
    plane: ProxiedPlane, directory: Path, namespace: str
) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    eventually(lambda: any("events" in write for write in writes(directory, namespace)), "the Event")
    settled = writes(directory, namespace)
    theirs: Json = {"type": "Audited", "status": "True", "reason": "Theirs", "message": "by somebody else"}
    theirs |= {"lastTransitionTime": "2026-11-21T10:00:00Z", "observedGeneration": 1}
    live = get(plane, namespace, "llmd")
    said = {"metadata": {"name": "m", "namespace": namespace}, "status": {"conditions": [theirs]}}
    said |= {key: live[key] for key in ("apiVersion", "kind")}
    flags = ["--server-side", "--subresource=status", "--field-manager=somebody"]
    plane.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(said))
    apply(plane, namespace, name="later")  # when this one is done, the other was looked at, too
    eventually(lambda: condition(plane, namespace, "Ready", "later"), "the later one's status")
    assert [write for write in writes(directory, namespace) if "later" not in write] == settled
    assert condition(plane, namespace, "Audited") == theirs


def test_a_restart_and_a_quiet_minute_write_nothing(
    plane: ProxiedPlane, directory: Path, operator: Operator, namespace: str
) -> None:
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    eventually(lambda: any("events" in write for write in writes(directory, namespace)), "the Event")
    settled = writes(directory, namespace)
    assert operator.stop() == 0
    again = Operator(plane, directory, name="operator-1", port=free_port(LOOPBACK))
    try:
        apply(plane, namespace, name="later")  # when this one is done, the restart has looked at the other, too
        eventually(lambda: condition(plane, namespace, "Ready", "later"), "the later one's status")
        assert [write for write in writes(directory, namespace) if "later" not in write] == settled
    finally:
        assert again.stop() == 0


def test_the_children_go_with_the_object_while_no_operator_runs(
    plane: ProxiedPlane, directory: Path, namespace: str
) -> None:
    operator = Operator(plane, directory, name="operator-2", port=free_port(LOOPBACK))
    apply(plane, namespace)
    wait_for(plane, namespace, "Ready", "ScaledToZero")
    operator.stop(signal.SIGKILL)
    plane.kubectl("delete", "llmd/m", "-n", namespace, "--timeout=60s")
    eventually(lambda: names(plane, namespace) == [], "no children")


def test_a_standby_takes_over_from_a_killed_leader(plane: ProxiedPlane, directory: Path, namespace: str) -> None:
    leader = Operator(plane, directory, name="operator-3", port=free_port(LOOPBACK))
    standby = Operator(plane, directory, name="operator-4", port=free_port(LOOPBACK), standby=True)
    leader.stop(signal.SIGKILL)
    try:
        apply(plane, namespace)
        wait_for(plane, namespace, "Ready", "ScaledToZero")
    finally:
        assert standby.stop() == 0
