"""`python -m llmops_serving.jobs.dataset --spec JSON --job DIR`: alone reads arguments and environment."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog
from pydantic import ValidationError

from llmops import names
from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.dataset import check, fetch, formats, size
from llmops_serving.jobs.dataset.rendering import Renderer
from llmops_serving.jobs.ending import Ended, Stopped, ended, log_to_stdout
from llmops_serving.jobs.imports import heavy
from llmops_serving.jobs.outcome import EXIT_INTERRUPTED
from llmops_serving.jobs.redaction import secrets_of

log = structlog.get_logger()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmops_serving.jobs.dataset", description=__doc__)
    say = parser.add_argument
    say("--spec", required=True, help="spec of the FineTuneJob, as JSON")
    say("--job", type=Path, required=True, help="the job's volume: prepared rows go to its data/")
    say("--model", type=Path, required=True, help="directory of the base model")
    say("--file", type=Path, help="the data where it is mounted; otherwise it is fetched from its source")
    say("--test-file", type=Path, help="the same for the data of spec.evaluation.dataset")
    say("--endpoint", help="address of the object store")
    say("--allow-private", action="store_true", help="sources may be in private networks; metadata services never")
    say("--termination-log", type=Path, default=Path(names.TERMINATION_LOG), help="where the outcome is written")
    return parser


def dataset(options: argparse.Namespace, environment: Mapping[str, str]) -> Ended:
    """The job itself.

    Raises:
        Stopped, Failure: the data, the settings or the model cannot be used.
    """
    try:
        spec = FineTuneJobSpec.model_validate_json(options.spec, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Stopped("InvalidSpec", str(error.errors()[0]["msg"]), exit_code=2) from error
    if spec.dataset.source.startswith("hf://") or (spec.evaluation.dataset or "").startswith("hf://"):
        os.environ["HF_HUB_OFFLINE"] = "0"  # read when the hub's client is imported
    with heavy():  # it imports torch: arguments are judged first
        from llmops_serving.jobs.finetune import settings  # noqa: PLC0415

    settings.config(spec, options.model, options.job / "data")
    renderer = Renderer.of(options.model, max_length=settings.max_length(spec, options.model))
    wanted = check.Wanted(
        spec.dataset.format,
        float(spec.dataset.eval_fraction),
        formats.not_taught(spec.method),
        spec.dataset.prepare,
    )
    reach = partial(
        fetch.fetched, environment=environment, endpoint=options.endpoint, allow_private=options.allow_private
    )
    file = _file(
        spec.dataset.source, options.file, partial(reach, folder=options.job / "fetched", name=spec.dataset.file)
    )
    asked = spec.evaluation.dataset
    test = _file(asked, options.test_file, partial(reach, folder=options.job / "fetched-test")) if asked else None
    report = check.checked(file, wanted, renderer, options.job / "data", test=test)
    facts = {**report.facts(), "model": size.of(options.model)}
    log.info("checked", **facts)
    return Ended("DatasetValid", report.sentence(), facts=facts)


def _file(source: str, mounted: Path | None, fetched: Callable[[str], Path]) -> check.File:
    """Where the file of a source is, and what its author calls it."""
    if mounted:
        return _mounted(mounted, source), source.rpartition("/")[2]
    file = fetched(source)
    return file, file.name


def _mounted(file: Path, source: str) -> Path:
    """The file that Kubernetes mounts: of a ConfigMap a link of the kubelet; on a volume links are not followed.

    Raises:
        Stopped: DatasetNotFound.
    """
    if source.startswith("configMap://"):
        file = file.resolve()
    if not file.exists():
        raise Stopped("DatasetNotFound", f"{source}: there is no such file or key. Check spec.dataset.source.")
    return file


def run(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    options = arguments().parse_args(argv)
    os.environ |= {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # noqa: S108 - the pod's own
    # The next pod reads the rows again. Without a handler a container's first process would not hear of it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_INTERRUPTED))
    secrets = secrets_of(environment)
    log_to_stdout(secrets)
    result = ended(lambda: dataset(options, environment), secrets, options.termination_log)
    sys.stdout.flush()
    os._exit(result.exit_code)  # threads of libraries may still be asleep; nothing on disk waits for them


if __name__ == "__main__":
    run(sys.argv[1:], dict(os.environ))
