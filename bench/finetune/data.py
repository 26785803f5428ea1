"""Rows whose lengths have a long tail, as conversations have them: most are short, some fill the context."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from hack.model.corpus import lessons

MEDIAN_WORDS, SIGMA, MOST_WORDS = 28, 1.1, 520  # of a log-normal distribution, of question and of answer


def write(place: Path, rows: int, *, seed: int = 1) -> None:
    """`rows` conversations out of Python's documentation."""
    chance = random.Random(seed)
    words = [word for lesson in lessons() for word in lesson.answer.split()]
    with place.open("w", encoding="utf-8") as out:
        for number in range(rows):
            turns = ({"role": role, "content": text} for role, text in _turns(chance, words, number))
            out.write(json.dumps({"messages": list(turns)}) + "\n")


def _turns(chance: random.Random, words: list[str], number: int) -> Iterator[tuple[str, str]]:
    for role in ("user", "assistant"):
        length = min(MOST_WORDS, max(3, round(chance.lognormvariate(0, SIGMA) * MEDIAN_WORDS)))
        begin = chance.randrange(len(words) - length)
        yield role, f"{number}: " + " ".join(words[begin : begin + length])
