"""`python -m llmops_serving.jobs.adapters --engine URL --model NAME --adapters JSON`: alone reads arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
from pydantic import ValidationError

from llmops import names
from llmops_serving.jobs.adapters import load
from llmops_serving.jobs.adapters.engine import Engine, Refused
from llmops_serving.jobs.adapters.store import Store
from llmops_serving.jobs.ending import Ended, Stopped, ended, log_to_stdout
from llmops_serving.jobs.outcome import EXIT_TIME_MAY_HEAL, EXIT_USAGE


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmops_serving.jobs.adapters", description=__doc__)
    say = parser.add_argument
    say("--engine", required=True, help="base URL of the engine")
    say("--model", required=True, help="the name under which it serves its model")
    say("--adapters", required=True, help='what it should have, as JSON: [{"name", "digest", "from"}]')
    say("--store", type=Path, default=Path(names.ADAPTERS_MOUNT), help="the volume that the engine reads them from")
    say("--termination-log", type=Path, default=Path(names.TERMINATION_LOG), help="where the outcome is written")
    return parser


def adapters(options: argparse.Namespace) -> Ended:
    """The job itself.

    Raises:
        Stopped: the engine did not answer, or the arguments make no sense.
    """
    try:
        wishes = load.WISHES.validate_json(options.adapters)
    except ValidationError as error:
        raise Stopped("AdapterLoadFailed", str(error.errors()[0]["msg"]), exit_code=EXIT_USAGE) from error
    try:
        with Engine(options.engine) as engine:
            flaws = load.given(engine, options.model, Store(options.store), wishes)
    except httpx.TransportError as error:
        message = f"The engine does not answer: {type(error).__name__}."
        raise Stopped("AdapterLoadFailed", message, exit_code=EXIT_TIME_MAY_HEAL) from error
    except (Refused, OSError) as error:
        raise Stopped("AdapterLoadFailed", str(error), exit_code=EXIT_TIME_MAY_HEAL) from error
    room = 3000 // max(1, len(flaws))  # the kubelet cuts what is longer than 4096 bytes
    failed = {name: {"reason": flaw.reason, "message": flaw.message[:room]} for name, flaw in flaws.items()}
    message = f"{len(wishes) - len(flaws)} of {len(wishes)} adapters are served."
    return Ended("AdaptersLoaded", message, facts={"failed": failed})


def main(argv: Sequence[str]) -> int:
    options = arguments().parse_args(argv)
    log_to_stdout(())
    return ended(lambda: adapters(options), (), options.termination_log).exit_code


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
