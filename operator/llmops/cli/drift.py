"""`llmops drift`: what the drift alerts would have said, tried on a recorded history before they are armed."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from llmops import names
from llmops.api.drift import SERIES, WINDOW_SECONDS, Signal, Window
from llmops.cli import drifting
from llmops.judge.drift.baseline import BucketsChangedError, Categories, Distribution, counted
from llmops.judge.drift.history import moments, query, windows
from llmops.judge.drift.replay import Replay, Stretch, replay

app = typer.Typer(name="drift", help="Watch traffic for change.", no_args_is_help=True)

# Where each signal stands in a CSV; the trace of Azure's published dataset is read as it is.
COLUMNS: dict[Signal, tuple[str, ...]] = {
    "PromptTokens": ("prompt_tokens", "ContextTokens"),
    "CompletionTokens": ("completion_tokens", "GeneratedTokens"),
    "FinishReason": ("finish_reason",),
}
TIMES = ("timestamp", "TIMESTAMP")


class HistoryError(Exception):
    """The history cannot be read; the message says what to change."""


def csv_history(path: Path, *, requests: int) -> dict[Signal, list[Stretch]]:
    """Windows of so many consecutive requests, for every signal the file has a column for; a last part is dropped.

    Raises:
        HistoryError: No timestamp, no known signal, or a value that is not what its column promises.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() if rows else set()
    time = next((name for name in TIMES if name in columns), None)
    found = {s: next((name for name in known if name in columns), None) for s, known in COLUMNS.items()}
    if time is None or not any(found.values()):
        raise HistoryError(
            f"{path}: needs a column timestamp and one of {', '.join(known[0] for known in COLUMNS.values())}"
        )
    try:
        moments = [_moment(row[time]) for row in rows]
        return {
            signal: [
                Stretch(
                    moments[i], moments[i + requests - 1], _counts(signal, [r[name] for r in rows[i : i + requests]])
                )
                for i in range(0, len(rows) - requests + 1, requests)
            ]
            for signal, name in found.items()
            if name is not None
        }
    except (ValueError, TypeError) as wrong:
        raise HistoryError(f"{path}: {wrong}") from wrong


def prometheus_history(
    client: httpx.Client, *, namespace: str, model: str, start: datetime, end: datetime, length: Window
) -> dict[Signal, list[Stretch]]:
    """Windows of this length, one after the other, for every signal that Prometheus has series of.

    Args:
        client: Its base URL is the Prometheus.
        namespace: Of the deployment.
        model: The deployment.
        start: Begin of the first window.
        end: No window ends later.
        length: Of each window.

    Raises:
        HistoryError: Prometheus does not answer, or refuses.
    """
    found = {}
    first, last, step = moments(start, end, length)
    for signal in SERIES:
        series = _query_range(client, query(signal, namespace=namespace, model=model, window=length), first, last, step)
        if series:
            found[signal] = windows(signal, series, length)
    return found


def _query_range(client: httpx.Client, query: str, start: datetime, end: datetime, step: timedelta) -> list[Any]:
    about = {"query": query, "start": start.timestamp(), "end": end.timestamp(), "step": step.total_seconds()}
    try:
        answer = client.post("/api/v1/query_range", data=about)
        answer.raise_for_status()
    except httpx.HTTPStatusError as refused:
        raise HistoryError(f"Prometheus refused: {refused.response.text[:256]}") from refused
    except httpx.TransportError as silent:
        raise HistoryError(f"Prometheus at {client.base_url} does not answer: {silent}") from silent
    result: list[Any] = answer.json()["data"]["result"]
    return result


def _moment(text: str) -> datetime:
    """ISO 8601; the published trace has seven digits after the point, one more than a datetime holds."""
    head, point, digits = text.partition(".")
    moment = datetime.fromisoformat(f"{head}.{digits[:6]}" if point and digits.isdigit() else text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _counts(signal: Signal, values: Sequence[str]) -> Distribution:
    if signal == "FinishReason":
        return Categories({reason: float(values.count(reason)) for reason in sorted(set(values))})
    return counted((int(value) for value in values), names.TOKEN_BUCKETS)


def report(replays: dict[Signal, Replay], console: Console) -> None:
    """Per signal: the bar that was learned, and the windows that would have alarmed."""
    for signal, done in replays.items():
        bar = done.baseline
        console.print(
            f"[bold]{signal}[/bold]: {len(done.alarms)} of {len(done.judged)} windows over the bar "
            f"(threshold {bar.threshold:.3f} learned from {bar.windows} windows, at least {bar.min_samples} requests)"
        )
        if not done.alarms:
            continue
        table = Table("from", "until", "requests", "PSI", "KS", "most in bins", box=None)
        for each in done.alarms:
            if each.score is not None:
                most = sorted(zip(each.score.terms, bar.bins, strict=True), key=lambda pair: -pair[0])[:3]
                bins = ", ".join(f"{where.label} ({term:.3f})" for term, where in most)
                span = (f"{moment:%Y-%m-%d %H:%M}" for moment in (each.window.start, each.window.end))
                numbers = (f"{each.score.samples:.0f}", f"{each.score.debiased:.3f}")
                table.add_row(*span, *numbers, f"{each.score.kolmogorov_smirnov:.3f}", bins)
        console.print(table)


def as_json(replays: dict[Signal, Replay]) -> str:
    """The same for programs."""
    return json.dumps(
        {
            signal: {
                "threshold": done.baseline.threshold,
                "minSamples": done.baseline.min_samples,
                "windows": [
                    {
                        "start": each.window.start.isoformat(),
                        "end": each.window.end.isoformat(),
                        "requests": each.score.samples if each.score else 0,
                        "debiasedPsi": each.score.debiased if each.score else None,
                        "over": each.over,
                    }
                    for each in done.judged
                ],
            }
            for signal, done in replays.items()
        },
        indent=1,
    )


@app.callback()
def drift() -> None:
    """Watch traffic for change."""


for command in (drifting.status, drifting.ack, drifting.rebase):
    app.command()(command)


@app.command("replay")
def replay_command(
    model: Annotated[str | None, typer.Argument(help="The LLMDeployment, with --prometheus.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--csv", help="History: timestamp, prompt_tokens, ...")] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="History: URL of a Prometheus that scrapes the gateway.")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of the deployment.")] = "default",
    start: Annotated[datetime | None, typer.Option("--from", help="UTC; default: two weeks before the end.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="UTC; default: now.")] = None,
    window: Annotated[str, typer.Option(help="Length of a window, with --prometheus.")] = "1h",
    requests: Annotated[int, typer.Option(min=200, help="Requests per window, with --csv.")] = 500,
    learn: Annotated[float, typer.Option(min=0.05, max=0.95, help="Share of the windows to learn from.")] = 0.5,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """Say which recorded windows would have raised an alert, and at what threshold."""
    try:
        history = (
            csv_history(file, requests=requests)
            if file is not None
            else _recorded(prometheus, namespace, model, window, start=start, end=end)
        )
        done = {
            signal: replay(signal, windows, learn=round(len(windows) * learn), signals=len(history))
            for signal, windows in history.items()
        }
    except (HistoryError, BucketsChangedError, ValueError) as problem:
        typer.echo(f"llmops drift replay: {problem}", err=True)
        raise typer.Exit(2) from problem
    if output == "json":
        typer.echo(as_json(done))
    else:
        report(done, Console())


def _recorded(
    url: str | None, namespace: str, model: str | None, window: str, *, start: datetime | None, end: datetime | None
) -> dict[Signal, list[Stretch]]:
    length = next((each for each in WINDOW_SECONDS if each == window), None)
    if not url or not model or length is None:
        raise HistoryError(
            f"say --csv FILE, or MODEL and --prometheus URL with a --window of {', '.join(WINDOW_SECONDS)}"
        )
    until = (end or datetime.now(UTC)).replace(tzinfo=UTC)
    since = (start or until - timedelta(days=14)).replace(tzinfo=UTC)
    with httpx.Client(base_url=url, timeout=60) as client:
        found = prometheus_history(client, namespace=namespace, model=model, start=since, end=until, length=length)
    if not found:
        raise HistoryError(f"Prometheus has no series of {namespace}/{model} between {since:%F %R} and {until:%F %R}")
    return found
