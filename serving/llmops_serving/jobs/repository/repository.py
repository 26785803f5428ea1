"""An opened repository: its header, keys, points and blobs. Everything above reads and writes through this."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from llmops_serving.jobs.repository import codecs
from llmops_serving.jobs.repository.crypto import MASTER_BYTES, Keys, unwrapped, wrapped
from llmops_serving.jobs.repository.errors import (
    Damaged,
    KeyWrong,
    Missing,
    NotARepository,
    PointExists,
    PointNotFound,
    RepositoryError,
)
from llmops_serving.jobs.repository.format import (
    COPY,
    FORMAT,
    HEADER,
    NAME,
    POINT,
    Blob,
    Manifest,
    PointRef,
    manifest_of,
    manifest_value,
    packed,
    parsed_ref,
    unpacked,
)
from llmops_serving.jobs.repository.target import Stored, Target

GRACE_SECONDS: Final = 24 * 3600
Memory = Callable[[int], codecs.Bytes]


@dataclass(frozen=True, slots=True)
class Header:
    """What is stored in the clear. Part of every wrapped key's authenticated data, so that it cannot be changed."""

    id: str
    grace_seconds: float
    raw: bytes


class Repository:
    """Open one with `Repository.open` or `Repository.open_or_create`; several processes may use it at once."""

    def __init__(self, target: Target, header: Header, keys: Keys) -> None:
        self.target = target
        self.header = header
        self.keys = keys

    @classmethod
    def open(cls, target: Target, secret: bytes) -> Repository:
        """The repository at `target`.

        Raises:
            NotARepository: there is none. KeyWrong: it has another key. Damaged: header and copy are both unusable.
        """
        problems: list[RepositoryError] = []
        for place in ("", COPY):
            try:
                header = _header(target.get(place + HEADER))
                return cls(target, header, Keys(_master(target, header, secret)))
            except (Damaged, KeyWrong, NotARepository) as problem:
                problems.append(problem)
        worst = min(problems, key=_gravity)
        if all(isinstance(problem, Missing) for problem in problems):
            if any(True for _ in target.list("points")):
                raise Damaged(f"{target.url}: the repository's header is missing", [HEADER])
            raise NotARepository(f"{target.url}: there is no repository here")
        raise worst

    @classmethod
    def open_or_create(cls, target: Target, secret: bytes, *, grace_seconds: float = GRACE_SECONDS) -> Repository:
        """Open, or create where there is none. Of several that create at once one wins and the others open its."""
        try:
            return cls.open(target, secret)
        except NotARepository:
            identity = secrets.token_hex(8)
            value = {"format": FORMAT, "kind": "llmops-weights", "id": identity, "graceSeconds": grace_seconds}
            raw = json.dumps(value, sort_keys=True).encode()
            master = secrets.token_bytes(MASTER_BYTES)
            key_object = f"keys/{identity}-{secrets.token_hex(4)}"
            box = wrapped(master, secret, bound_to=raw)
            for place in (key_object, COPY + key_object):
                target.put(place, box)
            target.settle([key_object, COPY + key_object])
            if target.create(HEADER, raw):
                target.put(COPY + HEADER, raw)
                target.settle([HEADER, COPY + HEADER])
            else:
                target.delete([key_object, COPY + key_object])
            return cls.open(target, secret)

    def rotate(self, new_secret: bytes) -> None:
        """Wrap the master key with `new_secret` and forget every other Secret. Blobs stay as they are."""
        old = [stored.name for stored in self.target.list("keys")]
        name = f"keys/{self.header.id}-{secrets.token_hex(4)}"
        box = wrapped(self.keys.master, new_secret, bound_to=self.header.raw)
        self.target.put(name, box)
        self.target.put(COPY + name, box)
        self.target.settle([name, COPY + name])
        self.target.delete(old + [COPY + name for name in old])

    # -- records: small, sealed, twice where their loss would lose a point

    def write_record(self, name: str, value: Any) -> None:
        self.target.put(name, self.keys.seal_record(name, packed(value)))

    def read_record(self, name: str) -> Any:
        """The record's value.

        Raises:
            Missing, Damaged.
        """
        return unpacked(self.keys.open_record(name, self.target.get(name)))

    def read_either(self, name: str) -> Any:
        """The value of a record that is stored twice, from its copy where the original is unusable.

        Raises:
            Missing: neither is there. Damaged: neither is usable.
        """
        problems: list[Damaged] = []
        for place in ("", COPY):
            try:
                return unpacked(self.keys.open_record(name, self.target.get(place + name)))
            except Damaged as problem:
                problems.append(problem)
        raise min(problems, key=_gravity)

    def points(self) -> list[PointRef]:
        """Every point, oldest first within a name; one whose manifest is lost but has its copy counts."""
        return sorted((self.marked("points") | self.marked(COPY + "points")) - self.marked("dropped"))

    def marked(self, folder: str) -> set[PointRef]:
        """The points that have an object below `folder`: `verified`, `holds`, `dropped`, ..."""
        found = (_ref(stored.name.removeprefix(folder + "/")) for stored in self.target.list(folder))
        return {ref for ref in found if ref}

    def manifest(self, ref: PointRef) -> Manifest:
        """The manifest of a point, from its copy where the original is unusable.

        Raises:
            PointNotFound: neither is there. Damaged: neither is usable.
        """
        try:
            manifest = manifest_of(self.read_either(ref.object))
        except Missing as problem:
            raise PointNotFound(f"there is no point {ref}") from problem
        except Damaged as problem:
            raise Damaged(f"{ref}: the manifest cannot be read: {problem}", [ref.object]) from problem
        if manifest.ref != ref:
            raise Damaged(f"{ref}: the manifest is that of {manifest.ref}", [ref.object])
        return manifest

    def commit(self, manifest: Manifest) -> bool:
        """Make the point exist; False when another writer took its name first.

        The copy comes after: it may be absent after a crash and is put back by the next collection, while a copy alone
        means that a manifest was lost.

        Raises:
            PointExists: it was dropped so lately that its name is still in the way.
        """
        name = manifest.ref.object
        if manifest.ref in self.marked("dropped"):
            raise PointExists(f"{manifest.ref} was dropped lately; take another name")
        sealed = self.keys.seal_record(name, packed(manifest_value(manifest)))
        if not self.target.create(name, sealed):
            return False
        self.target.settle([name])
        self.target.put(COPY + name, sealed)
        self.target.settle([COPY + name])
        return True

    def find(self, text: str) -> PointRef:
        """`NAME@POINT` as it stands; `NAME` as its newest verified point, else, where none is verified, the newest.

        Raises:
            PointNotFound: there is none.
        """
        name, point = parsed_ref(text)
        mine = [ref for ref in self.points() if ref.name == name and point in ("", ref.point)]
        if not mine:
            raise PointNotFound(f"there is no point {text}")
        verified = self.marked("verified")
        return max((ref for ref in mine if ref in verified), default=mine[-1])

    # -- blobs

    def objects(self) -> Iterator[tuple[Blob, Stored]]:
        for stored in self.target.list("blobs"):
            yield Blob(stored.name.rsplit("/", 1)[-1]), stored

    def condemned(self) -> dict[str, tuple[Stored, list[str]]]:
        """The lists of objects that a collection will delete: list name -> (the list, object names).

        Raises:
            Damaged: a list and its copy are unusable; nobody may then refer to any older object or delete one.
        """
        found: dict[str, tuple[Stored, list[str]]] = {}
        for stored in self.target.list("condemned"):
            try:
                found[stored.name] = (stored, list(self.read_either(stored.name)))
            except Missing:
                continue  # carried out since the listing
        return found

    def condemn(self, names: list[str]) -> None:
        """Announce that `names` will be deleted: from now on no new point may refer to them."""
        name = f"condemned/{secrets.token_hex(8)}"
        sealed = self.keys.seal_record(name, packed(sorted(names)))
        self.target.put(COPY + name, sealed)  # first, so that a list never stands alone
        self.target.put(name, sealed)

    def damaged(self) -> set[str]:
        """Objects that a check found damaged; their content is stored anew when it comes by again."""
        return {
            f"blobs/{(blob := stored.name.rsplit('/', 1)[-1])[:2]}/{blob}" for stored in self.target.list("damaged")
        }

    def read_exactly(self, blob: Blob, *, rehash: bool = True, memory: Memory = codecs.fresh) -> codecs.Bytes:
        """The plain bytes of this very object, in `memory(bytes)`, checked unless the caller hashes them anyway.

        What happens to stored bytes is seen without: they are authenticated together with their name.

        Raises:
            Missing, Damaged: with the object's name.
        """
        # The base first: reading and opening a blob take this thread's memory.
        base = self.read_blob(blob.base, rehash=rehash, memory=codecs.base_memory) if blob.base else None
        sealed = self.target.get_into(blob.object, self.keys.stored)
        try:
            plain = codecs.decode(self.keys.open_blob(blob.id, sealed), base, memory)
        except Damaged as problem:
            raise Damaged(f"{blob.object}: {problem}", [*problem.findings, blob.object]) from problem
        if rehash and self.keys.blob_key(hashlib.sha256(plain.data).digest()) != blob.key:
            raise Damaged(f"{blob.object}: the content is not what its name says", [blob.object])
        return plain

    def read_blob(self, blob: Blob, *, rehash: bool = True, memory: Memory = codecs.fresh) -> codecs.Bytes:
        """The plain bytes of `blob`, from any object that holds the same content when this one is unusable."""
        try:
            return self.read_exactly(blob, rehash=rehash, memory=memory)
        except Damaged as problem:
            for other in self._others(blob):
                try:
                    return self.read_exactly(other, memory=memory)
                except Damaged:
                    continue
            raise problem from None

    def _others(self, blob: Blob) -> Iterable[Blob]:
        for stored in self.target.list(f"blobs/{blob.id[:2]}"):
            other = Blob(stored.name.rsplit("/", 1)[-1])
            if other.key == blob.key and other != blob:
                yield other


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ref(text: str) -> PointRef | None:
    name, _, point = text.partition("/")
    return PointRef(name, point) if NAME.fullmatch(name) and POINT.fullmatch(point) else None


def _header(raw: memoryview) -> Header:
    try:
        value = json.loads(bytes(raw))
        if value["kind"] != "llmops-weights" or value["format"] != FORMAT:
            raise NotARepository(f"format {value['format']} is not one this version reads")
        return Header(str(value["id"]), float(value["graceSeconds"]), bytes(raw))
    except (ValueError, KeyError, TypeError) as problem:
        raise Damaged("the repository's header does not parse", [HEADER]) from problem


def _master(target: Target, header: Header, secret: bytes) -> bytes:
    """The master key from the first wrapped key that `secret` opens, original or copy."""
    names = {stored.name for stored in target.list("keys")}
    names |= {stored.name.removeprefix(COPY) for stored in target.list(COPY + "keys")}
    problems: list[RepositoryError] = []
    for name in sorted(name for name in names if name.startswith(f"keys/{header.id}-")):
        for place in ("", COPY):
            try:
                return unwrapped(target.get(place + name), secret, bound_to=header.raw)
            except (Damaged, KeyWrong) as problem:
                problems.append(problem)
    if not problems:
        raise Damaged(f"{target.url}: the repository has no key", [f"keys/{header.id}"])
    raise min(problems, key=_gravity)


def _gravity(problem: RepositoryError) -> int:
    """Which of several failures to report: a damaged key says more than a wrong one, a missing copy least."""
    return 2 if isinstance(problem, Missing) else 1 if isinstance(problem, KeyWrong) else 0
