"""Images of the project and the environments made from the same locks."""

from __future__ import annotations

import argparse
import subprocess
import sys

from hack.images import build, locks, venv
from hack.images.catalog import CATALOG, PREFIX, Target, in_order, target
from hack.model import place
from hack.model.__main__ import build as build_model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m hack.images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, does in (
        ("build", "build and archive what is missing, then list"),
        ("list", "print name, reference and archive; `-` where the archive is not built"),
    ):
        sub = commands.add_parser(command, help=does)
        sub.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOG)}; all when none is given")
    sub = commands.add_parser("venv", help="make a Python environment on this machine and print its folder")
    sub.add_argument("lock", choices=["engine", "trainer"])
    commands.add_parser("lock", help="write the lock files after a change of dependencies")
    options = parser.parse_args()
    for name in getattr(options, "names", []):
        if name.removeprefix(PREFIX) not in CATALOG:
            parser.error(f"no image is called {name}; there are {', '.join(CATALOG)}")
    return options


def main() -> None:
    options = arguments()
    if options.command == "venv":
        print(venv.ensure(options.lock))
        return
    if options.command == "lock":
        locks.write()
        return
    names = in_order(options.names)
    targets = _built(names) if options.command == "build" else [target(name, model=place.path()) for name in names]
    for image in targets:
        archive = image.archive if image.archive.exists() else "-"
        print(f"{PREFIX}{image.image.name} {image.reference} {archive}")


def _built(names: list[str]) -> list[Target]:
    if any(CATALOG[name].model for name in names):
        build_model()
    try:
        return build.ensure(names, model=place.path())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"{failure.cmd[0]} failed with status {failure.returncode}; its output is above")


if __name__ == "__main__":
    main()
