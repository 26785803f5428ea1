"""docs/faults.md: what was done to the operator, and what came of it. Each leg of the harness owns one section."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.faultproxy.faults import MEANING, Fault
from tests.faultproxy.matrix import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
_INTRODUCTION = """# Faults and what came of them

Printed by `make faults` (`python -m tests.faultproxy LEG...` for some of it). The operator runs as a process, with
exactly the rights of the chart, against a real API server, etcd and controllers; between the two is a proxy that counts
every write. Seconds depend on the machine; each section says when it was run and how busy the machine was.

On every request of every section, and on all traffic of the API server tier of `make test`, these must hold: a DELETE
names the uid it means; nothing a user wrote is written (only `status`); every write names its field manager; a write
changes something; no status is refused; Secrets are never read; only the holder of the Lease writes.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_MEANINGS = table(["fault", "what is done to one write"], [[fault, MEANING[fault]] for fault in Fault])
HEAD = f"{_INTRODUCTION}\n{_MEANINGS}\n"


@dataclass(frozen=True)
class Section:
    """One leg's part of the page; `broken` says which promises did not hold."""

    leg: str
    title: str
    body: str
    broken: tuple[str, ...] = ()


def write(sections: Iterable[Section], load: float, seconds: float, page: Path = PAGE) -> None:
    """Put the sections into the page, each in the place of its predecessor; `seconds` is what they took to run."""
    text = page.read_text() if page.exists() else HEAD
    text = HEAD + text[text.index("\n<!-- ") :] if "\n<!-- " in text else HEAD
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    for section in sections:
        verdict = "All of it held." if not section.broken else "**Broken:** " + "; ".join(section.broken)
        run = f"Run on {now} in {seconds:.0f} s with a load of {load:.1f} on {_cores()} cores. {verdict}"
        block = f"\n<!-- {section.leg} -->\n## {section.title}\n\n{section.body}\n\n{run}\n<!-- /{section.leg} -->\n"
        old = re.compile(rf"\n<!-- {section.leg} -->\n.*?<!-- /{section.leg} -->\n", re.DOTALL)
        place = old.search(text)
        text = text[: place.start()] + block + text[place.end() :] if place else text + block
    page.write_text(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


CELLS = """Each cell is one fault at one write. The number is the time, in seconds, until everything is as in a run
without faults: from the start of the next operator process after a kill, from the fault otherwise. Where a write occurs
several times in a step, the longest is shown. Besides the equal end state: no child names an owner that does not exist,
none is made more often than needed, the operator never ends by itself, and the standing assertions hold."""


def matrix(outcomes: Sequence[Outcome]) -> str:
    """Every write by every fault: the longest time of its points, or how many went wrong."""
    faults = [fault for fault in Fault if any(outcome.point.fault == fault for outcome in outcomes)]
    cells: dict[tuple[str, Fault], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.write:
            cells.setdefault((f"{outcome.point.step}: {outcome.write}", outcome.point.fault), []).append(outcome)
    writes = dict.fromkeys(write for write, _ in cells)
    rows = [[write, *(_cell(cells.get((write, fault), [])) for fault in faults)] for write in writes]
    reached = [outcome for outcome in outcomes if outcome.write]
    good = sorted(outcome.seconds for outcome in reached if not outcome.problem)
    summary = (
        f"{len(reached)} points; {len(outcomes) - len(reached)} more came after the last write of their run. Median "
        f"{good[len(good) // 2]:.1f} s, longest {good[-1]:.1f} s."
        if good
        else "No point was reached."
    )
    return f"{CELLS}\n\n{table(['write', *faults], rows)}\n\n{summary}"


def _cell(outcomes: list[Outcome]) -> str:
    if not outcomes:
        return ""
    bad = [outcome for outcome in outcomes if outcome.problem]
    return f"**{len(bad)} of {len(outcomes)} wrong**" if bad else f"{max(outcome.seconds for outcome in outcomes):.1f}"
