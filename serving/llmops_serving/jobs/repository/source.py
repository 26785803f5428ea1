"""What is backed up: the regular files below a directory, and nothing that would be dangerous to bring back."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from llmops_serving.jobs.repository.errors import Unsafe
from llmops_serving.jobs.repository.format import FILES_LIMIT, check_tree
from llmops_serving.jobs.weights.names import MARKER, WORK

# What the volume or a download keeps beside the model, and nobody would miss.
BOOKKEEPING: Final = (MARKER, WORK, ".git", ".cache", "lost+found")
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to back up; `stamp` changes when its content does (device, inode, size, mtime and ctime in ns)."""

    path: str
    at: Path
    bytes: int
    stamp: tuple[int, ...]


def scan(roots: Mapping[str, Path], *, allow_pickle: bool = False, without: Collection[Path] = ()) -> list[SourceFile]:
    """The files below each root, under its prefix, in order of path; none below the directories `without`.

    A link to a regular file inside the same root is followed (hub caches are made of them).

    Raises:
        Unsafe: a link that leads out, a device, a pipe, a pickled file, or more files than a point may hold.
    """
    found = []
    for prefix, root in roots.items():
        real = root.resolve(strict=True)
        for at in _walk(real, {place.resolve() for place in without} - {real}):
            path = str(PurePosixPath(prefix, at.relative_to(real).as_posix()))
            found.append(_file(path, at, real))
            if not allow_pickle and is_pickle(path):
                raise Unsafe(f"{path}: a pickled file runs code when it is loaded; use safetensors or allow it")
            if len(found) > FILES_LIMIT:
                raise Unsafe(f"more than {FILES_LIMIT} files below {root}")
    check_tree(file.path for file in found)
    return sorted(found, key=lambda file: file.path)


def is_pickle(path: str) -> bool:
    return path.lower().endswith(PICKLES)


def stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _walk(root: Path, without: Collection[Path]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in BOOKKEEPING and Path(folder, name) not in without]
        names[:] = [name for name in names if name not in BOOKKEEPING]
        for name in (*folders, *names):
            at = Path(folder, name)
            if at.is_symlink() and not at.resolve().is_relative_to(root):
                raise Unsafe(f"{at.relative_to(root)}: a link that leads out of the model's directory")
            if at.is_symlink() and at.is_dir():
                raise Unsafe(f"{at.relative_to(root)}: a link to a directory")
        yield from (Path(folder, name) for name in names)


def _file(path: str, at: Path, root: Path) -> SourceFile:
    try:
        status = at.stat()
    except FileNotFoundError as problem:
        raise Unsafe(f"{at.relative_to(root)}: a link to nothing") from problem
    if not stat.S_ISREG(status.st_mode):
        raise Unsafe(f"{at.relative_to(root)}: not a regular file")
    return SourceFile(path, at, status.st_size, stamp(status))
