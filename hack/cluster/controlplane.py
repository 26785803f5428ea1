"""etcd and kube-apiserver (and, asked for, the controllers and the scheduler) as child processes.

A test takes one as a context manager and has a real API server of its own in a few seconds::

    with ControlPlane() as plane:
        plane.kubectl("apply", "--server-side", "-f", "crds/")
"""

import http.client
import json
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hack.cluster import kubeconfig, tools
from hack.cluster.certificates import Authority
from hack.cluster.process import Process, spawn, wait_until

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
LOOPBACK = "127.0.0.1"
START_SECONDS = 60.0

# Everybody may ask whether the server lives, and nothing else without a name.
_AUTHENTICATION = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AuthenticationConfiguration",
    "anonymous": {"enabled": True, "conditions": [{"path": path} for path in ("/livez", "/readyz", "/healthz")]},
}


class ControlPlane:
    """A control plane in one directory; it ends, with exactly the processes it started, when the block is left.

    Its processes die with the thread that started them, so that a killed test run leaves none behind.

    Attributes:
        directory: Certificates, etcd's data and the logs.
        url: Where the API server listens.
        kubeconfig: For a member of system:masters.
        authority: Signs certificates that the API server believes.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        controllers: bool = False,
        scheduler: bool = False,
        address: str = LOOPBACK,
        port: int | None = None,
        apiserver_args: Sequence[str] = (),
        controller_args: Sequence[str] = (),
        client_qps: int | None = None,
    ) -> None:
        """Say what is wanted; nothing starts yet.

        Args:
            directory: Where it lives; kept afterwards. A temporary one, removed afterwards, when None.
            controllers: Run kube-controller-manager: garbage collection, default service accounts, namespaces that
                can be deleted, Deployments, Jobs. Without it pods need no service account.
            scheduler: Run kube-scheduler.
            address: What the API server binds to.
            port: A free one is taken when None; it stays the same over stop and start.
            apiserver_args: More flags, after ours, so that they win.
            controller_args: The same for kube-controller-manager.
            client_qps: Requests per second that the controllers and the scheduler may make (20 and 50 by default).
        """
        self._temporary = directory is None
        self.directory = (directory or Path(tempfile.mkdtemp(prefix="llmops-controlplane-"))).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._with_controllers, self._with_scheduler = controllers, scheduler
        self._address = address
        self.port = port or free_port(address)
        self._apiserver_args, self._controller_args = tuple(apiserver_args), tuple(controller_args)
        self._client_qps = client_qps
        self._etcd_port = free_port(LOOPBACK)
        self.processes: dict[str, Process] = {}
        self._commands: dict[str, Sequence[str | Path]] = {}
        self.url = f"https://{address}:{self.port}"
        self.kubeconfig = self.directory / "kubeconfig"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything asked for and return when it serves.

        Raises:
            ProcessEndedError: One of the programs ended; the message holds the end of its log.
            TimeoutError: It did not become ready within a minute.
        """
        self._issue_certificates()
        self._start_etcd()
        self.start_apiserver()
        if self._with_controllers:
            self.start_controllers()
        if self._with_scheduler:
            self._start_client("kube-scheduler")

    def stop(self) -> None:
        """Kill what was started, newest first; a temporary directory goes with it."""
        for name in reversed(list(self.processes)):
            self.processes.pop(name).stop(grace_seconds=0)
        if self._temporary:
            shutil.rmtree(self.directory)

    def start_apiserver(self) -> None:
        """Start the API server, also again, at the same address and with the data that etcd kept."""
        apiserver = self._spawn("kube-apiserver", self._apiserver_command())
        wait_until(self._serves, "the API server to be ready", seconds=START_SECONDS, of=[apiserver])

    def stop_apiserver(self, *, grace_seconds: float = 2.0) -> None:
        """End the API server and nothing else; without grace it is killed."""
        self.processes.pop("kube-apiserver").stop(grace_seconds=grace_seconds)

    def start_controllers(self) -> None:
        """Start kube-controller-manager and return when it works.

        Its garbage collector looks for new kinds every 30 s: start it after the CRDs exist to have them collected
        from the beginning.
        """
        controllers = self._start_client(
            "kube-controller-manager",
            f"--root-ca-file={self.authority.certificate}",
            f"--service-account-private-key-file={self._token_keys.key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            *self._controller_args,
        )
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_until(
            lambda: self._get(path) == 200, "the default service account", seconds=START_SECONDS, of=[controllers]
        )

    def restart(self, name: str) -> None:
        """End one of ``processes`` if it still runs, start it as before, and do not wait for it."""
        self.processes.pop(name).stop(grace_seconds=0)
        self._spawn(name, self._commands[name])

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user of that name in those groups: what RBAC lets them do is up to the caller."""
        name = f"user-{user}".replace(":", "-").replace("/", "-")
        pair = self.authority.issue(name, user, groups)
        path = self.directory / f"{name}.kubeconfig"
        return kubeconfig.write(path, server=self.url, authority=self.authority.certificate, user=pair)

    def kubectl(self, *arguments: str, stdin: str | None = None, user: Path | None = None) -> str:
        """What kubectl printed.

        Args:
            arguments: After ``kubectl``.
            stdin: What it reads.
            user: Another kubeconfig than the administrator's.

        Raises:
            subprocess.CalledProcessError: It failed; ``stderr`` says why.
        """
        return kubectl(user or self.kubeconfig, *arguments, stdin=stdin)

    def _issue_certificates(self) -> None:
        self.authority = Authority(self.directory / "pki")
        names = [self._address, SERVICE_ADDRESS, "localhost", "kubernetes", "kubernetes.default"]
        names += ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        if LOOPBACK not in names:
            names.append(LOOPBACK)
        self._server = self.authority.issue("apiserver", "kube-apiserver", addresses=names)
        self._administrator = self.authority.issue("admin", "admin", ["system:masters"])
        self._kubelet_client = self.authority.issue("kubelet-client", "kube-apiserver", ["system:masters"])
        self._token_keys = self.authority.signing_keys("service-accounts")
        kubeconfig.write(
            self.kubeconfig, server=self.url, authority=self.authority.certificate, user=self._administrator
        )
        (self.directory / "authentication.json").write_text(json.dumps(_AUTHENTICATION))
        self._tls = ssl.create_default_context(cafile=str(self.authority.certificate))
        self._tls.load_cert_chain(self._administrator.certificate, self._administrator.key)

    def _start_etcd(self) -> None:
        clients = f"http://{LOOPBACK}:{self._etcd_port}"
        peers = f"http://{LOOPBACK}:{free_port(LOOPBACK)}"
        self._spawn(
            "etcd",
            [
                tools.program("etcd", "server"),
                f"--data-dir={self.directory / 'etcd'}",
                "--unsafe-no-fsync",  # what it holds is worth less than the seconds
                "--logger=zap",
                "--log-level=warn",
                f"--listen-client-urls={clients}",
                f"--advertise-client-urls={clients}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
            ],
        )

    def _apiserver_command(self) -> list[str | Path]:
        command: list[str | Path] = [
            tools.program("kubernetes", "kube-apiserver"),
            f"--etcd-servers=http://{LOOPBACK}:{self._etcd_port}",
            f"--bind-address={self._address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--authentication-config={self.directory / 'authentication.json'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._token_keys.certificate}",
            f"--service-account-signing-key-file={self._token_keys.key}",
        ]
        command += [  # for logs and exec; by address, because the names of nodes do not resolve
            f"--kubelet-client-certificate={self._kubelet_client.certificate}",
            f"--kubelet-client-key={self._kubelet_client.key}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        if self._address == LOOPBACK:
            # An endpoint must not be a loopback address, and nothing here runs in pods that could ask for it.
            command.append("--endpoint-reconciler-type=none")
        else:
            command.append(f"--advertise-address={self._address}")
        if not self._with_controllers:
            command.append("--disable-admission-plugins=ServiceAccount")  # nobody makes the default ones
        return [*command, *self._apiserver_args]

    def _start_client(self, name: str, *flags: str) -> Process:
        limits = []
        if self._client_qps:
            limits = [f"--kube-api-qps={self._client_qps}", f"--kube-api-burst={2 * self._client_qps}"]
        return self._spawn(
            name,
            [
                tools.program("kubernetes", name),
                f"--kubeconfig={self.kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
                *limits,
                *flags,
            ],
        )

    def _spawn(self, name: str, command: Sequence[str | Path]) -> Process:
        process = spawn(name, command, self.directory / f"{name}.log", dies_with_parent=True)
        self.processes[name] = process
        self._commands[name] = command
        return process

    def _serves(self) -> bool:
        # The default namespace is made a moment after the server calls itself ready.
        return self._get("/readyz") == 200 and self._get("/api/v1/namespaces/default") == 200

    def _get(self, path: str) -> int | None:
        """The status of a GET as the administrator; None when nobody answers."""
        connection = http.client.HTTPSConnection(self._address, self.port, context=self._tls, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()


def kubectl(kubeconfig_path: Path, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl printed; CalledProcessError, with ``stderr``, when it failed."""
    # By default it would keep what it discovered in the home directory, for ever and for every port.
    where = ["--kubeconfig", str(kubeconfig_path), "--cache-dir", str(kubeconfig_path.parent / "kubectl")]
    command = [str(tools.program("kubernetes", "kubectl")), *where, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def free_port(address: str) -> int:
    """A TCP port nobody listens on, below the ranges of outgoing connections and NodePorts, so that it stays free."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
