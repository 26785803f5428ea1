"""`python -m llmops_serving.jobs.gc --target URL --keep-last 7`: retention, then garbage collection."""

from __future__ import annotations

import argparse
import os
import sys

from llmops.judge.retention import Policy
from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.collect import collect
from llmops_serving.jobs.repository.format import PointRef, parsed_ref


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.gc", __doc__ or "")
    say = parser.add_argument
    say("--name", default="", help="apply retention to this name only; to every name when absent")
    for rule in ("last", "daily", "weekly", "monthly", "yearly"):
        say(f"--keep-{rule}", type=int, default=0)
    say("--deployed", action="append", default=[], metavar="NAME@POINT", help="serving now, so never dropped")
    say("--held", action="append", default=[], metavar="NAME@POINT", help="never dropped, as if it were held here")
    say("--dry-run", action="store_true")
    return parser


def main(options: argparse.Namespace, secret: bytes) -> job.Outcome:
    repository = job.opened(options, secret)
    policy = Policy(
        keep_last=options.keep_last,
        daily=options.keep_daily,
        weekly=options.keep_weekly,
        monthly=options.keep_monthly,
        yearly=options.keep_yearly,
    )
    done = collect(
        repository,
        policies={options.name: policy},
        deployed=_points(options.deployed),
        held=_points(options.held),
        dry_run=options.dry_run,
    )
    facts = {
        "dropped": [ref.source for ref in done.dropped[:20]],
        "condemned": done.condemned,
        "deleted": done.deleted,
        "deletedBytes": done.deleted_bytes,
    }
    message = f"{len(done.dropped)} points dropped, {done.deleted} objects deleted, {done.condemned} condemned"
    return job.Outcome("Complete", message, 0, facts)


def _points(given: list[str]) -> list[PointRef]:
    """The points as named: one that is not there any more is no reason to collect nothing."""
    return [PointRef(*parsed_ref(text)) for text in given]


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
