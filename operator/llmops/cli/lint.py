"""`llmops lint`: the API server's verdict on manifests, without an API server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops import names
from llmops.cli.cluster import NO, CliError
from llmops.cli.output import Form, Output, print_json

if TYPE_CHECKING:
    from llmops.api.meta import KubeObject

_MODULES = {"LLMDeployment": "llm_deployment", "FineTuneJob": "fine_tune_job", "ModelBackup": "model_backup"}

Files = Annotated[list[str], typer.Argument(help="YAML files with any number of documents; - is standard input.")]


def lint(files: Files, *, output: Output = Form.TEXT) -> None:
    """Check manifests as the API server would. Exit code 1: something would be refused."""
    from llmops.api.refusals import refusals  # noqa: PLC0415 - pydantic takes its time

    verdicts = []
    for name in files:
        for number, manifest in enumerate(_documents(name), start=1):
            if not str(manifest.get("apiVersion", "")).startswith(f"{names.GROUP}/"):
                continue  # somebody else's kind, and his to judge
            kind = _model(manifest)
            problems = [f"kind: {manifest.get('kind')} is not one of {', '.join(_MODULES)}"] if kind is None else []
            problems += [] if kind is None else [str(problem) for problem in refusals(kind, manifest)]
            title = f"{manifest.get('kind')}/{(manifest.get('metadata') or {}).get('name', '?')}"
            verdicts.append({"file": name, "document": number, "object": title, "problems": problems})
    if output is Form.JSON:
        print_json(verdicts)
    else:
        _say(verdicts)
    if any(verdict["problems"] for verdict in verdicts):
        raise typer.Exit(NO)


def _say(verdicts: list[dict[str, Any]]) -> None:
    for verdict in verdicts:
        where = f"{verdict['file']}: {verdict['object']}"
        if not verdict["problems"]:
            typer.echo(f"{where}: ok")
        for problem in verdict["problems"]:
            typer.echo(f"{where}: {problem}")
    if not verdicts:
        typer.echo(f"nothing of {names.GROUP} in these files")


def _documents(name: str) -> Iterator[dict[str, Any]]:
    import yaml  # noqa: PLC0415

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        for document in yaml.safe_load_all(text):
            yield from document.get("items", [document]) if isinstance(document, dict) else []
    except OSError as error:
        raise CliError(f"{name}: {error.strerror}", 2) from error
    except yaml.YAMLError as error:
        raise CliError(f"{name} is not YAML: {error}", NO) from error


def _model(manifest: dict[str, Any]) -> type[KubeObject] | None:
    kind = manifest.get("kind")
    if kind not in _MODULES or not find_spec(f"llmops.api.{_MODULES[kind]}"):
        return None
    model: type[KubeObject] = getattr(import_module(f"llmops.api.{_MODULES[kind]}"), kind)
    return model
