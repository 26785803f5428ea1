"""Forty data sets that nobody should train on: each is refused by line, with what to do about it."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llmops_serving.jobs.dataset import formats
from llmops_serving.jobs.dataset.check import Wanted, checked
from llmops_serving.jobs.dataset.reading import MAX_ROW_BYTES
from llmops_serving.jobs.ending import Stopped

Json = dict[str, Any]
GOOD = [json.dumps({"prompt": f"question {n}", "completion": f"answer {n}"}) for n in range(12)]
TALKS = [
    json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]})
    for n in range(12)
]


def lines(*rows: Any, good: list[str] = GOOD) -> bytes:
    """Three good rows, then these, then the other good ones."""
    bad = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return "\n".join([*good[:3], *bad, *good[3:]]).encode()


def talk(*turns: tuple[Any, Any]) -> Json:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def zipped(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("t.jsonl", content)
    return archive.getvalue()


S, U, A = "system", "user", "assistant"
# what it is, the file's name, its content, the line that must be named, and words of the message
BAD: list[tuple[str, str, bytes, int | None, str]] = [
    ("broken JSON", "t.jsonl", lines('{"prompt": "a", "completion": }'), 4, "is not JSON"),
    ("single quotes", "t.jsonl", lines("{'prompt': 'a', 'completion': 'b'}"), 4, "is not JSON"),
    ("a comma after the last field", "t.jsonl", lines('{"prompt": "a",}'), 4, "is not JSON"),
    ("a row that was cut", "t.jsonl", lines('{"prompt": "a", "compl'), 4, "is not JSON"),
    ("two rows on one line", "t.jsonl", lines('{"prompt": "a"}{"prompt": "b"}'), 4, "is not JSON"),
    ("not a number", "t.jsonl", lines('{"prompt": NaN, "completion": "b"}'), 4, "is not JSON"),
    ("Latin-1 among UTF-8", "t.jsonl", lines() + b'\n{"prompt": "\xe4", "completion": "b"}', 13, "is not JSON"),
    ("nested without end", "t.jsonl", lines("[" * 5000), 4, "is not JSON"),
    ("a list for a row", "t.jsonl", lines(["a", "b"]), 4, "is a list of 2, not an object"),
    ("a bare text for a row", "t.jsonl", lines('"a"'), 4, "not an object"),
    ("a null for a row", "t.jsonl", lines("null"), 4, "is nothing, not an object"),
    ("no completion", "t.jsonl", lines({"prompt": "a"}), 4, "lacks completion"),
    ("misspelled names", "t.jsonl", lines({"Prompt": "a", "completion": "b"}), 4, "lacks prompt"),
    ("a number for an answer", "t.jsonl", lines({"prompt": "a", "completion": 3}), 4, "has a number as completion"),
    ("a list for an answer", "t.jsonl", lines({"prompt": "a", "completion": ["b"]}), 4, "has a list of 1 as"),
    ("half a character", "t.jsonl", lines('{"prompt": "\\ud800", "completion": "b"}'), 4, "surrogate"),
    ("a role nobody has", "t.jsonl", lines(talk(("human", "q"), ("gpt", "a")), good=TALKS), 4, "messages[0].role"),
    ("no role", "t.jsonl", lines({"messages": [{"content": "q"}]}, good=TALKS), 4, "has nothing as messages[0].role"),
    ("no assistant turn", "t.jsonl", lines(talk((U, "q")), good=TALKS), 4, "has no assistant turn"),
    ("the user has the last word", "t.jsonl", lines(talk((A, "a"), (U, "q")), good=TALKS), 4, "ends with a user"),
    ("a system turn in the middle", "t.jsonl", lines(talk((U, "q"), (S, "s"), (A, "a")), good=TALKS), 4, "first turn"),
    ("no turns", "t.jsonl", lines({"messages": []}, good=TALKS), 4, "has a list of 0 as messages"),
    ("turns as one text", "t.jsonl", lines({"messages": "q: a"}, good=TALKS), 4, "as messages, not a list"),
    ("a picture for words", "t.jsonl", lines(talk((U, [{"type": "image"}]), (A, "a")), good=TALKS), 4, "not a text"),
    ("names nobody knows", "t.jsonl", b'{"q": "a", "a": "b"}\n' * 9, None, "Rename their fields"),
    ("one row", "t.jsonl", GOOD[0].encode(), None, "give at least 2"),
    ("one row many times", "t.jsonl", f"{GOOD[0]}\n".encode() * 50, None, "give at least 2"),
    ("only empty answers", "t.jsonl", b'{"prompt": "a", "completion": " "}\n' * 9, None, "has 0 usable rows"),
    ("an array that was cut", "t.json", b"[\n" + b",\n".join(row.encode() for row in GOOD), 13, "the file was cut"),
    ("an array with a broken entry", "t.json", b"[\n" + GOOD[0].encode() + b",\n{x}]", 3, "is not JSON"),
    ("CSV with a field too many", "t.csv", b"prompt,completion\na,b\nc,d,e\n", 3, "has 3 fields, the header has 2"),
    ("CSV with an odd delimiter", "t.csv", b"prompt^completion\na^b\n", 1, "has no column of"),
    ("CSV without a header", "t.csv", b"what is it,a list\nand that,a set\n", 1, "has no column of"),
    ("CSV with a quote that never ends", "t.csv", b'prompt,completion\na,b\n"c,d\n', 3, "is not CSV"),
    ("CSV in Latin-1", "t.csv", b"prompt,completion\na,b\nc,\xe4\n", 1, "is not UTF-8"),
    ("an empty file", "t.jsonl", b"", None, "is empty"),
    ("white space", "t.jsonl", b"\n \n\t\n", None, "is empty"),
    ("a program", "t.jsonl", b"\x7fELF\x02\x01\x01" + b"\0" * 100, None, "is binary"),
    ("a zip bomb", "t.jsonl", zipped(b"a" * (32 << 20)), None, "is a zip archive"),
    ("a gzip bomb of one line", "t.jsonl.gz", gzip.compress(b'{"prompt": "' + b"a" * (64 << 20), 1), 1, "longer than"),
    ("gzip that was cut", "t.jsonl.gz", gzip.compress((lines() + b"\n") * 5000)[:-200], None, "cannot be unpacked"),
    ("Parquet in name only", "t.parquet", b"PAR1 and nothing more", None, "arquet"),
]  # fmt: skip
REMEDY = re.compile(
    r"\b(Mend|Rename|give|[Uu]se|write|choose|name|install|unpack|convert|Put|put|export|save|send|compress)\b"
)


@pytest.mark.parametrize(("name", "content", "line", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_data_set_is_refused_by_line_and_remedy(
    tmp_path: Path, name: str, content: bytes, line: int | None, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Stopped) as refusal:
        checked((tmp_path / name, name), Wanted(not_taught=formats.not_taught("LoRA")), None, tmp_path / "data")
    message = str(refusal.value)
    assert (refusal.value.outcome, refusal.value.exit_code) == ("DatasetInvalid", 40)
    assert says in message
    assert line is None or f"line {line} " in message
    assert REMEDY.search(message), message
    assert len(message) < 1024  # what the termination message has room for


def test_there_are_forty_of_them() -> None:
    assert len({case[0] for case in BAD}) >= 40


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(Stopped, match="not a regular file: name one file"):
        checked((tmp_path / "t.jsonl", "t.jsonl"), Wanted(), None, tmp_path / "data")


SPARSE = {"nothing but holes": b"", "rows and then a hole": (lines() + b"\n") * 200}


@pytest.mark.parametrize("begin", SPARSE.values(), ids=SPARSE)
def test_ten_sparse_gigabytes_are_refused_within_one_of_memory(tmp_path: Path, begin: bytes) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(begin)
    os.truncate(file, 10 << 30)
    done = subprocess.run(
        [Path(sys.executable).with_name("llmops"), "dataset", "check", str(file)],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )
    assert done.returncode == 1, done.stderr
    assert ("is binary" in done.stdout) if not begin else (f"longer than {MAX_ROW_BYTES >> 20} MiB" in done.stdout)
