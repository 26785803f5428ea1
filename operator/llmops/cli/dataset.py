"""`llmops dataset`: the check that a FineTuneJob makes of its data, on this machine and with the same code."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from llmops.api.fine_tune_job import PrepareSpec
from llmops.cli.cluster import NO, CliError
from llmops.cli.output import Form, Output, print_json

app = typer.Typer(help="Look at training data.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="JSONL, JSON, CSV or Parquet, plain or gzip.")]
Kind = Annotated[str, typer.Option("--format", help="Auto, Messages, PromptCompletion or Text.")]
Fraction = Annotated[float, typer.Option(help="Part of the rows to hold out.", min=0, max=0.99)]
Model = Annotated[
    Path | None, typer.Option(help="Directory of the base model: rows are counted in its tokens. Needs transformers.")
]
Length = Annotated[int, typer.Option(help="Longest row in tokens, with --model.", min=1)]
Method = Annotated[str, typer.Option(help="LoRA, QLoRA, Full, ContinuedPretraining or DPO.")]
Test = Annotated[Path | None, typer.Option(help="The file of spec.evaluation.dataset.")]
Prepare = Annotated[
    str, typer.Option(help="spec.dataset.prepare as YAML. Example: '{maskPersonalData: [Email], languages: [en]}'.")
]
KINDS = ("Auto", "Messages", "PromptCompletion", "Text", "Preference")


@app.callback()
def dataset() -> None:
    """Look at training data."""


@app.command()
def check(
    file: File,
    *,
    kind: Kind = "Auto",
    eval_fraction: Fraction = 0.05,
    model: Model = None,
    max_length: Length = 1024,
    method: Method = "LoRA",
    test_file: Test = None,
    prepare: Prepare = "{}",
    output: Output = Form.TEXT,
) -> None:
    """Check every row as a FineTuneJob would. Exit code 1: the data set would be refused."""
    from llmops_serving.jobs.dataset import check as job  # noqa: PLC0415 - numpy takes its time
    from llmops_serving.jobs.dataset import formats  # noqa: PLC0415
    from llmops_serving.jobs.ending import Stopped  # noqa: PLC0415

    if kind not in KINDS:
        raise CliError(f"--format {kind} is not one of {', '.join(KINDS)}", 2)
    wanted = job.Wanted(kind, eval_fraction, formats.not_taught(method), _preparation(prepare))  # type: ignore[arg-type]  # checked above
    test = (test_file, test_file.name) if test_file else None
    with tempfile.TemporaryDirectory(prefix="llmops-dataset-") as folder:
        try:
            report = job.checked((file, file.name), wanted, _renderer(model, max_length), Path(folder), test=test)
        except Stopped as refusal:
            _say({"outcome": refusal.outcome, "message": str(refusal), **refusal.facts}, output)
            raise typer.Exit(NO) from refusal
    _say({"outcome": "DatasetValid", "message": report.sentence(), **report.facts()}, output)


def _preparation(text: str) -> PrepareSpec:
    try:
        return PrepareSpec.model_validate(yaml.safe_load(text), by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors()[0]
        raise CliError(f"--prepare {'.'.join(map(str, first['loc']))}: {first['msg']}", 2) from error
    except yaml.YAMLError as error:
        raise CliError(f"--prepare is not YAML: {' '.join(str(error).split())}", 2) from error


def _renderer(model: Path | None, max_length: int) -> Any:
    if model is None:
        return None
    if importlib.util.find_spec("transformers") is None:
        raise CliError("--model needs transformers: pip install transformers", 2)
    from llmops_serving.jobs.dataset.rendering import Renderer  # noqa: PLC0415

    try:
        return Renderer.of(model, max_length=max_length)
    except (OSError, ValueError) as error:
        raise CliError(f"{model} holds no tokenizer that can be used: {error}", 2) from error


def _say(found: dict[str, Any], output: Form) -> None:
    if output is Form.JSON:
        print_json(found)
        return
    typer.echo(f"{found['outcome']}: {found['message']}")
    if tokens := found.get("tokens"):
        typer.echo(
            f"tokens: {tokens['p50']} in the middle, 95 % up to {tokens['p95']}, longest {tokens['max']}; "
            f"answers end in {', '.join(tokens['stop_tokens'])}"
        )
