"""Which rows are trained on and which are held out: by content alone, so that a row stays on its side."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_HELD_OUT, MOST_HELD_OUT = 50, 2000
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def hashed(text: str) -> int:
    """64 bits of a text's content; case and white space do not count."""
    normal = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(normal.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Split:
    """One entry per row.

    Attributes:
        kept: The row is the first of its content.
        held_out: The row is kept for evaluation.
        leaked: How many held-out rows answer a question that is also trained on.
    """

    kept: Mask
    held_out: Mask
    leaked: int


def split(contents: Hashes, questions: Hashes, fraction: float, *, deduplicate: bool = True) -> Split:
    """Drop repeated contents, if wanted, and hold out a part of the rest.

    Rows of one question go to one side, or the evaluation would ask what was just learned; only where nearly all rows
    share one question, they are told apart by content, and the leak is counted.

    Args:
        contents: Hash of each row.
        questions: Hash of what each row answers.
        fraction: Part to hold out, 0 to 1; at least 50 rows (but no more than a fifth) and at most 2000.
        deduplicate: Keep only the first of equal contents.
    """
    kept = np.full(len(contents), not deduplicate)
    kept[np.unique(contents, return_index=True)[1]] = True
    held_out = kept & _chosen(questions, kept, fraction)
    if fraction and not held_out.any():
        held_out = kept & _chosen(contents, kept, fraction)
    return Split(kept, held_out, _leaked(questions, kept, held_out))


def _leaked(questions: Hashes, kept: Mask, held_out: Mask) -> int:
    """Held-out rows whose question is trained on. The few are looked up by the many: sorting the many takes memory."""
    asked, rows = np.unique(questions[held_out], return_counts=True)
    if not len(asked):
        return 0
    trained = questions[kept & ~held_out]
    places = np.searchsorted(asked, trained).clip(max=len(asked) - 1)
    return int(rows[np.unique(places[asked[places] == trained])].sum())


def _chosen(keys: Hashes, kept: Mask, fraction: float) -> Mask:
    """Rows with the smallest keys: those under the fraction of all possible ones, within the bounds."""
    rows = int(kept.sum())
    least, most = (min(LEAST_HELD_OUT, rows // 5), MOST_HELD_OUT) if fraction else (0, 0)
    values, counts = np.unique(keys[kept], return_counts=True)
    total = np.cumsum(counts)
    under = int(np.searchsorted(values, np.uint64(min(int(fraction * 2**64), 2**64 - 1))))
    wanted = int(total[under - 1]) if under else 0
    groups = int(np.searchsorted(total, min(max(wanted, least), most), side="right"))
    if not groups:
        return np.zeros(len(keys), dtype=np.bool_)
    return np.asarray(keys <= values[groups - 1])
