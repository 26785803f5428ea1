"""How the dataset and the training job end: one outcome as the termination message, whatever happened."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from llmops_serving.jobs.outcome import (
    EXIT_BUG,
    EXIT_CODES,
    EXIT_USER_MUST_ACT,
    TERMINATION_LIMIT_BYTES,
    Failure,
    brief,
)
from llmops_serving.jobs.redaction import redact

EXPLANATION_LIMIT = 1024  # characters: the first bad rows of a data set are worth more than one line

log = structlog.get_logger()


@dataclass(frozen=True)
class Ended:
    """What the operator reads: `outcome` is a condition's reason, `facts` are the results of the job's kind."""

    outcome: str
    message: str
    exit_code: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def termination_message(self) -> str:
        """JSON within the kubelet's limit; facts that do not fit give way to the message."""
        whole = json.dumps({"outcome": self.outcome, "message": self.message, **self.facts}, ensure_ascii=False)
        if len(whole.encode()) <= TERMINATION_LIMIT_BYTES:
            return whole
        return json.dumps({"outcome": self.outcome, "message": self.message}, ensure_ascii=False)


class Stopped(Exception):
    """The job cannot go on; `outcome` says why in one word, the text what to do."""

    def __init__(
        self, outcome: str, message: str, *, exit_code: int = EXIT_USER_MUST_ACT, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.outcome, self.exit_code, self.facts = outcome, exit_code, facts or {}

    def __reduce__(self) -> tuple[Any, ...]:
        """One process of several may tell the others of it."""
        return partial(Stopped, exit_code=self.exit_code, facts=self.facts), (self.outcome, str(self))


def ended(work: Callable[[], Ended], secrets: tuple[str, ...], place: Path) -> Ended:
    """Do the work, leave its termination message at `place`, and return it. Only a bug leaves a traceback."""
    try:
        result = work()
    except Stopped as stopped:
        message = redact(str(stopped), secrets)[:EXPLANATION_LIMIT]
        result = Ended(stopped.outcome, message, stopped.exit_code, stopped.facts)
    except Failure as failure:
        code = EXIT_CODES.get(failure.reason, EXIT_USER_MUST_ACT)
        result = Ended(failure.reason, brief(str(failure), secrets), code)
    except Exception as error:  # the operator reads an outcome whatever happens
        log.exception("bug")
        result = Ended("Error", brief(f"{type(error).__name__}: {error}", secrets), EXIT_BUG)
    log.info("ended", outcome=result.outcome, message=result.message, exit_code=result.exit_code)
    place.write_text(result.termination_message(), encoding="utf-8")
    return result


def log_to_stdout(secrets: tuple[str, ...]) -> None:
    """One JSON object per line, with secrets masked in every value."""

    def masked(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        return {key: redact(value, secrets) if isinstance(value, str) else value for key, value in event.items()}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            masked,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
