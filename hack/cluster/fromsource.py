"""The cluster that needs no container tool: one node built from source, in namespaces of its own.

On the machine itself it leaves a process, one end of a network link, one nftables table, a cgroup and the setting
of IP forwarding. Each is written down before it is made, so that ``down``, or the next ``up``, undoes exactly these.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from hack.cluster import importing, nodeconfig, progress, tools
from hack.cluster.controlplane import SERVICE_RANGE
from hack.cluster.images import pause_archive
from hack.cluster.node import LINK, READY_FILE
from hack.cluster.process import Process, ProcessEndedError, spawn, start_ticks, wait_until
from hack.cluster.progress import say, step
from hack.locked import locked

HOST_LINK = "llmops0"
NFTABLES_TABLE = "llmops_cluster"
TOOL_SETS = ("kubernetes", "etcd", "containerd", "coredns")
KEPT = ("lib", "images.json", "lock")
BOOT_SECONDS = 180.0
_CGROUPS = Path("/sys/fs/cgroup")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Record:
    """What the cluster puts on the machine: pids with their start times, names, and the setting it changes."""

    outer: tuple[int, int]
    inner: tuple[int, int]
    link: str
    table: str
    cgroup: str
    ip_forward: str


class FromSource:
    """One node on this machine; see the module."""

    name = "from-source"

    def __init__(self, state: Path) -> None:
        self.state = state
        self.kubeconfig = self.state / "kubeconfig"
        self._record_file = self.state / "record.json"
        self._log = self.state / "node.log"

    def missing(self) -> list[str]:
        """What this machine lacks for it."""
        lacking = []
        if sys.platform != "linux":
            lacking.append("Linux")
        elif os.geteuid() != 0:
            lacking.append("root")
        if shutil.which("go") is None:
            lacking.append("Go 1.26 or newer on PATH (https://go.dev/dl)")
        return lacking

    def up(self) -> Path:
        """Bring the cluster up, or find it up; the kubeconfig.

        Raises:
            RuntimeError: It did not come up; the message holds the end of the log.
        """
        with self._locked():
            if self.running():
                say(f"the cluster is up: KUBECONFIG={self.kubeconfig}")
                return self.kubeconfig
            self._undo()
            tools.install_packages(tools.NODE_PACKAGES)
            for tool_set in TOOL_SETS:
                tools.built(tool_set)
            pause_archive()
            self._boot()
        say(f"the cluster is up: KUBECONFIG={self.kubeconfig}")
        return self.kubeconfig

    def down(self, *, purge: bool = False) -> None:
        """Leave no process, mount, namespace, interface, table or cgroup; loaded images stay unless purged."""
        with self._locked():
            self._undo()
        if purge:
            shutil.rmtree(self.state)
        kept = f"; its images are kept in {self.state} (python3 -m hack.cluster down --purge removes them)"
        say("the cluster is down" + ("" if purge else kept))

    def running(self) -> bool:
        """Whether the node runs and has once been ready."""
        record = self._record()
        return record is not None and start_ticks(record.inner[0]) == record.inner[1] and self._ready_file().exists()

    def load_images(self, archives: Sequence[Path]) -> None:
        """Import image archives (docker or OCI); one that is already there is skipped."""
        record = self._record()
        if record is None or not self.running():
            raise RuntimeError("the cluster is not up: python3 -m hack.cluster up")
        with self._locked():
            memory = self.state / "images.json"
            for archive in archives:
                known: dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
                named = images(archive)
                if named.items() <= known.items():
                    say(f"{archive.name} is loaded already")
                    continue
                with step(f"importing {archive.name} ({archive.stat().st_size / 1e6:.0f} MB)"):
                    socket = f"/proc/{record.inner[0]}/root{nodeconfig.CONTAINERD_SOCKET}"
                    ctr = tools.program("containerd", "ctr")
                    importing.load(archive, [ctr, "--namespace", "k8s.io", "--address", socket])
                memory.write_text(json.dumps(known | named, indent=2))

    def processes(self) -> dict[str, int]:
        """The recorded pids that still run."""
        record = self._record()
        pairs = {"unshare": record.outer, "node": record.inner} if record else {}
        return {name: pid for name, (pid, started) in pairs.items() if start_ticks(pid) == started}

    def _boot(self) -> None:
        if _succeeds("ip", "link", "show", HOST_LINK):
            raise RuntimeError(
                f"there is an interface {HOST_LINK} that this state directory ({self.state}) did not make: "
                "another cluster runs on this machine, take it down first"
            )
        ip_forward = _IP_FORWARD.read_text().strip()
        namespaces = ["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        resolvers = Path("/run/systemd/resolve/resolv.conf")  # the real ones, where systemd answers on loopback
        if not resolvers.exists():
            resolvers = Path("/etc/resolv.conf")
        shutil.copy(resolvers, self.state / "resolv.conf")
        environment = {
            **progress.environment(),
            "PYTHONPATH": str(_REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LLMOPS_RESOLV_CONF": str(self.state / "resolv.conf"),
        }
        outer = spawn(
            "unshare",
            ["unshare", *namespaces, sys.executable, "-m", "hack.cluster.node", self.state],
            self._log,
            dies_with_parent=False,
            environment=environment,
        )
        inner = _only_child(outer)
        cgroup = nodeconfig.cgroup(self.state)
        pids = ((outer.pid, outer.started_ticks), inner)
        self._write_record(Record(*pids, HOST_LINK, NFTABLES_TABLE, cgroup, ip_forward))
        _make_cgroups(cgroup)
        _make_network(inner[0])
        self._follow(outer)

    def _follow(self, outer: Process) -> None:
        """Repeat what the node says until it is ready."""
        deadline = time.monotonic() + BOOT_SECONDS
        with self._log.open() as log:
            while not self._ready_file().exists():
                sys.stderr.write(log.read())
                if not outer.alive():
                    raise ProcessEndedError(f"the node ended while starting:\n{outer.log_tail(30)}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the node was not ready within {BOOT_SECONDS:.0f} s; its logs: {self.state}")
                time.sleep(0.05)
            sys.stderr.write(log.read())

    def _undo(self) -> None:
        """Remove what the record names, then the files that a new start makes again."""
        record = self._record()
        if record is not None:
            for pid, started in (record.outer, record.inner):
                Process("node", pid, started, self._log).stop(grace_seconds=0)
            _remove(("ip", "link", "delete", record.link), seen_by=("ip", "link", "show", record.link))
            table = ("table", "ip", record.table)
            _remove(("nft", "delete", *table), seen_by=("nft", "list", *table))
            _remove_cgroups(record.cgroup)
            _IP_FORWARD.write_text(record.ip_forward)
        for entry in self.state.iterdir():
            if entry.name not in KEPT:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for entry in (self.state / "lib").glob("*"):
            if entry.name != "containerd":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _record(self) -> Record | None:
        if not self._record_file.exists():
            return None
        content = json.loads(self._record_file.read_text())
        return Record(**{**content, "outer": tuple(content["outer"]), "inner": tuple(content["inner"])})

    def _write_record(self, record: Record) -> None:
        fresh = self._record_file.with_suffix(".partial")
        fresh.write_text(json.dumps(asdict(record)))
        fresh.rename(self._record_file)

    def _ready_file(self) -> Path:
        return self.state / READY_FILE

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self.state / "lock", waiting_for="another command on this cluster to end"):
            yield


def _only_child(parent: Process) -> tuple[int, int]:
    """Pid, as the machine sees it, and start time of the first process of the new namespaces."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    wait_until(lambda: children.read_text().strip() != "", "the namespaces to be made", seconds=10, of=[parent])
    pid = int(children.read_text().split()[0])
    return pid, start_ticks(pid) or 0


def _make_network(pid: int) -> None:
    """The link between machine and node, routes to pods and services, and the way out for both."""
    _IP_FORWARD.write_text("1")
    _run("ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", LINK, "netns", str(pid))
    _run("ip", "address", "add", f"{nodeconfig.HOST_ADDRESS}/{nodeconfig.LINK_BITS}", "dev", HOST_LINK)
    _run("ip", "link", "set", HOST_LINK, "up")
    for range_ in (nodeconfig.POD_RANGE, SERVICE_RANGE):
        _run("ip", "route", "add", range_, "via", nodeconfig.NODE_ADDRESS)
    _run("nft", nodeconfig.host_nftables(NFTABLES_TABLE, HOST_LINK))


def _hierarchies() -> list[Path]:
    """The cgroup trees of this machine: one per controller (version 1) or a single one."""
    trees = [_CGROUPS, *_CGROUPS.iterdir()]
    return [tree for tree in trees if (tree / "cgroup.procs").exists() and tree.is_mount() and not tree.is_symlink()]


def _make_cgroups(name: str) -> None:
    for tree in _hierarchies():
        group = tree / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1: nothing could run in it
            if (tree / setting).exists():
                (group / setting).write_text((tree / setting).read_text())


def _remove_cgroups(name: str) -> None:
    for tree in _hierarchies():
        for folder, _, _ in os.walk(tree / name, topdown=False):
            wait_until(partial(_rmdir, folder), f"{folder} to be empty", seconds=10)


def _rmdir(folder: str) -> bool:
    with suppress(FileNotFoundError):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return True


def images(archive: Path) -> dict[str, str]:
    """Each image name in an archive with a hash that changes when its content does."""
    try:
        with tarfile.open(archive) as content:
            index = next(name for name in ("manifest.json", "index.json") if name in content.getnames())
            text = (content.extractfile(index) or io.BytesIO()).read()
    except (tarfile.ReadError, StopIteration) as broken:
        raise RuntimeError(f"{archive} is no image archive: it has no manifest.json or index.json") from broken
    digest = hashlib.sha256(text).hexdigest()
    described = json.loads(text)
    if index == "manifest.json":
        return {tag: digest for image in described for tag in image["RepoTags"]}
    return {str(sorted(manifest.get("annotations", {}).items())): digest for manifest in described["manifests"]}


def _remove(removal: Sequence[str], *, seen_by: Sequence[str]) -> None:
    """Run a removal; that the thing is not there, or goes meanwhile, is no error.

    The link goes on its own with the node's network namespace, which the kernel ends some time after the last process.
    """
    done = subprocess.run(removal, capture_output=True, text=True, check=False)
    if done.returncode and _succeeds(*seen_by):
        raise RuntimeError(f"{' '.join(removal)}: {done.stderr.strip()}")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
