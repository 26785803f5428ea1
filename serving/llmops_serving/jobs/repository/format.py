"""The names and records of a repository, as docs/repository-format.md describes them for readers of other origin."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import zstandard

from llmops_serving.jobs.repository.errors import Damaged, Unsafe

FORMAT: Final = 1
HEADER: Final = "repository"
COPY: Final = "copy/"
ADAPTERS: Final = "adapters/"  # below it, a folder per adapter; all else is the model
RECORD_LIMIT_BYTES: Final = 1 << 30
FILES_LIMIT: Final = 100_000
PATH_LIMIT_BYTES: Final = 1024
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?")
POINT: Final = re.compile(r"\d{8}T\d{6}Z")
BLOB: Final = re.compile(r"[0-9a-f]{40}\.[0-9a-f]{8}(\.[0-9a-f]{40}\.[0-9a-f]{8})?")


@dataclass(frozen=True, slots=True, order=True)
class PointRef:
    """A restore point: `name` says of what, `point` when (UTC, sorts by time)."""

    name: str
    point: str

    @property
    def object(self) -> str:
        return f"points/{self.name}/{self.point}"

    @property
    def taken(self) -> datetime:
        return datetime.strptime(self.point, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    @property
    def source(self) -> str:
        """As a source names it after `backup://`."""
        return f"{self.name}@{self.taken:%Y-%m-%dT%H:%M:%SZ}"

    def __str__(self) -> str:
        return f"{self.name}@{self.point}"


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored object: `KEY.NONCE` when whole, `KEY.NONCE.BASEKEY.BASENONCE` when it is a difference to a base.

    The nonce makes every upload's name its own. A name that garbage collection has condemned is never written again,
    so that a delete on its way cannot hit a fresh upload.
    """

    id: str

    @property
    def object(self) -> str:
        return f"blobs/{self.id[:2]}/{self.id}"

    @property
    def key(self) -> str:
        return self.id[:40]

    @property
    def base(self) -> Blob | None:
        return Blob(self.id[50:]) if len(self.id) > 49 else None

    @classmethod
    def new(cls, key: str, base: Blob | None) -> Blob:
        own = f"{key}.{secrets.token_hex(4)}"
        return cls(f"{own}.{base.id}" if base else own)


@dataclass(frozen=True, slots=True)
class PieceRef:
    """`length` plain bytes that are stored as `blob`; `slot` says which tensors they are."""

    length: int
    stored: int
    blob: Blob
    slot: str = ""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: its pieces in order, or a pointer to where the same bytes can be fetched."""

    path: str
    bytes: int
    sha256: str
    pieces: tuple[PieceRef, ...] = ()
    pointer: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One consistent point. `documents` are the custom resources and ConfigMaps by file name, never a Secret."""

    ref: PointRef
    files: tuple[FileEntry, ...]
    documents: Mapping[str, Any] = field(default_factory=dict)
    locked_until: str = ""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def blobs(self) -> Iterable[Blob]:
        """Every object this point needs, bases included; repeats."""
        for file in self.files:
            for piece in file.pieces:
                yield piece.blob
                if piece.blob.base:
                    yield piece.blob.base

    @property
    def digest(self) -> str:
        """Digest of the model's own files, as the weights job takes it: adapters do not change it."""
        own = sorted((file.path, file.sha256) for file in self.files if not file.path.startswith(ADAPTERS))
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in own)
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def same_content(self, other: Manifest) -> bool:
        return {f.path: f.sha256 for f in self.files} == {f.path: f.sha256 for f in other.files}


def point_id(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def parsed_ref(text: str) -> tuple[str, str]:
    """`NAME` or `NAME@POINT`, the point also in RFC 3339, as (name, point or "").

    Raises:
        Unsafe: it is neither.
    """
    name, _, point = text.removeprefix("backup://").partition("@")
    point = point.replace("-", "").replace(":", "")
    if not NAME.fullmatch(name) or (point and not POINT.fullmatch(point)):
        raise Unsafe(f"{text!r} is not NAME or NAME@POINT")
    return name, point


def safe_path(path: str) -> str:
    """`path` when it is a relative path that stays inside, in its only spelling.

    Raises:
        Unsafe: absolute, with `..`, `.`, an empty part, a backslash or a control character, or too long.
    """
    parts = path.split("/")
    odd = (
        any(part in ("", ".", "..") for part in parts) or "\\" in path or any(ord(c) < 32 or c == "\x7f" for c in path)
    )
    if odd or len(path.encode(errors="surrogatepass")) > PATH_LIMIT_BYTES:
        raise Unsafe(f"refused path {path[:200]!r}")
    return path


def packed(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return zstandard.compress(text.encode(), level=3)


def unpacked(data: bytes) -> Any:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= RECORD_LIMIT_BYTES:
            raise Damaged(f"a record of {size} bytes")
        return json.loads(zstandard.decompress(data))
    except (zstandard.ZstdError, ValueError) as problem:
        raise Damaged("a record does not parse") from problem


def manifest_value(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": manifest.ref.name,
        "point": manifest.ref.point,
        "lockedUntil": manifest.locked_until,
        "documents": dict(manifest.documents),
        "files": [
            {
                "path": file.path,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "pointer": file.pointer,
                "pieces": [[piece.length, piece.stored, piece.blob.id, piece.slot] for piece in file.pieces],
            }
            for file in manifest.files
        ],
    }


def manifest_of(value: Any) -> Manifest:
    """The manifest, checked: whoever holds the key may still be hostile to the machine that restores.

    Raises:
        Damaged: not a manifest. Unsafe: a path leads out, two files collide, or there are too many.
    """
    try:
        ref = PointRef(str(value["name"]), str(value["point"]))
        if len(value["files"]) > FILES_LIMIT:
            raise Unsafe(f"{len(value['files'])} files; the limit is {FILES_LIMIT}")
        files = tuple(_file(entry) for entry in value["files"])
        documents = dict(value["documents"])
        locked_until = str(value["lockedUntil"])
    except (KeyError, TypeError, ValueError) as problem:
        raise Damaged(f"not a manifest: {problem!r}") from problem
    check_tree([file.path for file in files])
    return Manifest(ref, files, documents, locked_until)


def check_tree(paths: Iterable[str]) -> None:
    """Refuse what could leave the directory, and two paths of which one is the other's folder."""
    listed = list(paths)
    seen = {safe_path(path) for path in listed}
    folders = {"/".join(parts[:end]) for path in seen for parts in [path.split("/")] for end in range(1, len(parts))}
    if len(seen) != len(listed) or seen & folders:
        raise Unsafe("two files of the same path")


def _file(entry: Any) -> FileEntry:
    pieces = tuple(
        PieceRef(int(length), int(stored), Blob(blob), str(slot)) for length, stored, blob, slot in entry["pieces"]
    )
    size = int(entry["bytes"])
    pointer = str(entry["pointer"])
    if any(not BLOB.fullmatch(piece.blob.id) or piece.length <= 0 for piece in pieces):
        raise ValueError("a piece that is none")
    if not pointer and sum(piece.length for piece in pieces) != size:
        raise ValueError(f"the pieces of {entry['path']!r} do not add up")
    return FileEntry(str(entry["path"]), size, str(entry["sha256"]), pieces, pointer)
