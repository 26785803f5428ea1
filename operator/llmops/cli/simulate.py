"""`llmops simulate`: what would have happened, by the same pure functions that decide in the cluster."""

from __future__ import annotations

import csv
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.cli.cluster import CliError
from llmops.cli.output import Form, Output, print_json, table

if TYPE_CHECKING:
    from llmops.judge.scaling import Limits
    from llmops.judge.simulation import Outcome, Request

app = typer.Typer(no_args_is_help=True, help="What would have happened, by the functions that decide in the cluster.")

Trace = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="CSV: TIMESTAMP,ContextTokens,GeneratedTokens.")]
Manifest = Annotated[
    Path | None, typer.Option("--file", "-f", exists=True, help="Take the limits of this LLMDeployment.")
]
Least = Annotated[int, typer.Option("--min", min=0)]
Most = Annotated[int, typer.Option("--max", min=1)]
Concurrency = Annotated[float | None, typer.Option(min=0.1, help="Target per replica.")]
Rate = Annotated[float | None, typer.Option("--requests-per-second", min=0.001, help="Target per replica.")]
Stabilization = Annotated[int, typer.Option(min=0, help="Seconds of lower demand before replicas go.")]
ToZero = Annotated[int, typer.Option(min=1, help="Seconds without a request before the last replica goes.")]
Load = Annotated[float, typer.Option(min=0, help="Seconds a replica takes from wish to first answer.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Requests a replica works on at once. Default: the target.")]
First = Annotated[int, typer.Option(min=0, help="Replicas that are ready when the trace begins.")]
Peer = Annotated[
    bool, typer.Option("--clairvoyant", help="Compare with a scaler that knows the trace; takes a minute.")
]


@app.callback()
def _group() -> None:
    """Keeps `scaling` a word of its own while it is the only one."""


@app.command()
def scaling(
    trace: Trace,
    *,
    file: Manifest = None,
    least: Least = 1,
    most: Most = 10,
    concurrency: Concurrency = None,
    rate: Rate = None,
    stabilization: Stabilization = 300,
    to_zero: ToZero = 600,
    load_seconds: Load = 60.0,
    slots: Slots = None,
    first: First = 1,
    clairvoyant: Peer = False,
    output: Output = Form.TEXT,
) -> None:
    """Replay a trace of requests through the autoscaler: waits, replica-seconds, every change of size."""
    from llmops.judge.scaling import Limits  # noqa: PLC0415 - pydantic takes its time
    from llmops.judge.simulation import Fleet, autoscaler, simulate  # noqa: PLC0415
    from llmops.judge.simulation import clairvoyant as seer  # noqa: PLC0415

    limits = (
        _limits_of(file)
        if file
        else Limits(
            minimum=least,
            maximum=most,
            concurrency=16.0 if concurrency is None and rate is None else concurrency,
            requests_per_second=rate,
            stabilization=timedelta(seconds=stabilization),
            idle_after=timedelta(seconds=to_zero),
        )
    )
    requests = read(trace)
    fleet = Fleet(slots=slots or int(limits.concurrency or 16), load_seconds=load_seconds, first=first)
    ours = simulate(requests, autoscaler(limits), fleet)
    answer: dict[str, Any] = {"requests": len(requests), "autoscaler": _summary(ours)}
    if clairvoyant:
        best = seer(requests, limits, fleet, wait_seconds=ours.wait(0.95))
        answer["clairvoyant"] = _summary(best)
        answer["ratio"] = round(ours.replica_seconds / best.replica_seconds, 3)
    if output is Form.JSON:
        print_json(answer)
    else:
        _say(answer, ours)


def read(trace: Path) -> list[Request]:
    """The requests of a trace in the format of the Azure LLM inference traces."""
    from llmops.judge.simulation import requests  # noqa: PLC0415

    try:
        with trace.open(encoding="utf-8", newline="") as lines:
            rows = [
                (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
                for row in csv.DictReader(lines)
            ]
    except (KeyError, ValueError, TypeError) as error:
        raise CliError(f"{trace}: needs columns TIMESTAMP,ContextTokens,GeneratedTokens ({error!r})", 2) from error
    if not rows:
        raise CliError(f"{trace}: no requests", 2)
    return requests(rows)


def _limits_of(file: Path) -> Limits:
    import yaml  # noqa: PLC0415

    from llmops.api.llm_deployment import LLMDeployment  # noqa: PLC0415
    from llmops.api.problem import NeedsUser  # noqa: PLC0415
    from llmops.judge.scaling import Limits  # noqa: PLC0415

    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if isinstance(document, dict) and document.get("kind") == "LLMDeployment":
            try:
                return Limits.of(LLMDeployment.from_manifest(document).spec)
            except ValueError as error:
                raise CliError(f"{file}: not a valid LLMDeployment (llmops lint {file})", 2) from error
            except NeedsUser as problem:
                raise CliError(f"{file}: {problem.message}", 2) from problem
    raise CliError(f"{file}: no LLMDeployment in it", 2)


def _summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "replicaSeconds": round(outcome.replica_seconds),
        "waitSeconds": {f"p{int(share * 100)}": round(outcome.wait(share), 2) for share in (0.5, 0.95, 0.99)},
        "peak": outcome.peak,
        "reversals": outcome.reversals,
        "changes": [[round(at), size] for at, size in outcome.changes],
    }


def _say(answer: dict[str, Any], ours: Outcome) -> None:
    rows = []
    for who in ("autoscaler", "clairvoyant"):
        if who in answer:
            told = answer[who]
            waits = [f"{told['waitSeconds'][share]:.2f}" for share in ("p50", "p95", "p99")]
            rows.append([who, str(told["replicaSeconds"]), *waits, str(told["peak"]), str(told["reversals"])])
    typer.echo(f"{answer['requests']} requests; waits in seconds")
    table(["", "replica-s", "wait p50", "p95", "p99", "peak", "reversals"], rows)
    if "ratio" in answer:
        typer.echo(f"{answer['ratio']:.3f} times the replica-seconds of clairvoyance")
    typer.echo("sizes: " + ", ".join(f"{size} at {at:.0f} s" for at, size in ours.changes))
