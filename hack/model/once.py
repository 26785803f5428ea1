"""A folder that is made once, however many processes want it and whenever one of them is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from hack.locked import locked


def made(target: Path, make: Callable[[Path], object]) -> Path:
    """`target`, filled by `make(folder)` unless it is there: it gets its name when it is complete."""
    if target.exists():
        return target
    with locked(target.parent / f".{target.name}.lock"):
        if not target.exists():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(target)
    return target
