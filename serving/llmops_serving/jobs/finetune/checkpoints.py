"""Checkpoints that are whole or not there: every file with its sha256, a manifest last, one rename.

A kill before the rename leaves a partial directory, which the next run removes; a kill or a power cut that damages a
file of the newest one leaves a manifest that does not verify, and the one before it is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)")


class Checkpoints:
    """The checkpoints of one job, by step."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def seal(self, folder: Path, step: int) -> Path:
        """Take over a finished directory as the checkpoint of `step`: durable and whole when this returns."""
        return sealed(folder, self.at(step))

    def at(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.root / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first; whether each verifies is not asked."""
        if not self.root.is_dir():
            return []
        return sorted(int(found[1]) for path in self.root.iterdir() if (found := _NAME.fullmatch(path.name)))

    def newest(self) -> tuple[int, Path] | None:
        """The newest checkpoint whose every file is as it was written; damaged ones are passed over."""
        for step in reversed(self.steps()):
            if verified(self.at(step)):
                return step, self.at(step)
        return None

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the newest `keep` and the best one."""
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.at(step), ignore_errors=True)


def sealed(folder: Path, place: Path) -> Path:
    """Move a finished directory to `place`, in the place of what was there: durable and whole when this returns."""
    manifest = {path.relative_to(folder).as_posix(): _synced(path) for path in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), encoding="utf-8")
    _synced(folder / MANIFEST)
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_directory(inner)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)
    sync_directory(place.parent)
    return place


def verified(folder: Path) -> bool:
    """Whether the directory holds exactly what its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)}
    except (OSError, ValueError):
        return False
    return bool(manifest) and manifest == found


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)


def _synced(path: Path) -> str:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return sha256_of(path)
