"""The lock files, written from pyproject.toml and the `.in` files beside them; what is locked stays at its version."""

from __future__ import annotations

import subprocess

from hack.images.places import LOCKS, ROOT
from hack.images.venv import uv

STYLE = ("--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header")
PROJECT = str(ROOT / "pyproject.toml")
ENGINE = (
    *("--override", str(LOCKS / "engine-overrides.txt"), "--excludes", str(LOCKS / "engine-excludes.txt")),
    str(LOCKS / "engine.in"),
)
EVERY_EXTRA = ("--extra", "operator", "--extra", "cli", "--extra", "gateway", "--extra", "jobs")
# In this order: the trainer's versions are bound by the engine's.
CONTENT = {
    "builder": (str(LOCKS / "builder.in"),),
    "operator": (PROJECT, "--extra", "operator"),
    "serving": (PROJECT, "--extra", "gateway", "--extra", "jobs"),
    "dev": (PROJECT, "--group", "dev", *EVERY_EXTRA),
    "compiler": (str(LOCKS / "compiler.in"), "--constraint", str(LOCKS / "dev.txt")),
    "engine": ENGINE,
    "trainer": (*ENGINE, str(LOCKS / "trainer.in"), "--constraint", str(LOCKS / "engine.txt")),
}


def write() -> None:
    """Write every lock anew, adding what is new and dropping what is gone."""
    for name, content in CONTENT.items():
        target = str(LOCKS / f"{name}.txt")
        compiling = [uv(), "pip", "compile", "--quiet", *STYLE, "--no-emit-index-url", *content, "-o", target]
        subprocess.run(compiling, check=True)
