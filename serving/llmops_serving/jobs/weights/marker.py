"""What a download leaves behind: the intent before the first byte, a record per file, the marker after the last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops_serving.jobs.weights.names import MARKER


class Record(BaseModel):
    """A model of ours on disk: read back with None for a file that is missing or does not parse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None  # a record that was cut by a crash counts as never written

    def write(self, path: Path) -> None:
        """Durably and whole: a reader sees the old record or this one, also after a power cut."""
        partial = path.with_name(f"{path.name}.new")
        with partial.open("wb") as stream:
            stream.write(self.model_dump_json().encode())
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
        sync_directory(path.parent)


class Intent(Record):
    """What this directory is becoming; a run that was killed goes on with the same immutable revision."""

    source: str
    requested: str
    revision: str


class Landed(Record):
    """One file in place: its size and sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    path: str
    size_bytes: int = Field(ge=0, alias="bytes")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Done(Record):
    """A file that has landed, and the identity under which the source listed it, for a run that comes back."""

    landed: Landed
    identity: str


class Marker(Record):
    """The completion marker. `digest` is over path and sha256 of every file, so it names the content alone."""

    version: int = 1
    source: str
    requested: str
    revision: str
    digest: str
    bytes: int
    files: tuple[Landed, ...]


def marker(intent: Intent, files: Iterable[Landed]) -> Marker:
    """The marker of these files, in the order of their paths."""
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return Marker(
        source=intent.source,
        requested=intent.requested,
        revision=intent.revision,
        digest=total_digest(ordered),
        bytes=sum(file.size_bytes for file in ordered),
        files=ordered,
    )


def total_digest(files: Iterable[Landed]) -> str:
    """`sha256:` over `sha256sum`'s output in the order of paths, so that anyone can recompute it."""
    text = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def completed(directory: Path) -> Marker | None:
    """The marker, when every file that it names is there with its size; None otherwise."""
    found = Marker.read(directory / MARKER)
    if found is None:
        return None
    for file in found.files:
        try:
            if (directory / file.path).stat().st_size != file.size_bytes:
                return None
        except OSError:
            return None
    return found


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
