"""How a job ends: a closed set of reasons, who must act on each, the exit code and the termination message."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from llmops_serving.jobs.redaction import redact

MESSAGE_LIMIT = 256
TERMINATION_LIMIT_BYTES = 4096  # the kubelet cuts what is longer, and cut JSON is no JSON

EXIT_USAGE = 2
EXIT_BUG = 1
EXIT_USER_MUST_ACT = 40  # the Job's podFailurePolicy fails at once on it: trying again cannot help
EXIT_INTERRUPTED = 43  # stopped in time, with a checkpoint: the Job starts a new pod and counts no failure
EXIT_TIME_MAY_HEAL = 75  # EX_TEMPFAIL of sysexits.h: the Job tries again


class Reason(StrEnum):
    """What became of the job, in the words of the conditions' reasons."""

    COMPLETE = "Complete"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_AUTH_FAILED = "ModelAuthFailed"
    UNSAFE_MODEL = "UnsafeModel"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    DISK_FULL = "DiskFull"
    SOURCE_FORBIDDEN = "SourceForbidden"
    SOURCE_INVALID = "SourceInvalid"
    SOURCE_THROTTLED = "SourceThrottled"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    DOWNLOADING = "Downloading"
    ERROR = "Error"


EXIT_CODES = {
    Reason.COMPLETE: 0,
    Reason.SOURCE_INVALID: EXIT_USAGE,
    Reason.SOURCE_THROTTLED: EXIT_TIME_MAY_HEAL,
    Reason.SOURCE_UNAVAILABLE: EXIT_TIME_MAY_HEAL,
    Reason.DOWNLOADING: EXIT_TIME_MAY_HEAL,
    Reason.ERROR: EXIT_BUG,
}


class Failure(Exception):
    """The job cannot go on; `reason` says who must act, the text tells them what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Transient(Failure):
    """Time may heal it. `after_seconds` is what the source asked for (Retry-After), None when it did not say."""

    def __init__(self, message: str, *, after_seconds: float | None = None, throttled: bool = False) -> None:
        super().__init__(Reason.SOURCE_THROTTLED if throttled else Reason.SOURCE_UNAVAILABLE, message)
        self.after_seconds = after_seconds


@dataclass(frozen=True)
class Outcome:
    """What the operator reads. `digest` is over all files; the numbers are bytes and files of the whole model."""

    outcome: Reason
    message: str
    revision: str = ""
    digest: str = ""
    bytes: int = 0
    files: int = 0

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get(self.outcome, EXIT_USER_MUST_ACT)

    def termination_message(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def failed(failure: Failure, secrets: tuple[str, ...]) -> Outcome:
    """The outcome of a failure: one line of at most 256 characters with secrets masked."""
    return Outcome(failure.reason, brief(str(failure), secrets))


def brief(text: str, secrets: tuple[str, ...]) -> str:
    """One line of at most 256 characters, safe to show to anyone who may read the object."""
    line = " ".join(redact(text, secrets).split())
    return line if len(line) <= MESSAGE_LIMIT else f"{line[: MESSAGE_LIMIT - 1]}…"


def write(outcome: Outcome, path: Path) -> None:
    """Leave the termination message; a missing path is made, so that it also works outside a pod."""
    text = outcome.termination_message()
    if len(text.encode()) > TERMINATION_LIMIT_BYTES:
        raise ValueError(f"a termination message of {len(text)} characters would be cut")
    path.write_text(text, encoding="utf-8")
