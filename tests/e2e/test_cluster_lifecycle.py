"""Up after every kind of end, and nothing left by down: with a second cluster in a network namespace of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hack.cluster import nodeconfig
from hack.cluster.fromsource import FromSource
from hack.cluster.process import start_ticks, wait_until

ROOT = Path(__file__).parents[2]
LACKING = FromSource(Path("unused")).missing()
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"a cluster from source needs {', '.join(LACKING)}")


class Machine:
    """A network and a mount namespace that stand for a machine of their own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", "echo; exec sleep 900"], stdout=-1)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()  # the namespaces are made
        self.run("ip", "link", "set", "lo", "up")
        self.cluster = FromSource(home / "llmops" / "cluster")

    def close(self) -> None:
        self.command("down", "--purge").wait()
        self._holder.kill()
        self._holder.communicate()

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """``python3 -m hack.cluster`` with these arguments."""
        command = [sys.executable, "-m", "hack.cluster", "--provider", "from-source", *arguments]
        environment = {**os.environ, "LLMOPS_CLUSTER_STATE": str(self.cluster.state), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([*self._enter(), *command], env=environment, stderr=-1, text=True)

    def succeed(self, *arguments: str) -> None:
        process = self.command(*arguments)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said

    def run(self, *command: str) -> str:
        return subprocess.run([*self._enter(), *command], capture_output=True, text=True, check=True).stdout

    def remains(self) -> dict[str, object]:
        """What a cluster could have left, by kind."""
        cgroup = nodeconfig.cgroup(self.cluster.state)
        commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        return {
            "interfaces": self.run("ip", "-o", "link", "show", "type", "veth"),
            "bridges": self.run("ip", "-o", "link", "show", "type", "bridge"),
            "routes": self.run("ip", "route"),
            "tables": self.run("nft", "list", "tables"),
            "mounts": [line for line in self.run("cat", "/proc/mounts").splitlines() if str(self._home) in line],
            "forwarding": self.run("cat", "/proc/sys/net/ipv4/ip_forward").strip(),
            "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{cgroup}")],
            "processes": [command for command in commands if bytes(self.cluster.state) in command],
            "files": sorted(path.name for path in self.cluster.state.iterdir() if path.name not in ("lib", "lock")),
        }

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._holder.pid), "--net", "--mount", "--"]


NOTHING = {
    "interfaces": "",
    "bridges": "",
    "routes": "",
    "tables": "",
    "mounts": [],
    "cgroups": [],
    "processes": [],
    "files": [],
}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_down_leaves_nothing_and_may_be_said_twice(machine: Machine) -> None:
    machine.succeed("down")
    before = machine.remains()
    machine.succeed("up")
    assert machine.cluster.running()
    machine.succeed("down")
    assert machine.remains() == {**NOTHING, "forwarding": before["forwarding"]}
    machine.succeed("down")
    assert machine.remains() == {**NOTHING, "forwarding": before["forwarding"]}


def ended_or_made(process: subprocess.Popen[str], file: Path) -> bool:
    return process.poll() is not None or file.exists()


def test_up_after_an_up_that_was_killed_half_way(machine: Machine) -> None:
    for reached in ("record.json", "controlplane/kube-apiserver.log", "logs/kubelet.log"):
        killed = machine.command("up")
        wait_until(partial(ended_or_made, killed, machine.cluster.state / reached), f"{reached} of an up", seconds=180)
        killed.send_signal(signal.SIGKILL)
        _, said = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, said
    machine.succeed("up")
    assert machine.cluster.running()


def test_up_after_all_its_processes_were_killed(machine: Machine) -> None:
    machine.succeed("up")
    pids = machine.cluster.processes()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(start_ticks(pid) for pid in pids.values()), "the node to end", seconds=60)
    assert machine.command("status").wait() == 3
    machine.succeed("up")
    assert machine.cluster.running()


def test_up_refuses_to_take_the_interface_of_another_cluster(machine: Machine) -> None:
    machine.run("ip", "link", "add", "llmops0", "type", "veth", "peer", "name", "stranger")
    refused = machine.command("up")
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "another cluster runs on this machine" in said
    assert "stranger" in machine.run("ip", "-o", "link", "show", "type", "veth")
