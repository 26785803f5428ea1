"""Files of rows as people send them: what is read, and what a bad one is told, with its line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from llmops_serving.jobs.dataset.reading import MAX_ROW_BYTES, Broken, Row, rows
from llmops_serving.jobs.ending import Stopped

ROW = {"prompt": "a", "completion": "b"}
JSON = b'{"prompt": "a", "completion": "b"}'

READABLE: list[tuple[str, str, bytes, str, list[Any]]] = [
    ("lines of JSON", "t.jsonl", JSON + b"\n" + JSON, "JSONL", [(1, ROW), (2, ROW)]),
    ("blank lines between them", "t.jsonl", JSON + b"\n\n" + JSON + b"\n\n", "JSONL", [(1, ROW), (3, ROW)]),
    ("a byte order mark", "t.jsonl", b"\xef\xbb\xbf" + JSON, "JSONL", [(1, ROW)]),
    ("Windows line ends", "t.jsonl", JSON + b"\r\n" + JSON + b"\r\n", "JSONL", [(1, ROW), (2, ROW)]),
    ("gzip, whatever it is called", "t.dat", gzip.compress(JSON), "JSONL, gzip", [(1, ROW)]),
    ("an array", "t.json", b"[\n" + JSON + b",\n" + JSON + b"\n]\n", "JSON", [(2, ROW), (3, ROW)]),
    ("an array on one line", "t.json", b"[" + JSON + b"," + JSON + b"]", "JSON", [(1, ROW), (1, ROW)]),
    ("an empty array", "t.json", b"[]", "JSON", []),
    ("CSV", "t.csv", b"prompt,completion\na,b\n", "CSV", [(2, ROW)]),
    ("CSV with semicolons", "t.csv", b"prompt;completion\na;b\n", "CSV", [(2, ROW)]),
    ("CSV with tabs", "t.tsv", b"prompt\tcompletion\na\tb\n", "CSV", [(2, ROW)]),
    ("CSV with a quoted line end", "t.csv", b'prompt,completion\n"a\nc",b\na,b\n', "CSV",
     [(2, {"prompt": "a\nc", "completion": "b"}), (4, ROW)]),
    ("CSV without the ending", "table", b"prompt,completion\na,b\n", "CSV", [(2, ROW)]),
    ("paragraphs", "t.txt", b"one\ntwo\n\n\nthree\n", "text", [(1, {"text": "one\ntwo"}), (5, {"text": "three"})]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "kind", "expected"), [case[1:] for case in READABLE], ids=[case[0] for case in READABLE]
)
def test_a_file_is_read(tmp_path: Path, name: str, content: bytes, kind: str, expected: list[Any]) -> None:
    (tmp_path / "file").write_bytes(content)
    found, read = rows(tmp_path / "file", name)
    assert found == kind
    assert list(read) == [Row(line, value) for line, value in expected]


BROKEN_ROWS: list[tuple[str, str, bytes, int | None, str]] = [
    ("broken JSON", "t.jsonl", JSON + b"\n{'a': 1}\n" + JSON, 2, "is not JSON"),
    ("a cut line", "t.jsonl", JSON + b"\n" + JSON[:9], 2, "is not JSON"),
    ("not a number", "t.jsonl", JSON + b'\n{"prompt": NaN}', 2, "is not JSON"),
    ("another encoding", "t.jsonl", JSON + b'\n{"prompt": "\xe4"}', 2, "is not JSON"),
    ("nested too deeply", "t.jsonl", JSON + b"\n" + b"[" * 5000, 2, "is not JSON"),
    ("one endless line", "t.jsonl", b'{"prompt": "' + b"a" * MAX_ROW_BYTES, 1, "longer than 16 MiB"),
    ("an array that was cut", "t.json", b"[\n" + JSON + b",\n", 3, "was cut"),
    ("an array with a broken entry", "t.json", b"[\n" + JSON + b",\n{x},\n" + JSON + b"]", 3, "is not JSON"),
    ("an array nested too deeply", "t.json", b"[" * 100_000, 1, "nested too deeply"),
    ("a field too many", "t.csv", b"prompt,completion\na,b\na,b,c\n", 3, "has 3 fields, the header has 2"),
    ("a quote that never ends", "t.csv", b'prompt,completion\n"a,b\n', 2, "is not CSV"),
    ("an odd delimiter", "t.csv", b"prompt^completion\na^b\n", 1, "has no column"),
    ("no header", "t.csv", b"what is it,a list\n", 1, "has no column"),
    ("Latin-1", "t.csv", b"prompt,completion\na,b\n\xe4,b\n", 1, "is not UTF-8"),
    ("gzip that was cut", "t.gz", gzip.compress(b"\n".join([JSON] * 20_000))[:-300], None, "cannot be unpacked"),
]


@pytest.mark.parametrize(
    ("name", "content", "line", "says"), [case[1:] for case in BROKEN_ROWS], ids=[case[0] for case in BROKEN_ROWS]
)
def test_a_row_that_cannot_be_read_is_told_by_its_line(
    tmp_path: Path, name: str, content: bytes, line: int | None, says: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    broken = [row for row in rows(tmp_path / "file", name)[1] if isinstance(row, Broken)]
    assert says in broken[0].says
    assert line in (broken[0].line, None)


NOT_ROWS: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("white space", b" \n\n ", "is empty"),
    ("binary", b"\x7fELF\x02\x01\x01\x00\x00\x00", "is binary"),
    ("a sparse file", b"\0" * 100_000, "is binary"),
    ("a zip archive", b"PK\x03\x04rest", "is a zip archive"),
    ("gzip that is none", b"\x1f\x8bnot gzip at all", "cannot be unpacked"),
    ("prose", b"Dear all,\nplease find attached\n", "neither JSONL"),
]


@pytest.mark.parametrize(("content", "says"), [case[1:] for case in NOT_ROWS], ids=[case[0] for case in NOT_ROWS])
def test_a_file_without_rows_is_refused_whole(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Stopped, match=says) as refusal:
        rows(tmp_path / "file", "data")
    assert refusal.value.outcome == "DatasetInvalid"


def test_a_link_out_of_the_volume_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(Stopped, match="not a regular file"):
        rows(tmp_path / "link.jsonl", "link.jsonl")


def test_an_array_larger_than_one_read_keeps_its_lines(tmp_path: Path) -> None:
    many = [b'{"prompt": "%d", "completion": "%s"}' % (number, b"x" * 500) for number in range(5000)]
    (tmp_path / "file").write_bytes(b"[\n" + b",\n".join(many) + b"\n]")
    read = list(rows(tmp_path / "file", "t.json")[1])
    assert [row.line for row in read] == list(range(2, 5002))
    assert isinstance(read[-1], Row)
    assert read[-1].value["prompt"] == "4999"
