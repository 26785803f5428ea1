"""`python -m llmops_serving.jobs.verify --target URL`: read back what is due and name what is damaged."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta

from llmops_serving.jobs.outcome import EXIT_USER_MUST_ACT
from llmops_serving.jobs.repository import job
from llmops_serving.jobs.repository.verify import verify

NAMED = 10  # findings in the termination message; all are logged


def arguments() -> argparse.ArgumentParser:
    parser = job.parser("llmops_serving.jobs.verify", __doc__ or "")
    say = parser.add_argument
    say("--depth", choices=["structure", "due", "all"], default="due")
    say("--cover", type=job.duration, default=timedelta(days=30), help="every byte is read again within this")
    say("--every", type=job.duration, default=timedelta(days=7), help="how often this runs")
    say("--name", default="", help="whose points are listed in the outcome; all are checked")
    say("--layouts", action="store_true", help="compare safetensors headers with config.json")
    return parser


def main(options: argparse.Namespace, secret: bytes) -> job.Outcome:
    report = verify(
        job.opened(options, secret),
        secret,
        depth=options.depth,
        cover=options.cover,
        every=options.every,
        layouts=options.layouts,
        progress=job.logged_progress(),
    )
    for finding in report.findings:
        job.log.warning("finding", object=finding.object, problem=finding.problem, points=finding.points)
    facts = {
        "points": report.points,
        "verified": [ref.source for ref in report.verified if options.name in ("", ref.name)][-NAMED:],
        "bad": [ref.source for ref in report.bad if options.name in ("", ref.name)][-NAMED:],
        "findings": [f"{finding.object}: {finding.problem}"[:160] for finding in report.findings[:NAMED]],
        "readBytes": report.read_bytes,
    }
    if report.clean:
        return job.Outcome("Complete", f"{report.points} points sound, {report.read_bytes:,} bytes read", 0, facts)
    lost = sum(finding.lost for finding in report.findings)
    named = f": {', '.join(ref.source for ref in report.bad[-3:])}" if report.bad else ""
    message = (
        f"{lost} objects damaged or missing, {len(report.bad)} of {report.points} points cannot be restored{named}"
    )
    return job.Outcome("ChecksumMismatch", message, EXIT_USER_MUST_ACT, facts)


if __name__ == "__main__":
    sys.exit(job.run(main, arguments(), sys.argv[1:], os.environ))
