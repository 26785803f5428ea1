"""`python -m tests.faultproxy [LEG...] [--long]`: do it to the operator and write docs/faults.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faultproxy import page
from tests.faultproxy.legs import absent, away, gone, kopf, leader, poison, soak, specs, storm, watches, writes

LEGS: dict[str, Callable[..., page.Section]] = {
    "serve": writes.serve,
    "tune": writes.tune,
    "backup": writes.back_up,
    "away": away.run,
    "absent": absent.run,
    "watches": watches.run,
    "leader": leader.run,
    "storm": storm.run,
    "gone": gone.run,
    "specs": specs.run,
    "poison": poison.run,
    "soak": soak.run,
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
        try:
            section = LEGS[name](directory, long=arguments.long)
        except Exception:  # noqa: BLE001 - the other legs shall run nevertheless
            print(f"{name} broke off, logs in {directory}\n{traceback.format_exc()}")  # noqa: T201 - the same
            broken += 1
            continue
        seconds = time.monotonic() - begun
        page.write([section], os.getloadavg()[1], seconds)
        broken += len(section.broken)
        print(f"{name}: {seconds:.0f} s, logs in {directory}")  # noqa: T201 - a command for people
        print(section.body, *section.broken, sep="\n")  # noqa: T201 - the same
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
