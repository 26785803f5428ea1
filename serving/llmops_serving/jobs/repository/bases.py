"""Which stored tensors a piece is best stored as a difference to, and what is stored already.

Only what is stored whole can be a base (depth 1): a lost base then costs its own differences and nothing further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmops_serving.jobs.repository import codecs
from llmops_serving.jobs.repository.codecs import Bytes
from llmops_serving.jobs.repository.errors import Damaged
from llmops_serving.jobs.repository.format import Blob, Manifest, PointRef
from llmops_serving.jobs.repository.pieces import Piece
from llmops_serving.jobs.repository.repository import Repository

LEAST_BYTES: Final = 64 << 10  # below this, fetching the base costs more than the bytes are worth
PROBES: Final = 4  # pieces of a file on which candidates are compared
CANDIDATES: Final = 4
CLEARLY: Final = 0.5  # a difference this small ends the search
GAIN: Final = 0.95  # a difference must at least be this much smaller to be worth reading two blobs on restore


class Index:
    """Content key -> an object that a new point may refer to: present, not condemned, and its base as well."""

    def __init__(self, repository: Repository) -> None:
        condemned = {name for _, names in repository.condemned().values() for name in names} | repository.damaged()
        present = {blob: stored.bytes for blob, stored in repository.objects() if blob.object not in condemned}
        self.stored: dict[Blob, int] = present
        self._by_key: dict[str, Blob] = {}
        for blob in present:
            if blob.base and blob.base not in present:
                continue
            if blob.base is None or blob.key not in self._by_key:
                self._by_key[blob.key] = blob

    def find(self, key: str) -> Blob | None:
        return self._by_key.get(key)

    def add(self, blob: Blob, stored_bytes: int) -> None:
        self.stored[blob] = stored_bytes
        self._by_key[blob.key] = blob


Table = Mapping[str, Blob]  # slot -> whole blob


@dataclass
class Bases:
    """Candidate points, best first; `favourite` is the one that won for an earlier file of this backup."""

    repository: Repository
    tables: Sequence[Table]
    favourite: Table | None = field(default=None)

    @classmethod
    def of(cls, repository: Repository, index: Index, *, name: str, declared: PointRef | None) -> Bases:
        """The declared base first, then the newest point of this name, then the newest of every other name."""
        newest: dict[str, PointRef] = {}
        for ref in repository.points():
            newest[ref.name] = ref
        others = sorted((ref for ref in newest.values() if ref.name != name), key=lambda ref: ref.point, reverse=True)
        wanted = [declared, newest.get(name), *others]
        tables: list[Table] = []
        for ref in dict.fromkeys(ref for ref in wanted if ref):
            try:
                table = _table(repository.manifest(ref), index)
            except Damaged:
                continue  # verify reports it; a backup can do without this base
            if table and table not in tables:
                tables.append(table)
        return cls(repository, tables)

    def choose(self, pieces: Sequence[Piece], read: Callable[[Piece], Bytes]) -> Table:
        """The candidate to which this file differs least, judged on a few pieces; empty when none is worth it."""
        slots = {piece.slot: piece.length for piece in pieces if piece.slot}
        total = sum(slots.values())
        ranked = sorted(self.tables, key=lambda table: -_covered(table, slots))
        ranked = [table for table in ranked[:CANDIDATES] if _covered(table, slots) * 2 >= total > 0]
        if self.favourite is not None and self.favourite in ranked:
            return self.favourite
        probes = _spread([piece for piece in pieces if piece.slot and piece.length >= LEAST_BYTES])
        best: Table = {}
        best_ratio = GAIN
        for table in ranked:
            ratio = self._ratio(table, probes, read)
            if ratio < best_ratio:
                best, best_ratio = table, ratio
            if ratio < CLEARLY:
                break
        self.favourite = best or self.favourite
        return best

    def _ratio(self, table: Table, probes: Sequence[Piece], read: Callable[[Piece], Bytes]) -> float:
        """Stored bytes as a difference over stored bytes alone, on the probes that the table has."""
        alone = against = 0.0
        for piece in probes:
            if blob := table.get(piece.slot):
                plain = read(piece)
                alone += codecs.guess(plain, width=piece.width).ratio * piece.length
                mixed = codecs.xor(plain, self.repository.read_blob(blob))
                against += codecs.guess(mixed, width=piece.width, xored=True).ratio * piece.length
        return against / alone if alone else 1.0


def _table(manifest: Manifest, index: Index) -> Table:
    usable: dict[str, Blob] = {}
    for file in manifest.files:
        for piece in file.pieces:
            whole = piece.blob.base or piece.blob
            if piece.slot and piece.length >= LEAST_BYTES and whole in index.stored:
                usable[piece.slot] = whole
    return usable


def _covered(table: Table, slots: Mapping[str, int]) -> int:
    return sum(length for slot, length in slots.items() if slot in table)


def _spread(pieces: Iterable[Piece]) -> list[Piece]:
    """A few pieces from all over the file: first and last layers of a fine-tune move differently."""
    listed = list(pieces)
    step = max(1, len(listed) // PROBES)
    return listed[step // 2 :: step][:PROBES]
