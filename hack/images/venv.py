"""Virtual environments on this machine from the same locks as the images: for making the model and for tests."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from hack.images import standins
from hack.images.places import CACHE, LOCKS
from hack.locked import locked

PYTHON = "3.11"


def path(lock: str) -> Path:
    """Where the environment of a lock (`engine`, `trainer`) lies; complete when it holds `.complete`."""
    recipe = (LOCKS / f"{lock}.txt").read_bytes() + Path(standins.__file__).read_bytes() + PYTHON.encode()
    return CACHE / "venvs" / f"{lock}-{hashlib.sha256(recipe).hexdigest()[:12]}"


def ensure(lock: str) -> Path:
    """Make the environment unless it is complete; return its folder. Killed half-way, it is made anew."""
    target = path(lock)
    marker = target / ".complete"
    if marker.exists():
        return target
    with locked(target.parent / f".{target.name}.lock"):
        if not marker.exists():
            _install(lock, target)
            marker.touch()
    return target


def _install(lock: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run([uv(), "venv", "--quiet", "--python", PYTHON, str(target)], check=True)
    python = target / "bin" / "python"
    install = ["pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes"]
    subprocess.run([uv(), *install, "-r", str(LOCKS / f"{lock}.txt")], check=True)
    if "\ntorch==" in (LOCKS / f"{lock}.txt").read_text():
        standins.install(next((target / "lib").glob("python3.*")) / "site-packages")
        subprocess.run([python, "-c", "import torch, vllm"], check=True)


def uv() -> str:
    """uv, which installs from hashes: the one on this machine, else one of our own, from the builder's lock."""
    if found := shutil.which("uv"):
        return found
    lock = LOCKS / "builder.txt"
    home = CACHE / "venvs" / f"builder-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (home / ".complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)], check=True)
        (home / ".complete").touch()
    return str(home / "bin" / "uv")
