"""Our repository against restic: same models, same disk, same run, encryption on in both."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import tools
from hack.images import venv
from llmops_serving.jobs.weights.names import MARKER

UNCHANGED_BYTES = 10_000_000_000
KEY = "benchmark-key-0123456789abcdef"
# An image's packages are compiled when it is built; here the first run does that.
PYTHON = {"PYTHONPATH": "operator:serving", "PYTHONDONTWRITEBYTECODE": ""}
ENVIRONMENT = {**os.environ, **PYTHON, "LLMOPS_REPOSITORY_KEY": KEY, "RESTIC_PASSWORD": KEY}
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A finished process: wall-clock seconds, processor seconds, largest resident memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def timed(*command: str, cwd: Path = ROOT) -> Run:
    """Run to the end with a quiet disk before and everything written after; raises when it fails."""
    os.sync()
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with {process.returncode}: {' '.join(command)}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3)


def size_of(folder: Path) -> int:
    return sum(at.stat().st_size for at in folder.rglob("*") if at.is_file())


def job(name: str, scratch: Path, *arguments: str) -> Run:
    common = ("--target", f"file://{scratch}/ours", "--termination-log", str(scratch / "termination-log"))
    return timed(_python(), "-m", f"llmops_serving.jobs.{name}", *common, *arguments)


@functools.cache
def _python() -> str:
    """One with what the jobs' image has, and nothing that slows its start."""
    return str(venv.ensure("serving") / "bin" / "python")


@functools.cache
def _restic() -> str:
    """The one that is installed, else Debian's."""
    return shutil.which("restic") or str(tools.unpacked("restic") / "usr" / "bin" / "restic")


def restic(scratch: Path, *arguments: str, cwd: Path = ROOT) -> Run:
    return timed(_restic(), "--quiet", "--no-cache", "--repo", str(scratch / "restic"), *arguments, cwd=cwd)


def disk_write_mb_per_s(scratch: Path, size: int) -> float:
    """Sequential write of incompressible bytes, flushed."""
    block = os.urandom(8 << 20)
    started = time.monotonic()
    with (scratch / "disk").open("wb", buffering=0) as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.monotonic() - started
    (scratch / "disk").unlink()
    return size / seconds / 1e6


def compare(models: list[Path], scratch: Path, *, repeats: int) -> dict[str, object]:
    """All figures. First backups and restores are repeated with the two tools in turn; the best of each counts."""
    big = models[0]
    big_bytes = size_of(big)
    first: dict[str, list[Run]] = {"ours": [], "restic": []}
    back: dict[str, list[Run]] = {"ours": [], "restic": []}
    disk: list[float] = []
    for _ in range(repeats):
        _fresh(scratch)
        disk.append(disk_write_mb_per_s(scratch, min(big_bytes, 1 << 30)))
        first["ours"].append(job("backup", scratch, "--name", "base", "--cache", str(scratch / "cache"), str(big)))
        restic(scratch, "init", "--repository-version", "2")
        first["restic"].append(restic(scratch, "backup", ".", cwd=big))
        _forget(scratch)
        back["ours"].append(job("restore", scratch, "base", str(scratch / "out" / "ours")))
        back["restic"].append(restic(scratch, "restore", "latest", "--target", str(scratch / "out" / "restic")))
        for tool in ("ours", "restic"):
            # Ours leaves a marker that says which point it is.
            if subprocess.run(["diff", "-r", "-x", MARKER, big, scratch / "out" / tool], check=False).returncode:
                raise SystemExit(f"{tool} did not restore what was backed up")
        shutil.rmtree(scratch / "out")
    runs = [*first["ours"], *back["ours"]]
    for model in models[1:]:
        runs.append(job("backup", scratch, "--name", model.name, "--cache", str(scratch / "cache"), str(model)))
        restic(scratch, "backup", ".", cwd=model)
    sources = sum(size_of(model) for model in models)
    # Known files under several names, until they are as many bytes as the figure is about: a process has to start, too.
    copies = -(-UNCHANGED_BYTES // sources)
    roots = [f"{copy}/{model.name}={model}" for copy in range(copies) for model in models]
    unchanged = job("backup", scratch, "--name", "all", "--cache", str(scratch / "cache"), *roots)
    facts = json.loads((scratch / "termination-log").read_text())
    if facts["new_bytes"]:
        raise SystemExit("an unchanged run stored something")
    runs.append(job("verify", scratch, "--depth", "all"))
    ours, theirs = size_of(scratch / "ours"), size_of(scratch / "restic")
    best = {(verb, tool): min(run.seconds for run in table[tool])
            for verb, table in (("backup", first), ("restore", back)) for tool in table}  # fmt: skip
    # By round: a disk that others use, too, is three times as fast at one moment as at another.
    shares = [big_bytes / run.seconds / 1e6 / speed for run, speed in zip(back["ours"], disk, strict=True)]
    version = subprocess.run([_restic(), "version"], check=True, capture_output=True, text=True).stdout.strip()
    return {
        "peer": version,
        "models": [model.name for model in models],
        "source_bytes": sources,
        "big_file_bytes": big_bytes,
        "disk_write_mb_per_s": [round(speed) for speed in disk],
        "backup_mb_per_s": {tool: round(big_bytes / best["backup", tool] / 1e6) for tool in first},
        "backup_times_restic": round(best["backup", "restic"] / best["backup", "ours"], 2),
        "backup_cpu_seconds": {tool: round(min(run.cpu_seconds for run in first[tool]), 2) for tool in first},
        "restore_mb_per_s": {tool: round(big_bytes / best["restore", tool] / 1e6) for tool in back},
        "restore_times_restic": round(best["restore", "restic"] / best["restore", "ours"], 2),
        "restore_of_disk_write": [round(share, 2) for share in shares],
        "restore_cpu_seconds": {tool: round(min(run.cpu_seconds for run in back[tool]), 2) for tool in back},
        "stored_bytes": {"ours": ours, "restic": theirs},
        "stored_of_restic": round(ours / theirs, 3),
        "stored_of_source": {"ours": round(ours / sources, 3), "restic": round(theirs / sources, 3)},
        "unchanged_bytes": copies * sources,
        "unchanged_seconds_per_10_gb": round(unchanged.seconds / (copies * sources) * UNCHANGED_BYTES, 2),
        "unchanged_seconds": {"process": round(unchanged.seconds, 2), "work": round(facts["seconds"], 3)},
        "peak_mb": round(max(run.peak_mb for run in runs)),
    }


def _forget(scratch: Path) -> None:
    """Out of the page cache with both repositories: who restores has not just backed up."""
    os.sync()
    for at in scratch.rglob("*"):
        if at.is_file():
            with at.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fresh(scratch: Path) -> None:
    for name in ("ours", "restic", "cache", "out"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
