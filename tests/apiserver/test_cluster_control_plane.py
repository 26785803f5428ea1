"""The API server that this tier stands on is as strict as a real cluster's, and can be stopped and started."""

import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from hack.cluster.process import start_ticks, wait_until


@pytest.fixture(scope="module")
def own() -> Iterator[ControlPlane]:
    with ControlPlane() as own:
        yield own


def refusal(plane: ControlPlane, *arguments: str, user: Path | None = None) -> str:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        plane.kubectl(*arguments, user=user)
    return str(refused.value.stderr)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/readyz", 200, id="health"),
        pytest.param("/version", 401, id="the version"),
        pytest.param("/api/v1/namespaces", 401, id="objects"),
    ],
)
def test_without_a_name_there_is_only_health(own: ControlPlane, path: str, status: int) -> None:
    tls = ssl.create_default_context(cafile=str(own.authority.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", own.port, context=tls)
    with closing(connection):
        connection.request("GET", path)
        assert connection.getresponse().status == status


def test_a_user_may_do_what_rbac_grants_and_nothing_else(own: ControlPlane) -> None:
    alice = own.kubeconfig_for("alice", ["readers"])
    assert 'User "alice" cannot list resource "configmaps"' in refusal(own, "get", "configmaps", user=alice)
    own.kubectl("create", "clusterrole", "read", "--verb=list", "--resource=configmaps")
    own.kubectl("create", "clusterrolebinding", "read", "--clusterrole=read", "--group=readers")
    own.kubectl("get", "configmaps", user=alice)
    assert "cannot create" in refusal(own, "create", "configmap", "new", user=alice)


def test_a_restarted_api_server_has_its_address_and_data(own: ControlPlane) -> None:
    own.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    own.stop_apiserver()
    assert "refused" in refusal(own, "get", "configmap", "kept")
    own.start_apiserver()
    assert own.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data}") == '{"a":"b"}'


def test_two_control_planes_know_nothing_of_each_other(own: ControlPlane, plane: ControlPlane) -> None:
    own.kubectl("create", "namespace", "only-here")
    assert '"only-here" not found' in refusal(plane, "get", "namespace", "only-here")


def test_pods_may_not_break_the_level_their_namespace_enforces(own: ControlPlane) -> None:
    own.kubectl("create", "namespace", "strict")
    own.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    message = refusal(own, "run", "root", "--image=anything", "--namespace=strict")
    assert 'violates PodSecurity "restricted:latest"' in message


def test_what_an_object_owns_goes_with_it(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "owner")
    uid = plane.kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "owned", "ownerReferences": [reference]}}
    plane.kubectl("create", "-f", "-", stdin=json.dumps(owned))
    plane.kubectl("delete", "configmap", "owner")
    plane.kubectl("wait", "--for=delete", "secret/owned", "--timeout=60s")


def test_a_killed_test_run_leaves_nothing_running(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from hack.cluster.controlplane import ControlPlane\n"
        "with ControlPlane(Path(sys.argv[1])) as plane:\n"
        "    print(*(process.pid for process in plane.processes.values()), flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 2, run.stderr
    wait_until(lambda: not any(start_ticks(pid) for pid in pids), "etcd and the API server to follow", seconds=60)
