"""The operator as a process of its own, with exactly the rights the chart gives it, against a real API server.

Between the two is the fault proxy, whose standing assertions therefore hold for every request of this tier.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from hack.cluster import tools
from hack.cluster.controlplane import ControlPlane
from hack.images import venv
from hack.waiting import eventually
from tests.faultproxy.proxy import FaultProxy

ROOT = Path(__file__).parents[2]
SYSTEM = "llmops-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:llmops-operator"
OURS = {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{SYSTEM}"], "omitStages": ["RequestReceived"]}
AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [OURS, {"level": "None"}]}
Json = dict[str, Any]
T = TypeVar("T")


def groups(account: str) -> list[str]:
    """The groups of a service account."""
    namespace = account.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


class ProxiedPlane(ControlPlane):
    """A control plane that operators reach through a fault proxy."""

    proxy: FaultProxy


@contextmanager
def audited_plane(directory: Path, controller_args: Sequence[str] = ()) -> Iterator[ProxiedPlane]:
    """A control plane with the CRDs, the chart's rights, and a log of every request the operator makes.

    At its end, the standing assertions must have held for all of them.
    """
    policy, log = directory / "policy.yaml", directory / "audit.log"
    policy.write_text(json.dumps(AUDIT))
    arguments = [f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-mode=blocking"]
    with ProxiedPlane(apiserver_args=arguments, controller_args=controller_args) as plane:
        plane.kubectl("create", "namespace", SYSTEM)
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=chart())
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        plane.start_controllers()  # after the CRDs: the garbage collector looks for new kinds every 30 s only
        with FaultProxy(plane.kubeconfig_for(ACCOUNT, groups(ACCOUNT))) as plane.proxy:
            yield plane
            assert not plane.proxy.standing.violations, "\n".join(plane.proxy.standing.violations)


P = TypeVar("P", bound=ControlPlane)


def own_plane(opened: Callable[[Path], AbstractContextManager[P]]) -> Callable[[Path], Iterator[P]]:
    """A fixture named `plane` for a module of its own: `plane = own_plane(audited_plane)`."""

    @pytest.fixture(scope="module")
    def plane(directory: Path) -> Iterator[P]:
        with opened(directory) as plane:
            yield plane

    return plane


@functools.cache
def rendered_chart(*settings: str, release: str = "llmops", namespace: str = SYSTEM) -> tuple[Json, ...]:
    """Every object of the chart, with these flags of helm."""
    helm = [str(tools.program("helm", "helm")), "template", release, str(ROOT / "helm" / "llmops")]
    command = [*helm, "-n", namespace, *settings]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(document for document in yaml.safe_load_all(rendered) if document)


RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")
SHARED = ("CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def chart(
    *settings: str, release: str = "llmops", namespace: str = SYSTEM, kept: Sequence[str] = (*RIGHTS, *SHARED)
) -> str:
    """CRDs, rights and policies of the chart, without its pods."""
    found = rendered_chart(*settings, release=release, namespace=namespace)
    return yaml.safe_dump_all(document for document in found if document["kind"] in kept)


def configuration(**changes: Any) -> Json:
    """A small configuration: no image of it ever runs in this tier."""
    profiles = {
        "cpu": {"image": "engine:1", "resources": {"requests": {"cpu": "500m", "memory": "1024Mi"}}},
        "gpu": {"image": "engine:1", "resource": "nvidia.com/gpu"},
        "small": {"image": "engine:1", "resources": {"limits": {"memory": "2Gi"}}},
    }
    gateway = {"namespace": SYSTEM, "service": "llmops-gateway"}
    return {"images": {"jobs": "jobs:1", "trainer": "trainer:1"}, "gateway": gateway, "profiles": profiles, **changes}


def started(
    proxy: FaultProxy,
    directory: Path,
    *,
    name: str,
    port: int,
    home: str = SYSTEM,
    kubeconfig: Path | None = None,
    clock: str = "",
    **config: Any,
) -> subprocess.Popen[bytes]:
    """An operator process with its Lease in the namespace `home`; its log is `NAME.log`.

    It goes through the proxy, unless a kubeconfig of its own is given. With `clock`, such as `+1h`, its wall clock is
    as wrong as that; monotonic clocks, which know no date, are not.
    """
    settings = directory / f"{name}.config"
    settings.write_text(json.dumps(configuration(**config)))
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig or proxy.kubeconfig(directory / f"{name}.kubeconfig", name)),
        "LLMOPS_CONFIG": str(settings),
        "LLMOPS_NAMESPACE": home,
        "LLMOPS_HEALTH_PORT": str(port),
        "POD_NAME": name,
        "PYTHONPATH": str(ROOT / "operator"),
    }
    if clock:
        [library] = tools.unpacked("libfaketime").glob("usr/lib/*/faketime/libfaketime.so.1")
        environment |= {"LD_PRELOAD": str(library), "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with (directory / f"{name}.log").open("ab") as log:
        # With the packages of its image: kopf imports whatever client it finds, which takes as long as all the rest.
        command = [str(venv.ensure("operator") / "bin" / "python"), "-m", "llmops"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    proxy.pids[name] = process.pid
    return process


class Operator:
    """One operator process: the leader, unless another is and this one stands by."""

    def __init__(
        self,
        plane: ProxiedPlane,
        directory: Path,
        *,
        name: str = "operator-0",
        port: int,
        standby: bool = False,
        account: str | None = None,
        settings: Json | None = None,
    ) -> None:
        """`account` is another than the chart's, past the proxy; `settings` are changes of the configuration."""
        self.log, self.port = directory / f"{name}.log", port
        kubeconfig = plane.kubeconfig_for(account, groups(account)) if account else None
        settings = {"kubeconfig": kubeconfig, **(settings or {})}
        self.process = started(plane.proxy, directory, name=name, port=port, **settings)
        if standby:
            return
        try:
            eventually(lambda: b"leading" in self.log.read_bytes(), f"{name} to lead; see {self.log}")
        except TimeoutError:
            self.process.kill()  # nobody else knows of it
            raise

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()  # it is a failure, and nothing may be left of it
            raise


def writes(directory: Path, namespace: str) -> list[str]:
    """Every write of the operator in a namespace so far: `verb resource/name[/subresource]`, in order."""
    found = []
    for line in (directory / "audit.log").read_text().splitlines():
        event = json.loads(line)
        where = event.get("objectRef", {})
        if event["verb"] in ("get", "list", "watch") or where.get("namespace") != namespace:
            continue
        name = where.get("name", "")
        if where["resource"] == "events":
            name = name.rpartition("-")[0]  # without the digest of what it says
        path = "/".join(filter(None, (where["resource"], name, where.get("subresource"))))
        found.append(f"{event['verb']} {path}")
    return found
