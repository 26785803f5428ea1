"""`python -m llmops_serving.jobs.weights --source URI --dest DIR`: alone reads arguments and environment."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import structlog

from llmops import names
from llmops_serving.jobs import outcome
from llmops_serving.jobs.egress import Egress
from llmops_serving.jobs.ending import log_to_stdout
from llmops_serving.jobs.outcome import Failure, Outcome, Reason
from llmops_serving.jobs.redaction import secrets_of
from llmops_serving.jobs.weights import mounted
from llmops_serving.jobs.weights.directory import ModelDirectory
from llmops_serving.jobs.weights.download import Order, download
from llmops_serving.jobs.weights.marker import Marker
from llmops_serving.jobs.weights.sources.finetuned import FineTunedSource
from llmops_serving.jobs.weights.sources.guarded import Guarded
from llmops_serving.jobs.weights.sources.source import Source

MOUNTED = ("pvc", "oci")
Environment = Mapping[str, str]
log = structlog.get_logger()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmops_serving.jobs.weights", description=__doc__)
    say = parser.add_argument
    say("--source", required=True, help="hf:// s3:// gs:// az:// http(s):// pvc:// oci:// finetune://")
    say("--revision", default="main", help="branch, tag or commit of an hf:// source")
    say("--dest", type=Path, required=True, help="the model directory; of pvc:// and oci://, where it is mounted")
    say("--origin", type=Path, help="of finetune://, where the artifact is mounted")
    say("--promised", default="", help="of finetune://, the digest in the FineTuneJob's status")
    say("--endpoint", help="a mirror of the hub, or the address of the object store")
    say("--allow-pickle", action="store_true", help="take pickled weights where there is no safetensors")
    say("--trust-remote-code", action="store_true", help="take *.py and accept auto_map")
    say("--allow-private", action="store_true", help="sources may be in private networks; metadata services never")
    say("--expect-digest", default="", help="sha256:... that the whole model must have")
    say("--verify", action="store_true", help="hash again what an earlier run completed, fetch again what is damaged")
    say("--parallel", type=int, default=4, help="files at a time")
    say("--attempts", type=int, default=8, help="tries without a byte gained before giving up")
    say("--termination-log", type=Path, default=Path(names.TERMINATION_LOG), help="where the outcome is written")
    return parser


def main(argv: Sequence[str], environment: Environment) -> Outcome:
    """Run the job and leave its outcome; failures are outcomes, anything else is a bug and says so."""
    options = arguments().parse_args(argv)
    secrets = secrets_of(environment)
    log_to_stdout(secrets)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        result = weights(options, environment)
    except Failure as failure:
        result = outcome.failed(failure, secrets)
        log.warning("failed", reason=result.outcome, message=result.message)
    except Exception as error:  # the operator reads an outcome whatever happens
        log.exception("bug")
        result = Outcome(Reason.ERROR, outcome.brief(f"{type(error).__name__}: {error}", secrets))
    outcome.write(result, options.termination_log)
    return result


def weights(options: argparse.Namespace, environment: Environment) -> Outcome:
    """The job itself; raises Failure."""
    order = Order(
        source=options.source,
        revision=options.revision,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        verify=options.verify,
        parallel=options.parallel,
        attempts=options.attempts,
    )
    if urlsplit(order.source).scheme in MOUNTED:
        marker = mounted.verified(order, options.dest, log.info)
    elif options.origin:
        marker = download(
            order, FineTunedSource(options.origin, options.promised), ModelDirectory(options.dest), log.info
        )
    else:
        with Egress(allow_private=options.allow_private) as egress:
            os.environ.update(egress.environment())
            source = Guarded(source_of(order, environment, endpoint=options.endpoint, proxy=egress.url), egress)
            marker = download(order, source, ModelDirectory(options.dest), log.info)
    return _complete(marker, options.expect_digest)


def source_of(order: Order, environment: Environment, *, endpoint: str | None, proxy: str) -> Source:
    """The source that the URI names. The clients' modules are imported here: each is heavy and one is needed."""
    url = urlsplit(order.source)
    where, path = url.netloc, url.path.strip("/")
    if url.scheme == "hf" and re.fullmatch(r"[\w.-]+", where) and re.fullmatch(r"[\w.-]+", path):
        from llmops_serving.jobs.weights.sources.hub import HubSource  # noqa: PLC0415

        mirror = endpoint or environment.get("HF_ENDPOINT")
        token = environment.get("HF_TOKEN")
        return HubSource(f"{where}/{path}", order.revision, endpoint=mirror, token=token, proxy=proxy)
    if url.scheme in ("http", "https") and url.hostname:
        from llmops_serving.jobs.weights.sources.web import WebSource  # noqa: PLC0415

        return WebSource(order.source, token=environment.get("HTTP_TOKEN"), proxy=proxy)
    if url.scheme in ("s3", "gs", "az") and where:
        from llmops_serving.jobs.weights.sources import objects  # noqa: PLC0415

        place = f"{url.scheme}://{where}/{path}"
        if url.scheme == "s3":
            store = objects.s3(where, environment, endpoint=endpoint, proxy=proxy)
            return objects.ObjectSource(store, place, path, proxy=proxy)
        if url.scheme == "gs":
            return objects.ObjectSource(objects.gcs(where, environment, proxy=proxy), place, path, proxy=proxy)
        container = objects.azure(where, environment, endpoint=endpoint, proxy=proxy)
        return objects.ObjectSource(container, place, path, proxy=proxy)
    raise Failure(Reason.SOURCE_INVALID, f"{order.source!r} is not hf://ORG/NAME, s3://BUCKET/PREFIX, http(s)://, ...")


def _complete(marker: Marker, expected_digest: str) -> Outcome:
    if expected_digest and marker.digest != expected_digest:
        message = f"The model's digest is {marker.digest}, expected {expected_digest}."
        raise Failure(Reason.CHECKSUM_MISMATCH, message)
    log.info("complete", revision=marker.revision, digest=marker.digest, bytes=marker.bytes, files=len(marker.files))
    message = f"{len(marker.files)} files, {marker.bytes} bytes, verified."
    return Outcome(Reason.COMPLETE, message, marker.revision, marker.digest, marker.bytes, len(marker.files))


def _interrupted(*_: object) -> NoReturn:
    raise Failure(Reason.DOWNLOADING, "Interrupted; the next run continues where this one stopped.")


def run() -> NoReturn:
    os.umask(0o022)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ["HOME"] = os.environ["HF_HOME"] = "/tmp"  # noqa: S108 - the pod's only other writable place
    code = main(sys.argv[1:], dict(os.environ)).exit_code
    sys.stdout.flush()
    os._exit(code)  # a thread may be asleep in a back-off; nothing on disk waits for it


if __name__ == "__main__":
    run()
