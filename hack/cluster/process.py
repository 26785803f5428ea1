"""Child processes that outlive or follow their parent, known by pid and start time."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.02


class ProcessEndedError(RuntimeError):
    """A process that was waited for ended by itself; the message holds the end of its log."""


@dataclass(frozen=True)
class Process:
    """One process. The start time (clock ticks since boot) tells it from a later one with the same pid."""

    name: str
    pid: int
    started_ticks: int
    log: Path

    def alive(self) -> bool:
        """Whether this very process runs; a child of ours that has ended is reaped on the way."""
        try:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return False
        except ChildProcessError:  # somebody else's child: nothing to reap
            return start_ticks(self.pid) == self.started_ticks
        # Its first thread may be a zombie long before the last one lets go of its sockets.
        return start_ticks(self.pid, zombies=True) == self.started_ticks

    def stop(self, *, grace_seconds: float) -> None:
        """End it and return when it is gone: SIGTERM, then SIGKILL once the grace is over. No grace, no SIGTERM."""
        for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            if patience <= 0 or not self.alive():
                continue
            os.kill(self.pid, number)
            deadline = time.monotonic() + patience
            while self.alive() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def log_tail(self, lines: int = 15) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start_ticks(pid: int, *, zombies: bool = False) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none or, unless asked for, a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return None if fields[0] in "ZX" and not zombies else int(fields[19])


def spawn(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    dies_with_parent: bool,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a command in a session of its own, its output appended to the log.

    Args:
        name: What messages call it.
        command: The program, found on PATH unless it is a path, and its arguments.
        log: Where standard output and standard error go.
        dies_with_parent: The kernel kills it when the thread that started it ends, however that ends.
        environment: In place of our own.
    """
    arguments = [shutil.which(command[0]) or "", *map(str, command[1:])]
    if not arguments[0]:
        raise FileNotFoundError(f"{name}: there is no {command[0]} on this machine")
    if dies_with_parent:
        # A parent that ends before the signal is arranged would not be noticed: look once more after that.
        check = 'test "$PPID" = "$0" || exit 1; exec "$@"'
        arguments = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", check, str(os.getpid()), *arguments]
    pid = os.posix_spawn(
        shutil.which(arguments[0]) or arguments[0],
        arguments,
        dict(os.environ if environment is None else environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            # What this process was itself handed open, such as flock(1)'s lock, would stay open as long as the new one.
            *((os.POSIX_SPAWN_CLOSE, handle) for handle in _inherited()),
        ],
        setsid=True,
    )
    return Process(name, pid, start_ticks(pid) or 0, log)


def _inherited() -> list[int]:
    """Descriptors besides the standard ones that a process started here would find open."""
    handles = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - numbers, not paths
    found = []
    for handle in handles:
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            if handle > 2 and os.get_inheritable(handle):
                found.append(handle)
    return found


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float, of: Iterable[Process] = ()) -> None:
    """Return when the condition holds.

    Raises:
        TimeoutError: It did not within the given seconds.
        ProcessEndedError: One of the processes it depends on has ended.
    """
    deadline = time.monotonic() + seconds
    processes = tuple(of)
    while not condition():
        for process in processes:
            if not process.alive():
                raise ProcessEndedError(f"{process.name} ended while {what} was awaited:\n{process.log_tail()}")
        if time.monotonic() > deadline:
            tails = "".join(f"\n{process.name}:\n{process.log_tail()}" for process in processes)
            raise TimeoutError(f"{what}: not within {seconds:g} s{tails}")
        time.sleep(POLL_SECONDS)
