"""`python -m tests.faultproxy [LEG...] [--long]`: do it to the operator and write docs/faults.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faultproxy import page
from tests.faultproxy.legs import away, kopf, leader, load, specs, storm, watches, writes

LEGS: dict[str, Callable[..., page.Section]] = {
    "writes": writes.run,
    "away": away.run,
    "watches": watches.run,
    "leader": leader.run,
    "storm": storm.run,
    "specs": specs.run,
    "load": load.run,
    "kopf": kopf.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faultproxy", description=__doc__)
    parser.add_argument("legs", nargs="*", metavar="LEG", help=f"which to run, of {', '.join(LEGS)}; all by default")
    parser.add_argument("--long", action="store_true", help="the counts and times that take hours")
    arguments = parser.parse_args()
    broken = 0
    for name in arguments.legs or LEGS:
        begun = time.monotonic()
        directory = Path(tempfile.mkdtemp(prefix=f"faults-{name}-"))
        section = LEGS[name](directory, long=arguments.long)
        page.write([section], os.getloadavg()[1])
        broken += len(section.broken)
        print(f"{name}: {time.monotonic() - begun:.0f} s, logs in {directory}")  # noqa: T201 - a command for people
        print(section.body, *section.broken, sep="\n")  # noqa: T201 - the same
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
