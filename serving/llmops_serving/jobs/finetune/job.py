"""One process of a training job: alone reads arguments and environment."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from llmops import names
from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.ending import Ended, Stopped, ended, log_to_stdout
from llmops_serving.jobs.finetune.launch import left
from llmops_serving.jobs.imports import heavy
from llmops_serving.jobs.outcome import EXIT_INTERRUPTED
from llmops_serving.jobs.redaction import secrets_of


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmops_serving.jobs.finetune", description=__doc__)
    say = parser.add_argument
    say("--spec", required=True, help="spec of the FineTuneJob, as JSON")
    say("--job", type=Path, required=True, help="the job's volume, with the checked rows in data/")
    say("--model", type=Path, required=True, help="directory of the base model")
    say("--image", default="", help="name of this image, for the provenance")
    say("--metrics-port", type=int, default=0, help="where Prometheus finds steps, losses and speed; 0: nowhere")
    say("--termination-log", type=Path, default=Path(names.TERMINATION_LOG), help="where the outcome is written")
    return parser


def finetune(options: argparse.Namespace) -> Ended:
    """The job itself.

    Raises:
        Stopped: why there is no artifact yet.
    """
    with heavy():  # arguments are judged first
        import torch  # noqa: PLC0415

        from llmops_serving.jobs.finetune import train  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _stopped)
    try:
        spec = FineTuneJobSpec.model_validate_json(options.spec, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Stopped("InvalidSpec", str(error.errors()[0]["msg"]), exit_code=2) from error
    torch.set_num_threads(train.threads())
    return train.trained(train.Run(spec, options.job, options.model, options.image, options.metrics_port))


def run(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    options = arguments().parse_args(argv)
    os.environ |= {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # noqa: S108 - the pod's own
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "WANDB_DISABLED": "true", "DO_NOT_TRACK": "1"}
    # Threads that spin while they wait for each other take their time from those they wait for, on a busy node.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    secrets = secrets_of(environment)
    log_to_stdout(secrets)
    place = options.termination_log if environment.get("RANK", "0") == "0" else Path(os.devnull)

    def leave(work: Callable[[], Ended]) -> NoReturn:
        result = ended(work, secrets, place)
        sys.stdout.flush()
        os._exit(left(result.exit_code))  # threads of libraries may still be asleep; nothing on disk waits for them

    # An exception out of a handler would come up inside an import, and libraries pass over modules that fail.
    signal.signal(signal.SIGTERM, lambda *_: leave(_stopped))
    leave(lambda: finetune(options))


def _stopped(*_: object) -> NoReturn:
    message = "Stopped while nothing was being learned; the next pod goes on."
    raise Stopped("Interrupted", message, exit_code=EXIT_INTERRUPTED)
