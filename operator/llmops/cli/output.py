"""How answers look: rich on a terminal, plain lines in a pipe, JSON on request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


class Form(StrEnum):
    """What is printed."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[Form, typer.Option("--output", "-o", help="text for people, json for programs.")]


def console() -> Console:
    """Standard output. Off a terminal it neither colours nor wraps: every fact stays on its line."""
    import sys  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    # A tree is cut at the width of the console, whatever soft_wrap says; no line of ours is as long as this.
    return Console(highlight=False) if sys.stdout.isatty() else Console(soft_wrap=True, width=8192, highlight=False)


def print_json(value: Any) -> None:
    """The value, for programs."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as kubectl prints them."""
    lines = [[column.upper() for column in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        typer.echo("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def age(since: str | None, now: datetime) -> str:
    """Time since, in kubectl's short form."""
    if not since:
        return "-"
    seconds = int((now - datetime.fromisoformat(since)).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def now() -> datetime:
    """The time, for ages."""
    return datetime.now(UTC)
