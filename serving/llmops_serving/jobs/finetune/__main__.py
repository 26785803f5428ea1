"""`python -m llmops_serving.jobs.finetune --spec JSON --job DIR --model DIR`: alone reads arguments and environment."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from llmops import names
from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.ending import EXIT_INTERRUPTED, Ended, Stopped, ended, log_to_stdout
from llmops_serving.jobs.finetune.launch import left
from llmops_serving.jobs.imports import heavy
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
    with heavy():  # arguments are judged and SIGTERM is heeded first
        import torch  # noqa: PLC0415

        from llmops_serving.jobs.finetune import train  # noqa: PLC0415

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
    signal.signal(signal.SIGTERM, _early)
    secrets = secrets_of(environment)
    log_to_stdout(secrets)
    leads = environment.get("RANK", "0") == "0"
    result = ended(lambda: finetune(options), secrets, options.termination_log if leads else Path(os.devnull))
    sys.stdout.flush()
    os._exit(left(result.exit_code))  # threads of libraries may still be asleep; nothing on disk waits for them


def _early(*_: object) -> NoReturn:
    message = "Stopped while nothing was being learned; the next pod goes on."
    raise Stopped("Interrupted", message, exit_code=EXIT_INTERRUPTED)


if __name__ == "__main__":
    run(sys.argv[1:], dict(os.environ))
