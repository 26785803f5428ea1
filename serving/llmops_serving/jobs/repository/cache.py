"""What is known of files before they are read, so that an unchanged model is not: by this machine, or by a point."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops_serving.jobs.repository.errors import Damaged
from llmops_serving.jobs.repository.format import FileEntry
from llmops_serving.jobs.repository.pieces import Piece
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.source import SourceFile

FRESH_NS: Final = 2_000_000_000  # a file written this recently may change again without a new timestamp


@dataclass(frozen=True, slots=True)
class Known:
    """A file's digest, and its pieces with the keys of their content."""

    sha256: str
    pieces: tuple[tuple[Piece, str], ...]


class HashCache:
    """One JSON file per repository, below a directory; losing it costs time only. Any stamp that differs is a miss."""

    def __init__(self, folder: Path | None, repository_id: str) -> None:
        self._at = folder / f"hashes-{repository_id}.json" if folder else None
        self._entries: dict[str, Any] = self._load()

    def find(self, file: SourceFile) -> Known | None:
        entry = self._entries.get(str(file.at))
        if not isinstance(entry, dict) or entry.get("stamp") != list(file.stamp):
            return None
        pieces = tuple((Piece(start, length, width, slot), key) for start, length, width, slot, key in entry["pieces"])
        return Known(entry["sha256"], pieces)

    def remember(self, file: SourceFile, known: Known) -> None:
        if time.time_ns() - max(file.stamp[3:]) < FRESH_NS:
            return
        pieces = [[piece.start, piece.length, piece.width, piece.slot, key] for piece, key in known.pieces]
        self._entries[str(file.at)] = {"stamp": list(file.stamp), "sha256": known.sha256, "pieces": pieces}

    def save(self) -> None:
        """Replace the file at once, so that a killed writer leaves the old one."""
        if self._at is None:
            return
        self._at.parent.mkdir(parents=True, exist_ok=True)
        beside = self._at.with_suffix(f".{os.getpid()}")
        kept = {at: entry for at, entry in self._entries.items() if os.path.exists(at)}  # noqa: PTH110 -- 10,000 of them
        beside.write_text(json.dumps(kept, separators=(",", ":")))
        beside.replace(self._at)

    def _load(self) -> dict[str, Any]:
        try:
            value = json.loads(self._at.read_text()) if self._at else {}
        except (FileNotFoundError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


class Recorded:
    """Files that the newest point of a name has and whoever filled the volume vouches for, by digest."""

    def __init__(self, files: Mapping[str, FileEntry], vouched: Mapping[str, str]) -> None:
        self._files, self._vouched = files, vouched

    @classmethod
    def of(cls, repository: Repository, name: str, vouched: Mapping[str, str]) -> Recorded:
        newest = max((ref for ref in repository.points() if ref.name == name), default=None) if vouched else None
        if newest is None:
            return cls({}, {})
        try:
            return cls({file.path: file for file in repository.manifest(newest).files}, vouched)
        except Damaged:
            return cls({}, {})  # verify reports it; everything is read instead

    def find(self, file: SourceFile) -> Known | None:
        before = self._files.get(file.path)
        if before is None or before.pointer or before.bytes != file.bytes:
            return None
        if self._vouched.get(file.path) != before.sha256:
            return None
        pieces, start = [], 0
        for piece in before.pieces:
            pieces.append((Piece(start, piece.length, 1, piece.slot), piece.blob.key))
            start += piece.length
        return Known(before.sha256, tuple(pieces))
