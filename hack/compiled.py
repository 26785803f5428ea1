"""The gateway's data path as machine code: `python3 -m hack.compiled [DIRECTORY]` prints where it is.

mypyc translates the modules that see every request to C; they stay ordinary Python, and run as that wherever nobody
has compiled them. The result is a folder whose `llmops_serving` holds the gateway alone: to put in place of `serving/`
on PYTHONPATH, or to copy over it. Needs mypy, setuptools, a C compiler and Python's headers; `DIRECTORY` defaults to
one in the cache, named by its content.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from hack.images.places import CACHE, ROOT

GATEWAY = "llmops_serving/gateway"
MODULES = (
    "affinity", "answers", "audit", "chunks", "exchange", "gateway", "heads", "http1", "keys", "lane", "ledger",
    "limits", "load", "metrics", "peek", "proxy", "relay", "route", "table", "trace", "upstream", "usage",
)  # fmt: skip
# The gateway and what it imports; whatever else changes, it need not be compiled again.
SOURCES = (
    "serving/llmops_serving/__init__.py",
    "serving/llmops_serving/gateway",
    "operator/llmops/__init__.py",
    "operator/llmops/names.py",
    "operator/llmops/api/__init__.py",
    "operator/llmops/api/conditions.py",
)


def ensure(directory: Path | None = None) -> Path:
    """The folder with the package `llmops_serving`, compiled unless it has been."""
    target = directory or CACHE / "compiled" / _content()
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _compile(Path(folder))
            Path(folder, "done").mkdir()
            for part in ("llmops_serving", *(path.name for path in Path(folder).glob("*.so"))):
                Path(folder, part).rename(Path(folder, "done", part))
            Path(folder, "done").rename(target)
    return target


def _compile(folder: Path) -> None:
    for file in _sources():
        _, *inside = file.relative_to(ROOT).parts  # operator/ and serving/ are source roots
        copy = folder.joinpath(*inside)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    command = [sys.executable, "-m", "mypyc", "--strict", "--explicit-package-bases"]
    command += ["--python-executable", os.environ.get("LLMOPS_COMPILE_FOR", sys.executable)]
    command += [f"{GATEWAY}/{module}.py" for module in MODULES]
    environment = {**os.environ, "MYPYPATH": str(folder), "MYPYC_DEBUG_LEVEL": "0"}
    finished = subprocess.run(
        command, cwd=folder, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if finished.returncode:
        raise SystemExit(finished.stdout)


def _content() -> str:
    """What decides over the result: the sources, the compilers, the interpreter."""
    content = hashlib.sha256(f"{sys.version} {version('mypy')}".encode())
    for file in _sources():
        content.update(file.read_bytes())
    return content.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    for path in map(ROOT.joinpath, SOURCES):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1]).absolute() if sys.argv[1:] else None))
