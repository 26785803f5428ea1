"""What the four jobs share: arguments, the key, one outcome as the termination message, exit codes for the Job."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from llmops import names
from llmops_serving.jobs.ending import log_to_stdout
from llmops_serving.jobs.outcome import (
    EXIT_BUG,
    EXIT_TIME_MAY_HEAL,
    EXIT_USER_MUST_ACT,
    MESSAGE_LIMIT,
    TERMINATION_LIMIT_BYTES,
    brief,
)
from llmops_serving.jobs.redaction import secrets_of
from llmops_serving.jobs.repository.errors import KeyWrong, RepositoryError
from llmops_serving.jobs.repository.repository import GRACE_SECONDS, Repository
from llmops_serving.jobs.repository.target import PVC_MOUNT, Target
from llmops_serving.jobs.repository.write import Progress

KEY_VARIABLE: Final = "LLMOPS_REPOSITORY_KEY"
STEP: Final = 0.1  # progress is logged each tenth
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

log = structlog.get_logger()


@dataclass(frozen=True)
class Outcome:
    """What the operator reads: `outcome` is a condition's reason, `facts` are the numbers of the job's kind."""

    outcome: str
    message: str
    exit_code: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def termination_message(self) -> str:
        """JSON within the kubelet's limit; facts that do not fit give way to the message."""
        whole = json.dumps({"outcome": self.outcome, "message": self.message, **self.facts}, ensure_ascii=False)
        if len(whole.encode()) <= TERMINATION_LIMIT_BYTES:
            return whole
        return json.dumps({"outcome": self.outcome, "message": self.message}, ensure_ascii=False)


class Interrupted(RepositoryError):
    """SIGTERM: the pod goes away. What was done so far is found by the next run."""

    reason = "Interrupted"
    transient = True


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every repository job takes."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    made.add_argument("--target", required=True, help="s3:// gs:// az:// pvc:// file://")
    made.add_argument("--key-file", type=Path, help=f"the Secret's key, mounted; else the variable {KEY_VARIABLE}")
    made.add_argument("--pvc-mount", type=Path, default=PVC_MOUNT, help="where the claim of a pvc:// target is mounted")
    made.add_argument("--retry", type=duration, default=timedelta(minutes=10), help="how long to wait for the target")
    made.add_argument("--termination-log", type=Path, default=Path(names.TERMINATION_LOG))
    return made


def duration(text: str) -> timedelta:
    """`90s`, `10m`, `24h` or `30d`."""
    if text[-1:] not in UNITS or not text[:-1].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number followed by s, m, h or d")
    return timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])


def secret_of(options: argparse.Namespace, environment: Mapping[str, str]) -> bytes:
    """The key that wraps the repository's.

    Raises:
        KeyWrong: there is none.
    """
    if options.key_file:
        try:
            return bytes(options.key_file.read_bytes())
        except OSError as problem:
            raise KeyWrong(f"the key file cannot be read: {problem.strerror}") from problem
    if not environment.get(KEY_VARIABLE):
        raise KeyWrong(f"there is no key: give --key-file or {KEY_VARIABLE}")
    return environment[KEY_VARIABLE].encode()


def target_of(options: argparse.Namespace) -> Target:
    return Target.open(options.target, pvc_mount=options.pvc_mount, retry_seconds=options.retry.total_seconds())


def opened(options: argparse.Namespace, secret: bytes) -> Repository:
    return Repository.open(target_of(options), secret)


def opened_or_created(options: argparse.Namespace, secret: bytes, *, grace: timedelta | None) -> Repository:
    seconds = grace.total_seconds() if grace else GRACE_SECONDS
    return Repository.open_or_create(target_of(options), secret, grace_seconds=seconds)


def run(
    work: Callable[[argparse.Namespace, bytes], Outcome],
    arguments: argparse.ArgumentParser,
    argv: Sequence[str],
    environment: Mapping[str, str],
) -> int:
    """Do the work and leave its outcome; returns the exit code. Failures are outcomes, anything else is a bug."""
    options = arguments.parse_args(argv)
    hidden = secrets_of(environment)
    log_to_stdout(hidden)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        outcome = work(options, secret_of(options, environment))
        log.info(outcome.outcome, message=outcome.message, **outcome.facts)
    except RepositoryError as problem:
        code = EXIT_TIME_MAY_HEAL if problem.transient else EXIT_USER_MUST_ACT
        outcome = Outcome(problem.reason, brief(str(problem), hidden), code)
        log.warning("failed", reason=outcome.outcome, message=outcome.message)
    except Exception as problem:  # the operator reads an outcome whatever happens
        log.exception("bug")
        outcome = Outcome("Error", brief(f"{type(problem).__name__}: {problem}", hidden), EXIT_BUG)
    options.termination_log.write_text(outcome.termination_message(), encoding="utf-8")
    return outcome.exit_code


def complete(message: str, result: Any) -> Outcome:
    """A success with the fields of `result` as facts."""
    facts = {part.name: getattr(result, part.name) for part in fields(result)}
    facts["ref"] = str(facts["ref"])
    return Outcome("Complete", message[:MESSAGE_LIMIT], 0, facts)


def logged_progress(verb: str) -> Progress:
    """Progress as a log line per tenth, with rate and the time that is left."""
    started, step = time.monotonic(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal step
        if total and done / total >= step + STEP:
            step = done / total // STEP * STEP
            rate = done / max(1e-3, time.monotonic() - started)
            left = round((total - done) / max(1.0, rate))
            log.info(verb, bytes=done, total=total, bytes_per_second=round(rate), eta_seconds=left)

    return report


def _interrupted(*_: object) -> NoReturn:
    raise Interrupted("interrupted; the next run continues where this one stopped")
