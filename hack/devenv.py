"""The environment for development: `python3 -m hack.devenv DIRECTORY`, every package from its hash."""

import subprocess
import sys
from pathlib import Path

from hack.images.places import LOCKS, ROOT
from hack.images.venv import uv


def main() -> None:
    """Make it anew; uv's cache makes that a matter of seconds."""
    target = Path(sys.argv[1])
    python = str(target / "bin" / "python")
    for command in (
        ("venv", "--quiet", "--clear", "--python", sys.executable, str(target)),
        ("pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(LOCKS / "dev.txt")),
        ("pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", str(ROOT)),
    ):
        subprocess.run([uv(), *command], check=True)


if __name__ == "__main__":
    main()
