"""`python3 -m hack.model build`: make the small model unless it is in the cache, and print its folder."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from hack.images import venv
from hack.images.places import ROOT
from hack.model import place
from hack.model.once import made


def build() -> None:
    """Train in the engine's environment, unless somebody did."""
    made(place.path(), _train)


def _train(folder: Path) -> None:
    python = venv.ensure("engine") / "bin" / "python"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PYTHONHASHSEED": "0",
        "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits for the other one leaves its core to whoever has work
    }
    command = [str(python), "-m", "hack.model.train", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m hack.model", description=__doc__)
    parser.add_argument("command", choices=["build", "path"], help="build it if needed, or only say where it would be")
    if parser.parse_args().command == "build":
        build()
    print(place.path())


if __name__ == "__main__":
    main()
