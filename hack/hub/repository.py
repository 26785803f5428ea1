"""Directories as model repositories: content-derived commits, git blob ids, LFS digests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

LFS_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".tar",
    ".gz",
)
LFS_FROM_BYTES = 10 * 1024 * 1024
SETTINGS = ".hub.json"  # {"private": bool, "gated": bool}, not served


@dataclass(frozen=True)
class Blob:
    """One file: git's blob id, and the LFS digest where it is stored as LFS."""

    path: str
    file: Path
    size_bytes: int
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Tree:
    """The files of one commit; the commit's id is derived from them, so equal content is an equal commit."""

    commit: str
    blobs: dict[str, Blob]


@dataclass(frozen=True)
class Repository:
    """`root/<org>/<name>/` is the branch main; `root/<org>/<name>@<ref>/` is any other branch or tag."""

    repo_id: str
    refs: dict[str, Path]
    private: bool = False
    gated: bool = False
    trees: dict[str, Tree] = field(default_factory=dict, compare=False)

    def tree(self, revision: str) -> Tree | None:
        """By branch, tag or full commit id; None when there is no such revision."""
        if revision in self.refs:
            return _tree(self.refs[revision])
        return next((tree for tree in map(_tree, self.refs.values()) if tree.commit == revision), None)


def find(root: Path, repo_id: str) -> Repository | None:
    """The repository by id, or None; an id that would leave `root` is none."""
    org, _, name = repo_id.partition("/")
    if not org or not name or {org, name} & {".", ".."} or "/" in name or "@" in name:
        return None
    main = root / org / name
    others = {path.name.split("@", 1)[1]: path for path in sorted((root / org).glob(f"{name}@*")) if path.is_dir()}
    refs = ({"main": main} if main.is_dir() else {}) | others
    if not refs:
        return None
    settings = json.loads((main / SETTINGS).read_text()) if (main / SETTINGS).is_file() else {}
    return Repository(repo_id, refs, private=settings.get("private", False), gated=settings.get("gated", False))


def _tree(directory: Path) -> Tree:
    blobs: dict[str, Blob] = {}
    for file in sorted(path for path in directory.rglob("*") if path.is_file() and path.name != SETTINGS):
        stat = file.stat()
        path = file.relative_to(directory).as_posix()
        oid, sha256 = _digests(file, stat.st_size, stat.st_mtime_ns)
        lfs = file.suffix in LFS_SUFFIXES or stat.st_size >= LFS_FROM_BYTES
        blobs[path] = Blob(path, file, stat.st_size, oid, sha256 if lfs else None)
    listing = "".join(f"{blob.oid} {path}\n" for path, blob in blobs.items())
    return Tree(hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest(), blobs)


@lru_cache(maxsize=65536)
def _digests(file: Path, size_bytes: int, modified_ns: int) -> tuple[str, str]:  # noqa: ARG001 - the time is a cache key
    git = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    sha256 = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            git.update(chunk)
            sha256.update(chunk)
    return git.hexdigest(), sha256.hexdigest()
