"""What every source of weights offers: a listing at an immutable revision, and each file's bytes from an offset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

Algorithm = Literal["sha256", "git-sha1", "md5"]


@dataclass(frozen=True)
class Expected:
    """The digest that the source vouches for; `git-sha1` is git's blob id, which hashes a header before the bytes."""

    algorithm: Algorithm
    hexdigest: str


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model. `identity` changes when the bytes change; a partial download continues only under the same.

    `path` is what the source says: not to be trusted before `names.checked`. `size_bytes` is None where the source does
    not tell. `key` is the source's own handle.
    """

    path: str
    size_bytes: int | None
    identity: str
    expected: Expected | None = None
    key: str = ""


@dataclass(frozen=True)
class Listing:
    """All files of one revision; `revision` is immutable: a commit, or a digest of what was listed."""

    revision: str
    files: tuple[RemoteFile, ...]
    archive: bool = False  # its one file is a tar archive of the model


@dataclass(frozen=True)
class Body:
    """The bytes of a file from `offset` on: 0 where the server does not do ranges, whatever was asked."""

    offset: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """Errors leave as `Failure`: `Transient` where time may heal, otherwise with the reason that the user acts on."""

    def listing(self, pinned: str | None) -> Listing:
        """What to get; `pinned` is the immutable revision that an interrupted run had resolved, if any."""

    def open(self, file: RemoteFile, offset: int) -> AbstractContextManager[Body]:
        """The file's bytes from `offset` on, while it still is the file that was listed."""

    def vouches(self, file: RemoteFile) -> bool:
        """Whether a difference from `file.expected` proves damage; asked only after one was found."""
