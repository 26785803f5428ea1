"""A file of rows, streamed: JSONL, a JSON array, CSV, Parquet or plain text, as it is or gzipped, told by its content.

A row that cannot be read is an answer like any other: it carries its line and what is wrong with it. Nothing is held
but the row at hand, so a file may be larger than memory; a row may not.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from llmops_serving.jobs.ending import Stopped

MAX_ROW_BYTES = 16 << 20
LOOK_BYTES = 1 << 16
CHUNK_CHARACTERS = 1 << 20
COLUMNS = ("messages", "prompt", "completion", "text", "chosen", "rejected")
DELIMITERS = (",", ";", "\t", "|")
GZIP, PARQUET, ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_SPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Row:
    """One row as it stands in the file; `line` counts from 1 (of Parquet: rows)."""

    line: int
    value: Any


@dataclass(frozen=True)
class Broken:
    """A row that cannot be read."""

    line: int
    says: str


Read = Iterator[Row | Broken]


def invalid(message: str) -> Stopped:
    """The data set as a whole cannot be used."""
    return Stopped("DatasetInvalid", message)


def rows(path: Path, name: str) -> tuple[str, Read]:
    """What kind of file it is, and its rows.

    Args:
        path: Where the file is.
        name: What its author calls it; its ending decides only where the content does not.

    Raises:
        Stopped: it is no file of rows.
    """
    if path.is_symlink() or not path.is_file():
        raise invalid(f"{name} is not a regular file: name one file with the rows.")
    with path.open("rb") as stream:
        head = stream.read(4)
    if head == PARQUET:
        return "Parquet", _parquet(path)
    if head == ZIP:
        raise invalid(f"{name} is a zip archive: unpack it, or compress the one file with gzip.")
    packed = head[:2] == GZIP
    kind = _kind(_beginning(path, name, packed=packed), name)
    return f"{kind}, gzip" if packed else kind, _guarded(_parsed(kind, path, packed=packed))


def _open(path: Path, *, packed: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def _beginning(path: Path, name: str, *, packed: bool) -> str:
    try:
        with _open(path, packed=packed) as stream:
            data = stream.read(LOOK_BYTES)
    except (OSError, EOFError) as error:
        raise invalid(
            f"{name} looks like gzip and cannot be unpacked ({error}): compress it again, or send it plain."
        ) from error
    if not data.strip():
        raise invalid(f"{name} is empty: write at least two rows, one JSON object per line.")
    if b"\0" in data:
        raise invalid(f"{name} is binary: write JSONL, JSON, CSV or Parquet (UTF-8, plain or gzip).")
    return data.decode("utf-8-sig", "replace").lstrip()


def _kind(text: str, name: str) -> str:
    if text.startswith("["):
        return "JSON"
    if text.startswith("{"):
        return "JSONL"
    plain = name.lower().removesuffix(".gz")
    if plain.endswith((".jsonl", ".json", ".ndjson")):
        return "JSONL"  # the first line is then the one that is quoted as broken
    if plain.endswith((".csv", ".tsv")) or _delimiter(text.splitlines()[0]):
        return "CSV"
    if plain.endswith((".txt", ".md")):
        return "text"
    raise invalid(f"{name} is neither JSONL, JSON, CSV nor Parquet: its first line begins with none of them.")


def _parsed(kind: str, path: Path, *, packed: bool) -> Read:
    with _open(path, packed=packed) as stream:
        match kind:
            case "JSONL":
                yield from _lines(stream)
            case "JSON":
                yield from _array(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
            case "CSV":
                yield from _table(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
            case _:
                yield from _paragraphs(io.TextIOWrapper(stream, encoding="utf-8-sig"))


def _guarded(read: Read) -> Read:
    """A file that turns out to be cut or not UTF-8 half-way is told with the line before."""
    line = 0
    try:
        for row in read:
            line = row.line
            yield row
    except UnicodeDecodeError:
        yield Broken(line + 1, "is not UTF-8")
    except (EOFError, OSError) as error:
        yield Broken(line + 1, f"cannot be unpacked: {error}")


def _lines(stream: IO[bytes]) -> Read:
    for number in itertools.count(1):
        data = stream.readline(MAX_ROW_BYTES + 1)
        if not data:
            return
        if len(data) > MAX_ROW_BYTES:
            yield Broken(number, f"is longer than {MAX_ROW_BYTES >> 20} MiB")
            return
        if number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if not data.strip():
            continue
        try:
            yield Row(number, orjson.loads(data))
        except orjson.JSONDecodeError as error:
            yield Broken(number, f"is not JSON: {error.msg.split(':')[0]} (column {error.colno})")


def _array(stream: IO[str]) -> Read:
    decoder, text, line = json.JSONDecoder(), stream.read(CHUNK_CHARACTERS), 1
    begin = text.index("[") + 1
    line += text.count("\n", 0, begin)
    text = text[begin:]
    while True:
        skipped = _SPACE.match(text)
        gap = skipped.end() if skipped else 0
        line += text.count("\n", 0, gap)
        text = text[gap:]
        if not text and not (text := stream.read(CHUNK_CHARACTERS)):
            yield Broken(line, "ends before the array's ']': the file was cut")
            return
        if text[:1] in ("]", ",") or text[:1].isspace():
            if text.startswith("]"):
                return
            continue
        try:
            value, end = decoder.raw_decode(text)
        except (json.JSONDecodeError, RecursionError) as error:
            more = stream.read(max(CHUNK_CHARACTERS, len(text))) if len(text) < MAX_ROW_BYTES else ""
            if more:
                text += more
                continue
            says = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            yield Broken(line, f"is not JSON: {says}")
            return
        yield Row(line, value)
        line += text.count("\n", 0, end)
        text = text[end:]


def _table(stream: IO[str]) -> Read:
    csv.field_size_limit(MAX_ROW_BYTES)
    header = stream.readline(LOOK_BYTES)
    delimiter = _delimiter(header)
    if delimiter is None:
        yield Broken(1, f"has no column of {', '.join(COLUMNS)} in the CSV header")
        return
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    line = 2
    try:
        for fields in reader:
            if not fields:
                pass  # a blank line
            elif len(fields) != len(names):
                yield Broken(line, f"has {len(fields)} fields, the header has {len(names)}")
            else:
                yield Row(line, dict(zip(names, fields, strict=True)))
            line = reader.line_num + 2
    except csv.Error as error:
        yield Broken(line, f"is not CSV: {error}")


def _delimiter(header: str) -> str | None:
    """The delimiter under which the header has a column that means something."""
    for delimiter in DELIMITERS:
        names = {name.strip().strip('"') for name in header.split(delimiter)}
        if names & set(COLUMNS):
            return delimiter
    return None


def _paragraphs(stream: Iterable[str]) -> Read:
    """Plain text: what stands between blank lines is one row."""
    lines: list[str] = []
    begin = 1
    for number, line in enumerate(itertools.chain(stream, [""]), start=1):
        if line.strip():
            if not lines:
                begin = number
            lines.append(line)
        elif lines:
            yield Row(begin, {"text": "".join(lines).strip()})
            lines = []


def _parquet(path: Path) -> Read:
    try:
        import pyarrow as pa  # noqa: PLC0415 - large, and in the trainer's image only
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise invalid("Reading Parquet needs pyarrow: install it here, or use JSONL.") from error
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, {key: entry for key, entry in value.items() if entry is not None})
    except (pa.ArrowInvalid, OSError) as error:
        raise invalid(f"The Parquet file cannot be read: {error}") from error
