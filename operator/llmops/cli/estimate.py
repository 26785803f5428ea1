"""`llmops estimate`: what a load costs, before anything runs."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops.cli import estimate_finetune
from llmops.cli.amounts import decimal
from llmops.cli.cluster import NO
from llmops.cli.output import Form, Output, print_json
from llmops.judge.cost import CENT, Requests

app = typer.Typer(help="What it will cost.", no_args_is_help=True)


@app.callback()
def estimate() -> None:
    """What it will cost."""


@app.command()
def requests(
    *,
    per_hour: Annotated[str, typer.Option(help="Requests in an hour.")],
    seconds: Annotated[str, typer.Option(help="Seconds that one keeps the accelerator.")],
    price_per_second: Annotated[str, typer.Option(help="Price of a second of the accelerator.")],
    price_per_request: Annotated[str, typer.Option(help="Price of a request, whatever it takes.")] = "0",
    days: Annotated[int, typer.Option(help="Days to add up.", min=1)] = 30,
    hours_per_day: Annotated[int, typer.Option(help="Hours of a day with that load.", min=1, max=24)] = 24,
    stated: Annotated[str, typer.Option(help="A cost per hour stated elsewhere, to be checked.")] = "",
    output: Output = Form.TEXT,
) -> None:
    """What a load of requests costs. Exit code 1: the stated cost is not the computed one."""
    load = Requests(decimal(per_hour), decimal(seconds), decimal(price_per_second), decimal(price_per_request))
    whole = load.cost(days=days, hours_per_day=hours_per_day)
    disagreement = load.disagreement(decimal(stated)) if stated else ""
    if output is Form.JSON:
        print_json({"perHour": load.cost_per_hour, "total": whole, "disagreement": disagreement})
    else:
        typer.echo(f"{load.cost_per_hour.quantize(CENT):,} per hour")
        typer.echo(f"{whole.quantize(CENT):,} for {days} days of {hours_per_day} hours")
        if disagreement:
            typer.echo(disagreement)
    if disagreement:
        raise typer.Exit(NO)


app.command()(estimate_finetune.finetune)
