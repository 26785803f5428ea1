"""The check itself: every row by rule, then the tokens of the rows that stay, then two files and a report.

Two passes: the first keeps 16 bytes per row in memory and the rows on the volume; what is a duplicate and who is held
out is known only at its end.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import orjson

from llmops_serving.jobs.dataset import formats
from llmops_serving.jobs.dataset.formats import Format, Wrong
from llmops_serving.jobs.dataset.reading import Broken, Row, invalid, rows
from llmops_serving.jobs.dataset.rendering import Renderer
from llmops_serving.jobs.dataset.split import Split, hashed, split
from llmops_serving.jobs.ending import Stopped

QUOTED = 10
LOOKED_AT = 100  # rows from which the format is told
SAMPLE = 20_000  # rows whose tokens are counted; the rules are asked of all
LEAST_ROWS = 2
TRAIN, EVAL, REPORT, ROWS = "train.jsonl", "eval.jsonl", "report.json", "rows.jsonl"


@dataclass(frozen=True)
class Tokens:
    """Tokens of the rows looked at. `truncated` and `unlearnable` count rows of `rows`."""

    rows: int
    p50: int
    p95: int
    max: int
    max_length: int
    truncated: int
    unlearnable: int
    stop_tokens: list[str]


@dataclass
class Report:
    """What is known of a data set; the parts that were not reached stay as they are."""

    file: str = ""
    format: str = ""
    rows: int = 0
    broken: int = 0
    duplicates: int = 0
    empty: int = 0
    train: int = 0
    eval: int = 0
    leaked: int = 0
    digest: str = ""
    tokens: Tokens | None = None
    quoted: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Everything but the quotes: they are the message."""
        return {key: value for key, value in asdict(self).items() if key != "quoted"}

    def sentence(self) -> str:
        """The good news in one sentence."""
        left_out = f", {self.duplicates} duplicates and {self.empty} empty answers left out"
        leak = f" {self.leaked} held-out rows answer questions that are trained on." if self.leaked else ""
        cut = ""
        if self.tokens and self.tokens.truncated:
            share = 100 * self.tokens.truncated / self.tokens.rows
            cut = f" {share:.1f} % of rows are cut at max_length {self.tokens.max_length}."
        return (
            f"{self.rows} rows of format {self.format} ({self.file}): {self.train} to train on, {self.eval} held out"
            f"{left_out}.{leak}{cut}"
        )


@dataclass(frozen=True)
class Wanted:
    """What the author says of the data: the format (or Auto) and the part to hold out."""

    format: Literal["Auto"] | Format = "Auto"
    eval_fraction: float = 0.05
    not_taught: frozenset[Format] = frozenset()


def checked(source: Path, name: str, wanted: Wanted, renderer: Renderer | None, folder: Path) -> Report:
    """Check `source`, leave `train.jsonl`, `eval.jsonl` and `report.json` in `folder`.

    Raises:
        Stopped: DatasetInvalid, with the first bad rows by line and the report so far as facts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    try:
        _check((source, name), wanted, renderer, folder, report)
    except Stopped as stopped:
        raise Stopped(stopped.outcome, str(stopped), facts=report.facts()) from stopped
    finally:
        (folder / ROWS).unlink(missing_ok=True)
        (folder / REPORT).write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    return report


def _check(file: tuple[Path, str], wanted: Wanted, renderer: Renderer | None, folder: Path, report: Report) -> None:
    name = file[1]
    report.file, read = rows(*file)
    first = list(itertools.islice(read, LOOKED_AT))
    kind = wanted.format
    if kind == "Auto":
        found = formats.detected(row.value for row in first if isinstance(row, Row))
        kind = found or _without_format(first, name)
    report.format = kind
    if kind in wanted.not_taught:
        raise invalid(f"The rows are of format {kind}, which spec.method does not learn from.")
    if renderer and kind == "Messages" and not renderer.chats:
        raise invalid("The base model has no chat template: use an instruction-tuned one, or prompt and completion.")
    contents, questions = array("Q"), array("Q")
    with (folder / ROWS).open("wb") as out:
        for line, row in _judged(itertools.chain(first, read), kind, report):
            packed = orjson.dumps(row.value)
            contents.append(int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big"))
            questions.append(hashed(row.question))
            out.write(b"%d\t%s\n" % (line, packed))
    _refuse_broken(report)
    if len(contents) < LEAST_ROWS:
        raise invalid(f"{name} has {len(contents)} usable rows: give at least {LEAST_ROWS}, and better hundreds.")
    sides = split(np.frombuffer(contents, np.uint64), np.frombuffer(questions, np.uint64), wanted.eval_fraction)
    report.duplicates = int((~sides.kept).sum())
    report.train, report.eval = int((sides.kept & ~sides.held_out).sum()), int(sides.held_out.sum())
    report.leaked = sides.leaked
    _write(folder, sides, renderer, report)
    _refuse_broken(report)
    _refuse_unlearnable(report)


def _without_format(first: list[Row | Broken], name: str) -> Format:
    """No row says what it is: quote the first that cannot be read, or name the keys of the first that can."""
    for row in first:
        if isinstance(row, Broken):
            raise invalid(f"line {row.line} {row.says}. Mend it and start again.")
    keys = ", ".join(sorted(map(str, first[0].value))[:6]) if first and isinstance(first[0].value, dict) else "no names"  # type: ignore[union-attr]
    known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in formats.KEYS.items())
    raise invalid(f"The rows of {name} ({keys}) are of no known format. Rename their fields to one of {known}.")


def _judged(read: Iterator[Row | Broken], kind: Format, report: Report) -> Iterator[tuple[int, formats.Example]]:
    for row in read:
        report.rows += 1
        if isinstance(row, Broken):
            _quote(report, row.line, row.says)
            continue
        try:
            judged = formats.example(row.value, kind)
        except Wrong as wrong:
            _quote(report, row.line, str(wrong))
            continue
        if judged.empty:
            report.empty += 1
        else:
            yield row.line, judged


def _quote(report: Report, line: int, says: str) -> None:
    report.broken += 1
    if len(report.quoted) < QUOTED:
        report.quoted.append(f"line {line} {says}")


def _refuse_broken(report: Report) -> None:
    if report.broken:
        more = f"; and {report.broken - QUOTED} more" if report.broken > QUOTED else ""
        raise invalid(
            f"{report.broken} of {report.rows} rows cannot be used: {'; '.join(report.quoted)}{more}. "
            "Mend or remove them and start again."
        )


def _write(folder: Path, sides: Split, renderer: Renderer | None, report: Report) -> None:
    """The second pass: the rows that stay, to their side, and the tokens of a sample of them."""
    every = max(1, int(sides.kept.sum()) // SAMPLE)
    lengths, seen = array("I"), Counter[str]()
    digest, kept = hashlib.sha256(), 0
    with (folder / ROWS).open("rb") as source, (folder / TRAIN).open("wb") as train, (folder / EVAL).open("wb") as held:
        for number, line in enumerate(source):
            if not sides.kept[number]:
                continue
            place, _, packed = line.partition(b"\t")
            side: IO[bytes] = held if sides.held_out[number] else train
            side.write(packed)
            digest.update(b"e" if side is held else b"t")
            digest.update(packed)
            kept += 1
            if renderer and kept % every == 0:
                lengths.append(_tokens(renderer, packed, int(place), seen, report))
    report.digest = f"sha256:{digest.hexdigest()}"
    if renderer:
        report.tokens = _summary(lengths, seen, renderer)


def _tokens(renderer: Renderer, packed: bytes, line: int, seen: Counter[str], report: Report) -> int:
    try:
        row = renderer.rendered(orjson.loads(packed))
    except Wrong as wrong:
        _quote(report, line, str(wrong))
        return 0
    seen["truncated"] += row.stops is None
    seen["unlearnable"] += row.learned == 0
    seen["unstopped"] += row.stops is False
    return row.tokens


def _summary(lengths: array[int], seen: Counter[str], renderer: Renderer) -> Tokens:
    if seen["unstopped"]:
        raise invalid(
            f"In {seen['unstopped']} of {len(lengths)} rows no learned token ends the answer, so that the model would "
            "never learn to stop: the chat template must end an assistant's turn with the tokenizer's eos_token, or "
            "generation_config.json must name the token that it ends with."
        )
    values = np.array(lengths)
    p50, p95 = np.percentile(values, [50, 95]) if len(values) else (0, 0)
    return Tokens(
        rows=len(lengths),
        p50=int(p50),
        p95=int(p95),
        max=int(values.max(initial=0)),
        max_length=renderer.max_length,
        truncated=seen["truncated"],
        unlearnable=seen["unlearnable"],
        stop_tokens=renderer.tokenizer.convert_ids_to_tokens(sorted(renderer.stops)),
    )


def _refuse_unlearnable(report: Report) -> None:
    tokens = report.tokens
    if tokens and tokens.unlearnable == tokens.rows:
        raise invalid(
            f"Every row is longer than max_length {tokens.max_length} before its answer begins (half of them have "
            f"{tokens.p50} tokens or more): raise hyperparameters.max_length, or shorten the prompts."
        )
