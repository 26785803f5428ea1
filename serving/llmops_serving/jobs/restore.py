"""`python -m llmops_serving.jobs.restore --target URL NAME[@POINT] DIR`: a point, checked, as a directory."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.pointer import fetch_from_hub
from llmops_serving.jobs.repository.read import restore


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.restore", __doc__ or "")
    say = parser.add_argument
    say("point", metavar="NAME[@POINT]", help="without POINT, the newest verified one")
    say("destination", type=Path)
    say("--allow-pickle", action="store_true")
    say("--threads", type=int, default=0)
    return parser


def main(options: argparse.Namespace, secret: bytes) -> job.Outcome:
    repository = job.opened(options, secret)
    done = restore(
        repository,
        repository.find(options.point),
        options.destination,
        fetch=fetch_from_hub,
        allow_pickle=options.allow_pickle,
        threads=options.threads,
        progress=job.logged_progress("restoring"),
    )
    return job.complete(f"{done.files} files, {done.bytes:,} bytes, every digest checked, from {done.ref}", done)


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
