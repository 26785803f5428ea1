"""`llmops`, also `kubectl llm`: what people ask of the operator, answered from the cluster with their own rights."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["main"]

_EPILOG = (
    "Exit codes: 0 yes; 1 no (not ready, refused, a problem was found); 2 wrong usage; 3 not found; 4 not permitted; "
    "5 the cluster or the gateway cannot be reached; 130 interrupted."
)

# Rooms with more than one command, imported only when one of theirs is asked for: their libraries are heavy.
_GROUPS = {
    "backup": ("llmops.cli.backup", "A restore point now, the points there are, a deployment brought back from one."),
    "repo": ("llmops.cli.repo", "Look into a weights repository, check it, take things out."),
    "dataset": ("llmops.cli.dataset", "Check training data as a FineTuneJob would."),
    "estimate": ("llmops.cli.estimate", "What a load of requests, or a fine-tuning, will cost."),
    "drift": ("llmops.cli.drift", "What drifted, and from which baseline."),
}


def main() -> None:
    """The entry point of both names."""
    application()()


def application() -> Any:
    """The command line as a value: the reference page is generated from it, and tests call it."""
    import typer  # noqa: PLC0415 - 50 ms that `import llmops.cli.anything` must not pay

    from llmops.cli import chat, cost, doctor, explain, keys, lint, logs, report, simulate, status  # noqa: PLC0415
    from llmops.cli.lazy import group  # noqa: PLC0415

    installed = {name: entry for name, entry in _GROUPS.items() if find_spec(entry[0])}
    app = typer.Typer(
        name="llmops",
        cls=group(installed, lambda module: import_module(module).app),
        help="What people ask of the operator, answered from the cluster with their own rights. Also `kubectl llm`.",
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # boxes around the help would triple the start-up time
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in (status.status, chat.chat, lint.lint, logs.logs, cost.cost, doctor.doctor, report.report):
        app.command()(command)
    app.add_typer(explain.app, name="explain")
    app.add_typer(simulate.app, name="simulate")
    app.add_typer(keys.app, name="keys")
    return app
