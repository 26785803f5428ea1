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
    comparison.add_argument("--mib", type=int, default=1024, help="size of the synthetic base without --models")
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
    real = options.models is not None
    chosen = models.given(options.models) if real else models.synthetic(CACHE / f"synthetic-{options.mib}", options.mib)
    try:
        figures = compare.compare(chosen, options.scratch, repeats=options.repeats)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
    print(json.dumps({"weights": "given" if real else "SYNTHETIC", **figures}, indent=1))


if __name__ == "__main__":
    main()
