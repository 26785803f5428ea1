"""`llmops estimate finetune`: whether a FineTuneJob fits, how long it takes and what it costs."""

from __future__ import annotations

import re
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from llmops.api.fine_tune_job import FineTuneJob
from llmops.cli.amounts import decimal
from llmops.cli.cluster import NO, CliError
from llmops.cli.output import Form, Output, print_json
from llmops.config import Profile
from llmops.judge import budget, fit, training_cost
from llmops.judge.cost import CENT

USAGE = 2
_UNITS = {"": 1, "M": 10**6, "B": 10**9, "T": 10**12}

File = Annotated[Path, typer.Argument(help="Manifest with the FineTuneJob.", exists=True, dir_okay=False)]
Parameters = Annotated[str, typer.Option(help="Weights of the base model, as in 8B or 125M.")]
Shape = Annotated[int, typer.Option(min=0, help="Of the base model. Default: of the usual model nearest in size.")]
Profiles = Annotated[
    Path | None,
    typer.Option(help="Chart values, or the operator's configuration, with `profiles`.", exists=True, dir_okay=False),
]
Memory = Annotated[str, typer.Option(help="Memory of one accelerator, as in 24Gi. Default: the profile's.")]
Price = Annotated[str, typer.Option(help="Price of one accelerator for an hour. Default: the profile's.")]
Speed = Annotated[str, typer.Option(help="Tokens per second of one accelerator, as a run of yours has shown.")]
Teraflops = Annotated[str, typer.Option(help="In its place: the accelerator's peak, in 10^12 operations per second.")]
Share = Annotated[str, typer.Option(help="Part of that peak that training reaches.")]


def finetune(
    file: File,
    *,
    parameters: Parameters,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the data set.")],
    tokens_per_row: Annotated[int, typer.Option(min=1, help="Tokens of a row, on average.")],
    hidden_size: Shape = 0,
    layers: Shape = 0,
    vocabulary: Shape = 0,
    profiles: Profiles = None,
    memory: Memory = "",
    price_per_hour: Price = "",
    tokens_per_second: Speed = "",
    teraflops: Teraflops = "",
    utilization: Share = "0.3",
    stated: Annotated[str, typer.Option(help="A cost stated elsewhere, to be checked.")] = "",
    output: Output = Form.TEXT,
) -> None:
    """What a FineTuneJob needs. Exit code 1: it does not fit, is over its bounds, or costs other than stated."""
    spec = _job(file).spec
    profile = _profile(profiles, spec.accelerator.profile, memory, price_per_hour)
    model = training_cost.shaped(_weights(parameters), hidden=hidden_size, layers=layers, vocabulary=vocabulary)
    gpu = spec.accelerator.profile != "cpu" if profiles is None else profile.resource is not None
    need = fit.need(spec, model, gpu=gpu)
    if tokens_per_second:
        speed = decimal(tokens_per_second)
    elif teraflops:
        operations = training_cost.operations_per_token(spec, model, gpu=gpu)
        speed = decimal(teraflops) * 10**12 * decimal(utilization) / operations
    else:
        raise CliError("say how fast: --tokens-per-second, or --teraflops of the accelerator", USAGE)
    if speed <= 0:
        raise CliError("at that speed nothing is ever trained", USAGE)
    found = training_cost.estimate(
        spec,
        training_cost.tokens(spec, rows=rows, tokens_per_row=tokens_per_row),
        tokens_per_second=speed,
        price_per_hour=Decimal(profile.price_per_hour) if profile.price_per_hour else None,
    )
    have = fit.memory(profile)
    wrong = [
        f"it needs {fit.gib(need.total)} and has {fit.gib(have)}" if have is not None and need.total > have else "",
        f"spec.deadlineSeconds is {spec.deadline_seconds}" if found.seconds > (spec.deadline_seconds or 10**12) else "",
        f"spec.budget.gpuHours is {spec.budget.gpu_hours}"
        if spec.budget and found.seconds * found.accelerators > budget.seconds(spec)
        else "",
        found.disagreement(decimal(stated)) if stated else "",
    ]
    problems = [each for each in wrong if each]
    if output is Form.JSON:
        facts = {**asdict(found), "acceleratorHours": found.accelerator_hours.quantize(CENT), "problems": problems}
        print_json({"memory": {**asdict(need), "total": need.total, "available": have}, **facts})
    else:
        _tell(need, have, found, speed, problems)
    if problems:
        raise typer.Exit(NO)


def _tell(need: fit.Need, have: int | None, found: training_cost.Estimate, speed: Decimal, problems: list[str]) -> None:
    room = f" of {fit.gib(have)}" if have is not None else "; the profile's memory is not known"
    typer.echo(f"memory  {need.sentence()} per accelerator{room}")
    hours, minutes = divmod(-(-found.seconds // 60), 60)
    pace = f"{found.tokens:,} tokens at {speed:,.0f} tokens/s on each of {found.accelerators}"
    typer.echo(f"time    {hours} h {minutes:02} min for {pace}")
    paid = f"{found.cost.quantize(CENT):,}" if found.cost is not None else "unknown: give --price-per-hour"
    typer.echo(f"cost    {paid} for {found.accelerator_hours.quantize(CENT):,} accelerator hours")
    for problem in problems:
        typer.echo(f"but     {problem}")


def _job(file: Path) -> FineTuneJob:
    try:
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if isinstance(manifest, dict) and manifest.get("kind") == "FineTuneJob":
                return FineTuneJob.from_manifest(manifest)
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be used: {error}. llmops lint says more.", USAGE) from error
    raise CliError(f"{file} holds no FineTuneJob", USAGE)


def _profile(file: Path | None, name: str, memory: str, price: str) -> Profile:
    given: dict[str, Any] = {}
    if file is not None:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        given = (document.get("profiles") or {}).get(name) or {}
        if not given:
            raise CliError(f"{file} has no profile '{name}', which the job names", USAGE)
    told = {key: value for key, value in (("memory", memory), ("pricePerHour", price)) if value}
    try:
        return Profile.model_validate({"image": "any", **given, **told})
    except ValidationError as error:
        first = error.errors()[0]
        raise CliError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", USAGE) from error


def _weights(text: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([MBT]?)", text)
    if found is None or not float(found[1]):
        raise CliError(f"'{text}' is not a number of weights: write it like 8B or 125M", USAGE)
    return int(Decimal(found[1]) * _UNITS[found[2]])
