"""What the repository jobs share: arguments, keys, the way out, one outcome as the termination message, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from llmops import names
from llmops_serving.jobs.egress import Egress
from llmops_serving.jobs.ending import log_to_stdout
from llmops_serving.jobs.outcome import (
    EXIT_BUG,
    EXIT_CODES,
    EXIT_TIME_MAY_HEAL,
    EXIT_USER_MUST_ACT,
    MESSAGE_LIMIT,
    TERMINATION_LIMIT_BYTES,
    Failure,
    Reason,
    brief,
)
from llmops_serving.jobs.redaction import secrets_of
from llmops_serving.jobs.repository.errors import KeyWrong, NotARepository, RepositoryError
from llmops_serving.jobs.repository.repository import GRACE_SECONDS, Repository
from llmops_serving.jobs.repository.target import PVC_MOUNT, Target
from llmops_serving.jobs.repository.write import Progress

KEY_VARIABLE: Final = "LLMOPS_REPOSITORY_KEY"
PREVIOUS_KEY_VARIABLE: Final = "LLMOPS_REPOSITORY_KEY_PREVIOUS"
STEP: Final = 0.01  # progress is logged each hundredth: `llmops backup -f` draws it, conditions move in tenths
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
    made.add_argument("--allow-private", action="store_true", help="the target may be in a private network")
    made.add_argument("--hub-endpoint", help="a mirror of the hub, for files kept as pointers")
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
    return Target.open(
        options.target,
        pvc_mount=options.pvc_mount,
        retry_seconds=options.retry.total_seconds(),
        proxy=options.egress.url,
    )


def opened(options: argparse.Namespace, secret: bytes) -> Repository:
    """The repository. Where only the previous key opens it, the new one is put in its place.

    So the key is changed by changing a Secret: the new one under its name, the old one as the previous.

    Raises:
        KeyWrong: neither opens it.
    """
    try:
        return Repository.open(target_of(options), secret)
    except KeyWrong:
        if not options.previous_key:
            raise
    repository = Repository.open(target_of(options), options.previous_key)
    repository.rotate(secret)
    log.info("rotated", message="The new key opens the repository, the previous one no more.")
    return repository


def opened_or_created(options: argparse.Namespace, secret: bytes, *, grace: timedelta | None) -> Repository:
    try:
        return opened(options, secret)
    except NotARepository:
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
    options.previous_key = environment.get(PREVIOUS_KEY_VARIABLE, "").encode()
    with Egress(allow_private=options.allow_private) as options.egress:
        os.environ.update(options.egress.environment())
        try:
            outcome = work(options, secret_of(options, environment))
            log.info(outcome.outcome, message=outcome.message, **outcome.facts)
        except (RepositoryError, Failure) as problem:
            outcome = _failed(problem, options.egress, hidden)
            log.warning("failed", reason=outcome.outcome, message=outcome.message)
        except Exception as problem:  # the operator reads an outcome whatever happens
            log.exception("bug")
            outcome = Outcome("Error", brief(f"{type(problem).__name__}: {problem}", hidden), EXIT_BUG)
    options.termination_log.write_text(outcome.termination_message(), encoding="utf-8")
    return outcome.exit_code


def _failed(problem: RepositoryError | Failure, egress: Egress, hidden: tuple[str, ...]) -> Outcome:
    """The failure as an outcome; where the policy on addresses was behind it, that is what is said."""
    if egress.refused:
        remedy = "" if "metadata" in egress.refused[0] else " An administrator may set sources.allowPrivateNetworks."
        text = f"{egress.refused[0]}; no repository may be there.{remedy}"
        return Outcome(Reason.SOURCE_FORBIDDEN, brief(text, hidden), EXIT_USER_MUST_ACT)
    text = brief(str(problem), hidden)
    if isinstance(problem, Failure):
        return Outcome(problem.reason, text, EXIT_CODES.get(problem.reason, EXIT_USER_MUST_ACT))
    return Outcome(problem.reason, text, EXIT_TIME_MAY_HEAL if problem.transient else EXIT_USER_MUST_ACT)


def complete(message: str, result: Any) -> Outcome:
    """A success with the fields of `result` as facts."""
    facts = {part.name: getattr(result, part.name) for part in fields(result)}
    facts["ref"] = facts["ref"].source
    return Outcome("Complete", message[:MESSAGE_LIMIT], 0, facts)


def logged_progress() -> Progress:
    """Progress as a log line per step, with rate and the time that is left."""
    started, step = time.monotonic(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal step
        if total and done / total >= step + STEP:
            step = done / total // STEP * STEP
            rate = done / max(1e-3, time.monotonic() - started)
            left = round((total - done) / max(1.0, rate))
            log.info("progress", bytes=done, total=total, bytes_per_second=round(rate), eta_seconds=left)

    return report


def _interrupted(*_: object) -> NoReturn:
    raise Interrupted("interrupted; the next run continues where this one stopped")
