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

from llmops.api.fine_tune_job import PrepareSpec
from llmops_serving.jobs.dataset import formats
from llmops_serving.jobs.dataset.formats import Format, Wrong
from llmops_serving.jobs.dataset.preparation import Preparation
from llmops_serving.jobs.dataset.reading import Broken, Row, invalid, rows
from llmops_serving.jobs.dataset.rendering import Renderer
from llmops_serving.jobs.dataset.split import Hashes, Split, hashed, split
from llmops_serving.jobs.ending import Stopped

QUOTED = 10
LOOKED_AT = 100  # rows from which the format is told
SAMPLE = 20_000  # rows whose tokens are counted; the rules are asked of all
LEAST_ROWS = 2
TRAIN, EVAL, TEST, REPORT, ROWS = "train.jsonl", "eval.jsonl", "test.jsonl", "report.json", "rows.jsonl"


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
    language: int = 0
    short: int = 0
    long: int = 0
    masked: dict[str, int] = field(default_factory=dict)
    train: int = 0
    eval: int = 0
    test: int = 0
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
        for count, why in ((self.language, "in other languages"), (self.short, "too short"), (self.long, "too long")):
            left_out += f", {count} {why}" if count else ""
        masked = ", ".join(f"{count} {kind}" for kind, count in self.masked.items())
        left_out += f"; masked: {masked}" if masked else ""
        test = f" {self.test} rows of the test file judge the result." if self.test else ""
        leak = f" {self.leaked} {'test' if self.test else 'held-out'} rows answer questions that are trained on."
        cut = ""
        if self.tokens and self.tokens.truncated:
            share = 100 * self.tokens.truncated / self.tokens.rows
            cut = f" {share:.1f} % of rows are cut at max_length {self.tokens.max_length}."
        return (
            f"{self.rows} rows of format {self.format} ({self.file}): {self.train} to train on, {self.eval} held out"
            f"{left_out}.{test}{leak if self.leaked else ''}{cut}"
        )


@dataclass(frozen=True)
class Wanted:
    """What the author says of the data: the format (or Auto) and the part to hold out."""

    format: Literal["Auto"] | Format = "Auto"
    eval_fraction: float = 0.05
    not_taught: frozenset[Format] = frozenset()
    prepare: PrepareSpec = field(default_factory=PrepareSpec)


File = tuple[Path, str]  # where it is, and what its author calls it


def checked(file: File, wanted: Wanted, renderer: Renderer | None, folder: Path, *, test: File | None = None) -> Report:
    """Check a file of rows; leave `train.jsonl`, `eval.jsonl` and `report.json` in `folder`, of a test `test.jsonl`.

    Raises:
        Stopped: DatasetInvalid, with the first bad rows by line and the report so far as facts; InvalidSpec.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    try:
        preparation = _preparation(wanted, renderer)
        questions = _check(file, wanted, renderer, folder, (report, preparation))
        if test:
            _check_test(test, questions, folder, report, preparation)
    except Stopped as stopped:
        raise Stopped(stopped.outcome, str(stopped), facts=report.facts()) from stopped
    finally:
        (folder / ROWS).unlink(missing_ok=True)
        (folder / REPORT).write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    return report


def _preparation(wanted: Wanted, renderer: Renderer | None) -> Preparation:
    try:
        return Preparation(wanted.prepare, (lambda row: renderer.rendered(row).tokens) if renderer else None)
    except ValueError as error:
        raise Stopped("InvalidSpec", f"dataset.prepare: {error}.") from error


def _check(
    file: File, wanted: Wanted, renderer: Renderer | None, folder: Path, work: tuple[Report, Preparation]
) -> Hashes:
    """Returns what the rows that are trained on answer."""
    name, (report, preparation) = file[1], work
    report.file, read = rows(*file)
    first = list(itertools.islice(read, LOOKED_AT))
    kind = wanted.format
    if kind == "Auto":
        found = formats.detected(row.value for row in first if isinstance(row, Row))
        kind = found or _without_format(first, name)
    report.format = kind
    if kind in wanted.not_taught:
        raise invalid(
            f"The rows are of format {kind}, which spec.method does not learn from: of Text learns "
            "ContinuedPretraining, of Preference DPO, and LoRA of the others."
        )
    if renderer and kind == "Messages" and not renderer.chats:
        raise invalid("The base model has no chat template: use an instruction-tuned one, or prompt and completion.")
    contents, questions = array("Q"), array("Q")
    with (folder / ROWS).open("wb") as out:
        for line, row in _judged(itertools.chain(first, read), kind, report, preparation):
            packed = orjson.dumps(row.value)
            contents.append(int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big"))
            questions.append(hashed(row.question))
            out.write(b"%d\t%s\n" % (line, packed))
    report.masked = dict(preparation.masked)
    _refuse_broken(report, name)
    asked = np.frombuffer(questions, np.uint64)
    sides = split(
        np.frombuffer(contents, np.uint64), asked, wanted.eval_fraction, deduplicate=wanted.prepare.deduplicate
    )
    report.duplicates, kept = int((~sides.kept).sum()), int(sides.kept.sum())
    if kept < LEAST_ROWS:
        twice = f" and {report.duplicates} duplicates" if report.duplicates else ""
        raise invalid(f"{name} has {kept} usable rows{twice}: give at least {LEAST_ROWS}, and better hundreds.")
    report.train, report.eval = int((sides.kept & ~sides.held_out).sum()), int(sides.held_out.sum())
    report.leaked = sides.leaked
    _write(folder, sides, renderer, report)
    _refuse_broken(report, name)
    _refuse_unlearnable(report)
    return asked[sides.kept & ~sides.held_out]


def _check_test(file: File, trained: Hashes, folder: Path, report: Report, preparation: Preparation) -> None:
    """The author's own test rows: by the same rules; those that ask what is trained on are counted."""
    _, read = rows(*file)
    found = Report()
    questions, contents = array("Q"), hashlib.sha256()
    with (folder / TEST).open("wb") as out:
        for _, row in _judged(read, report.format, found, preparation):  # type: ignore[arg-type]  # it is a Format
            packed = orjson.dumps(row.value)
            questions.append(hashed(row.question))
            contents.update(packed)
            out.write(packed + b"\n")
    _refuse_broken(found, file[1])
    if not questions:
        raise invalid(f"{file[1]}, the test file, has no usable row of format {report.format}.")
    report.test = len(questions)
    report.leaked = int(np.isin(np.frombuffer(questions, np.uint64), trained).sum())
    report.digest = f"sha256:{hashlib.sha256(f'{report.digest} {contents.hexdigest()}'.encode()).hexdigest()}"


def _without_format(first: list[Row | Broken], name: str) -> Format:
    """No row says what it is: quote the first that cannot be read, or name the keys of the first that can."""
    for row in first:
        if isinstance(row, Broken):
            raise invalid(f"line {row.line} {row.says}. Mend it and start again.")
    keys = ", ".join(sorted(map(str, first[0].value))[:6]) if first and isinstance(first[0].value, dict) else "no names"  # type: ignore[union-attr]
    known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in formats.KEYS.items())
    raise invalid(f"The rows of {name} ({keys}) are of no known format. Rename their fields to one of {known}.")


def _judged(
    read: Iterator[Row | Broken], kind: Format, report: Report, preparation: Preparation
) -> Iterator[tuple[int, formats.Example]]:
    for row in read:
        report.rows += 1
        if isinstance(row, Broken):
            _quote(report, row.line, row.says)
            continue
        try:
            judged = preparation.prepared(formats.example(row.value, kind), kind)
        except Wrong as wrong:
            _quote(report, row.line, str(wrong))
            continue
        if isinstance(judged, str):
            setattr(report, judged, getattr(report, judged) + 1)
        else:
            yield row.line, judged


def _quote(report: Report, line: int, says: str) -> None:
    report.broken += 1
    if len(report.quoted) < QUOTED:
        report.quoted.append(f"line {line} {says}")


def _refuse_broken(report: Report, name: str) -> None:
    if report.broken:
        more = f"; and {report.broken - QUOTED} more" if report.broken > QUOTED else ""
        raise invalid(
            f"{report.broken} of {report.rows} rows of {name} cannot be used: {'; '.join(report.quoted)}{more}. "
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
