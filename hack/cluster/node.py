"""A whole cluster of one node, as the first process of its own pid, mount and network namespaces.

When this process ends, however it ends, the kernel ends every process of the cluster and removes its mounts, network
namespaces, interfaces and nftables tables with the namespaces they lived in. ``fromsource`` starts it and gives it
its network link.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hack.cluster import nodeconfig, tools
from hack.cluster.controlplane import ControlPlane
from hack.cluster.images import PAUSE_IMAGE, pause_archive
from hack.cluster.process import Process, spawn, wait_until
from hack.cluster.progress import say, step

READY_FILE = "ready"
LINK = "eth0"


class Node:
    """The programs of the node, in the order they start; ``state`` holds their files, logs and data."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._logs = state / "logs"
        self._config = state / "config"
        self._processes: dict[str, Process] = {}
        self._commands: dict[str, Sequence[str | Path]] = {}
        self._plane = ControlPlane(
            state / "controlplane",
            controllers=True,
            scheduler=True,
            address=nodeconfig.NODE_ADDRESS,
            port=nodeconfig.API_PORT,
            client_qps=200,
        )

    def boot(self) -> None:
        """Bring the node up and say so with a file."""
        for directory in (self._logs, self._config / "cni"):
            directory.mkdir(parents=True, exist_ok=True)
        _own_mounts(self._state)
        _own_network()
        self._start_containerd()
        with step("the control plane: etcd, API server, controllers, scheduler"):
            self._plane.start()
        with step("containerd to serve, and the pause image in it"):
            self._load_pause_image()
        self._start_kubelet()
        self._start_kube_proxy()
        self._start_coredns()
        self._start_storage()
        objects = {"apiVersion": "v1", "kind": "List", "items": nodeconfig.base_objects()}
        self._plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(objects))
        with step("the kubelet to report the node Ready"):
            wait_until(self._ready, "the node to be Ready", seconds=90, of=self._processes.values())
        shutil.copy(self._plane.kubeconfig, self._state / "kubeconfig")
        (self._state / READY_FILE).touch()

    def supervise(self) -> None:
        """Reap every process that ends in the node, for ever, and start the node's own programs again."""
        while True:
            pid, _ = os.wait()
            for name in [name for name, process in self._processes.items() if process.pid == pid]:
                say(f"{name} ended; starting it again\n{self._processes[name].log_tail(5)}")
                time.sleep(1)
                self._spawn(name, self._commands[name])
            for name in [name for name, process in self._plane.processes.items() if process.pid == pid]:
                say(f"{name} ended; starting it again")
                time.sleep(1)
                self._plane.restart(name)

    def _spawn(self, name: str, command: Sequence[str | Path]) -> None:
        # containerd finds its shim, and kubelet its mount programs, on PATH.
        shims = tools.built("containerd")
        path = f"{shims}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {**os.environ, "PATH": path}
        log = self._logs / f"{name}.log"
        self._processes[name] = spawn(name, command, log, dies_with_parent=True, environment=environment)
        self._commands[name] = command

    def _start_containerd(self) -> None:
        cni = self._config / "cni"
        _write_json(cni / "10-pods.conflist", nodeconfig.pod_network())
        config = self._config / "containerd.toml"
        config.write_text(nodeconfig.containerd_toml(cni))
        self._spawn("containerd", [tools.program("containerd", "containerd"), "--config", config])

    def _load_pause_image(self) -> None:
        ctr: list[str | Path] = [tools.program("containerd", "ctr"), "--namespace", "k8s.io", "images"]
        of = [self._processes["containerd"]]
        wait_until(lambda: _succeeds(*ctr, "list", "--quiet"), "containerd to serve", seconds=60, of=of)
        present = subprocess.run([*ctr, "list", "--quiet"], check=True, capture_output=True, text=True).stdout
        if PAUSE_IMAGE not in present.splitlines():
            _run(*ctr, "import", pause_archive())

    def _start_kubelet(self) -> None:
        authority = self._plane.authority
        serving = authority.issue("kubelet", nodeconfig.NODE_NAME, addresses=[nodeconfig.NODE_ADDRESS])
        resolv_conf = self._config / "resolv.conf"
        resolv_conf.write_text("".join(f"nameserver {address}\n" for address in _nameservers()))
        config = nodeconfig.kubelet(
            authority=authority.certificate,
            certificate=serving.certificate,
            key=serving.key,
            resolv_conf=resolv_conf,
            cgroup_root=f"/{nodeconfig.cgroup(self._state)}",
        )
        user = self._plane.kubeconfig_for(f"system:node:{nodeconfig.NODE_NAME}", ["system:nodes"])
        command: list[str | Path] = [
            tools.program("kubernetes", "kubelet"),
            f"--config={_write_json(self._config / 'kubelet.json', config)}",
            f"--kubeconfig={user}",
            f"--node-ip={nodeconfig.NODE_ADDRESS}",
            f"--hostname-override={nodeconfig.NODE_NAME}",
        ]
        self._spawn("kubelet", command)

    def _start_kube_proxy(self) -> None:
        config = nodeconfig.kube_proxy(self._plane.kubeconfig_for("system:kube-proxy"))
        path = _write_json(self._config / "kube-proxy.json", config)
        self._spawn("kube-proxy", [tools.program("kubernetes", "kube-proxy"), f"--config={path}"])

    def _start_coredns(self) -> None:
        corefile = self._config / "Corefile"
        corefile.write_text(nodeconfig.corefile(self._plane.kubeconfig, _nameservers()))
        self._spawn("coredns", [tools.program("coredns", "coredns"), "-conf", corefile])

    def _start_storage(self) -> None:
        where: list[str | Path] = [nodeconfig.NODE_ADDRESS, str(nodeconfig.API_PORT), self._plane.directory / "pki"]
        self._spawn("storage", [sys.executable, "-m", "hack.cluster.storage", *where, self._state / "volumes"])

    def _ready(self) -> bool:
        path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        return self._plane.kubectl("get", "nodes", "-o", path) == "True"


def _own_mounts(state: Path) -> None:
    """The folders where programs keep state, replaced by ours; whatever is mounted from here on is seen only here."""
    _run("mount", "--make-rshared", "/")
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for name, place in (("lib", "/var/lib"), ("pods", "/var/log")):
        (state / name).mkdir(exist_ok=True)
        _run("mount", "--bind", str(state / name), place)


def _own_network() -> None:
    """Wait for the link to the machine and make it, and forwarding, work."""

    def link_exists() -> bool:
        with suppress(OSError):
            return socket.if_nametoindex(LINK) > 0
        return False

    wait_until(link_exists, "the link to the machine", seconds=30)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{nodeconfig.NODE_ADDRESS}/{nodeconfig.LINK_BITS}", "dev", LINK)
    _run("ip", "link", "set", LINK, "up")
    _run("ip", "route", "add", "default", "via", nodeconfig.HOST_ADDRESS)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("nft", nodeconfig.node_nftables())


def _nameservers() -> list[str]:
    """The machine's resolvers that can be asked from another network namespace."""
    text = Path(os.environ["LLMOPS_RESOLV_CONF"]).read_text()
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    return [server for server in servers if not server.startswith("127.") and server != "::1"]


def _write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, indent=2))
    return path


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _succeeds(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main(state: str) -> None:
    node = Node(Path(state))
    node.boot()
    node.supervise()


if __name__ == "__main__":
    main(sys.argv[1])
