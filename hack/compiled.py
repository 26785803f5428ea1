"""The gateway's data path as machine code: `python3 -m hack.compiled [DIRECTORY]` prints where it is.

mypyc translates the modules that see every request to C; they stay ordinary Python, and run as that wherever nobody
has compiled them. The result is a folder to put in front of, or in place of, `serving/` on PYTHONPATH. Needs mypy,
setuptools, a C compiler and Python's headers; `DIRECTORY` defaults to one in the cache, named by its content.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from hack.images.places import CACHE, ROOT

GATEWAY = "llmops_serving/gateway"
MODULES = (
    "affinity", "answers", "audit", "chunks", "exchange", "gateway", "heads", "http1", "keys", "lane", "ledger",
    "limits", "load", "metrics", "peek", "proxy", "relay", "route", "table", "trace", "upstream", "usage",
)  # fmt: skip
PACKAGES = ("serving/llmops_serving", "operator/llmops")


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
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
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
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            content.update(file.read_bytes())
    return content.hexdigest()[:12]


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1]).absolute() if sys.argv[1:] else None))
