import fcntl
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hack.cluster.process import ProcessEndedError, spawn, start_ticks, wait_until


def test_a_process_is_ended_once_asked(tmp_path: Path) -> None:
    process = spawn("sleeper", ["sleep", "60"], tmp_path / "log", dies_with_parent=True)
    assert process.alive()
    process.stop(grace_seconds=60)
    assert start_ticks(process.pid) is None


def test_a_process_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo armed; while :; do sleep 0.05; done"]
    process = spawn("stubborn", stubborn, tmp_path / "log", dies_with_parent=True)
    wait_until(lambda: "armed" in process.log_tail(), "the trap", seconds=60, of=[process])
    process.stop(grace_seconds=0.1)
    assert start_ticks(process.pid) is None


def test_a_later_process_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = spawn("stranger", ["sleep", "60"], tmp_path / "log", dies_with_parent=True)
    remembered = replace(stranger, started_ticks=stranger.started_ticks - 1)
    assert not remembered.alive()
    remembered.stop(grace_seconds=1)
    assert stranger.alive()
    stranger.stop(grace_seconds=0)


def test_a_process_follows_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hack.cluster.process import spawn\n"
        "print(spawn('child', ['sleep', '60'], Path(sys.argv[1]), dies_with_parent=True).pid, flush=True)\n"
        "sys.stdin.read()"
    )
    command = ["python3", "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert start_ticks(child) is not None
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: start_ticks(child) is None, "the child to follow", seconds=60)


def test_waiting_for_a_process_that_ended_shows_the_end_of_its_log(tmp_path: Path) -> None:
    process = spawn("server", ["sh", "-c", "echo no such port; exit 1"], tmp_path / "log", dies_with_parent=True)
    with pytest.raises(ProcessEndedError, match="server ended while it to serve was awaited:\nno such port"):
        wait_until(lambda: False, "it to serve", seconds=60, of=[process])


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dns: there is no /nowhere/coredns"):
        spawn("dns", ["/nowhere/coredns"], tmp_path / "log", dies_with_parent=False)


def test_a_process_holds_nothing_that_its_starter_had_open(tmp_path: Path) -> None:
    """A lock that the starter was run under would be held for as long as the process lives."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.fcntl(lock, fcntl.F_SETFD, 0)  # as the descriptor that flock(1) hands to its command
        # The process tells of itself: one looked at from outside opens and closes files of its own meanwhile.
        process = spawn("teller", ["ls", "-l", "/proc/self/fd"], tmp_path / "log", dies_with_parent=True)
        wait_until(lambda: not process.alive(), "its listing", seconds=60)
    listing = process.log_tail()
    assert f"1 -> {tmp_path / 'log'}" in listing
    assert str(tmp_path / "lock") not in listing
