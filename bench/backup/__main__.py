"""`python -m bench.backup [compare|faults]`: figures against restic, and what kills and damage do."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from bench.backup import compare, faults, models

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmops" / "bench" / "backup"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb")
    comparison = verbs.add_parser("compare", help="against restic, the one installed or Debian's (the default)")
    comparison.add_argument("--models", type=Path, help="a directory of models, one directory each, `base` among them")
    comparison.add_argument("--synthetic", type=int, metavar="MIB", help="random weights of this size instead")
    comparison.add_argument("--repeats", type=int, default=3)
    comparison.add_argument(
        "--scratch", type=Path, default=CACHE / "scratch", help="on the disk that is to be measured"
    )
    trouble = verbs.add_parser("faults", help="kill real processes, damage stored objects")
    trouble.add_argument("--kills", type=int, default=200)
    trouble.add_argument("--damage", type=int, default=1000)
    trouble.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.verb == "faults":
        # In memory where there is such a place: what is tested is dying processes, and a disk's flushes only cost time.
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
            report: dict[str, object] = {}
            if options.kills:
                report["kills"] = faults.kills(Path(folder), options.kills, seed=options.seed)
            if options.damage:
                report["damage"] = faults.damage(Path(folder), options.damage, seed=options.seed)
        print(json.dumps(report, indent=1))
        return
    if options.verb is None:
        options = comparison.parse_args([])
    kind, chosen = _chosen(options)
    try:
        figures = compare.compare(chosen, options.scratch, repeats=options.repeats)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
    print(json.dumps({"weights": kind, **figures}, indent=1))


def _chosen(options: argparse.Namespace) -> tuple[str, list[Path]]:
    """What is backed up: trained here (some minutes, once), unless told otherwise."""
    if options.models:
        return "given", models.given(options.models)
    if options.synthetic:
        return "SYNTHETIC", models.synthetic(CACHE / f"synthetic-{options.synthetic}", options.synthetic)
    return "trained", models.trained(CACHE / "trained-1g")


if __name__ == "__main__":
    main()
