"""What a row may hold, who is held out, and what a whole data set is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops_serving.jobs.dataset import formats
from llmops_serving.jobs.dataset.check import EVAL, TRAIN, Report, Wanted, checked
from llmops_serving.jobs.dataset.split import hashed, split
from llmops_serving.jobs.ending import Stopped

Json = dict[str, Any]
SECRET = "4111 1111 1111 1111"


def chat(*turns: tuple[Any, Any]) -> Json:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


WRONG: list[tuple[str, formats.Format, Any, str]] = [
    ("not an object", "Text", [SECRET], "is a list of 1, not an object"),
    ("other names", "PromptCompletion", {"question": SECRET}, "lacks prompt, completion of format PromptCompletion"),
    ("a number for a text", "PromptCompletion", {"prompt": 1, "completion": "b"}, "has a number as prompt"),
    ("null for a text", "Text", {"text": None}, "has nothing as text"),
    ("half a character", "Text", {"text": "\ud800"}, "half of a surrogate pair"),
    ("no turns", "Messages", {"messages": []}, "has a list of 0 as messages"),
    ("turns as text", "Messages", {"messages": SECRET}, "has a text of 19 characters as messages"),
    ("a turn as text", "Messages", {"messages": [SECRET]}, "as messages[0], not an object"),
    ("a role nobody has", "Messages", chat(("human", SECRET)), "has a text of 5 characters as messages[0].role"),
    ("no role", "Messages", {"messages": [{"content": SECRET}]}, "has nothing as messages[0].role"),
    ("no content", "Messages", chat(("user", None), ("assistant", "b")), "has nothing as messages[0].content"),
    ("nobody answers", "Messages", chat(("user", SECRET)), "has no assistant turn"),
    ("the user has the last word", "Messages", chat(("assistant", "b"), ("user", SECRET)), "ends with a user turn"),
    ("a late system turn", "Messages", chat(("user", "a"), ("system", SECRET), ("assistant", "b")), "after the first"),
    ("equal preferences", "Preference", {"prompt": "a", "chosen": SECRET, "rejected": SECRET}, "the same text"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_row_is_refused_without_its_values(kind: formats.Format, row: Any, says: str) -> None:
    with pytest.raises(formats.Wrong) as refusal:
        formats.example(row, kind)
    assert says in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_only_what_is_trained_on_is_kept_of_a_row() -> None:
    row = {"id": 7, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "x"},
                                 {"role": "assistant", "content": "b"}]}  # fmt: skip
    assert formats.example(row, "Messages").value == chat(("user", "a"), ("assistant", "b"))


def keys(texts: Iterable[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array([hashed(text) for text in texts], dtype=np.uint64)


SIZES = [(10, 0.05, 2), (100, 0.05, 20), (400, 0.05, 50), (10_000, 0.05, 500), (60_000, 0.05, 2000), (100, 0.0, 0)]


@pytest.mark.parametrize(("rows", "fraction", "expected"), SIZES)
def test_a_part_is_held_out_within_bounds(rows: int, fraction: float, expected: int) -> None:
    texts = keys(str(number) for number in range(rows))
    assert int(split(texts, texts, fraction).held_out.sum()) == pytest.approx(expected, rel=0.1)


def test_a_row_stays_on_its_side_when_the_file_grows() -> None:
    texts = keys(str(number) for number in range(20_000))
    before, after = split(texts[:10_000], texts[:10_000], 0.05), split(texts, texts, 0.05)
    assert (before.held_out == after.held_out[:10_000]).all()


def test_answers_to_one_question_are_on_one_side() -> None:
    questions = keys(str(number // 4) for number in range(4000))
    found = split(keys(str(number) for number in range(4000)), questions, 0.05)
    assert found.held_out.any()
    assert found.leaked == 0
    assert not set(questions[found.held_out]) & set(questions[~found.held_out])


def test_rows_of_one_question_only_are_told_apart_and_counted() -> None:
    found = split(keys(str(number) for number in range(100)), keys(["same"] * 100), 0.05)
    assert int(found.held_out.sum()) == found.leaked == 20


def check(tmp_path: Path, lines: list[Any], **wanted: Any) -> Report:
    (tmp_path / "t.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return checked((tmp_path / "t.jsonl", "t.jsonl"), Wanted(**wanted), None, tmp_path / "data")


def pair(number: int) -> Json:
    return {"prompt": f"question {number}", "completion": f"answer {number}"}


def test_duplicates_and_empty_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [pair(number % 40) for number in range(50)] + [{"prompt": "a", "completion": "  "}]
    report = check(tmp_path, rows)
    assert (report.rows, report.duplicates, report.empty, report.train + report.eval) == (51, 10, 1, 40)
    written = [(tmp_path / "data" / name).read_text().splitlines() for name in (TRAIN, EVAL)]
    assert (len(written[0]), len(written[1])) == (report.train, report.eval) == (32, 8)
    assert not set(written[0]) & set(written[1])


def test_the_same_rows_make_the_same_digest(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(60)]
    assert check(tmp_path, rows).digest == check(tmp_path, rows).digest != check(tmp_path, rows[1:]).digest


NOT = frozenset({"Preference"})
REFUSED: list[tuple[str, list[Any], Json, str]] = [
    ("one row", [pair(1)], {}, "has 1 usable rows"),
    ("only empty answers", [{"prompt": str(n), "completion": ""} for n in range(9)], {}, "has 0 usable rows"),
    ("names nobody knows", [{"q": "a", "a": "b"}] * 3, {}, "of no known format. Rename their fields"),
    ("the first line is broken", ["{", "{"], {}, "line 1 is not JSON"),
    ("one bad line among good ones", [pair(1), pair(2), {"prompt": "a"}, pair(3)], {}, "line 3 lacks completion"),
    ("preferences", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3, {"not_taught": NOT}, "does not learn from"),
    ("another format than said", [pair(1), pair(2)], {"format": "Messages"}, "lacks messages of format Messages"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "wanted", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_data_set_is_refused_by_line_and_remedy(tmp_path: Path, rows: list[Any], wanted: Json, says: str) -> None:
    with pytest.raises(Stopped, match=says) as refusal:
        check(tmp_path, rows, **wanted)
    assert refusal.value.outcome == "DatasetInvalid"
    assert refusal.value.exit_code == 40


def test_at_most_ten_bad_rows_are_quoted(tmp_path: Path) -> None:
    with pytest.raises(Stopped) as refusal:
        check(tmp_path, [pair(0)] + [{"prompt": "a"}] * 25)
    assert str(refusal.value).count("lacks completion") == 10
    assert "25 of 26 rows" in str(refusal.value)
    assert "and 15 more" in str(refusal.value)
