"""`python -m llmops_serving.jobs.drill --target URL --name NAME DIR`: restore a random point, check it, time it."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from pathlib import Path

from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.errors import PointNotFound
from llmops_serving.jobs.repository.read import restore
from llmops_serving.jobs.restore import checked, hub_files


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.drill", __doc__ or "")
    say = parser.add_argument
    say("scratch", type=Path, help="emptied before and after")
    say("--name", required=True, help="whose points")
    return parser


def main(options: argparse.Namespace, secret: bytes) -> job.Outcome:
    repository = job.opened(options, secret)
    points = [ref for ref in repository.points() if ref.name == options.name]
    if not points:
        raise PointNotFound(f"there is no point of {options.name} to rehearse with")
    ref = random.choice(points)  # noqa: S311 - any point may be the one that is needed
    place = options.scratch / "restored"
    shutil.rmtree(place, ignore_errors=True)
    try:
        done = restore(
            repository, ref, place, fetch=hub_files(options), approve=checked, progress=job.logged_progress()
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    message = f"{ref.source}: {done.bytes:,} bytes restored in {done.seconds:.0f} s, every digest checked."
    return job.Outcome("Complete", message, 0, {"ref": ref.source, "bytes": done.bytes, "seconds": round(done.seconds)})


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
