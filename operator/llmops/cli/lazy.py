"""Groups of commands whose module is imported when one of them is called, and not to show the help of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperGroup


def group(modules: Mapping[str, tuple[str, str]], load: Callable[[str], typer.Typer]) -> type[TyperGroup]:
    """A class of root command that knows `modules`: name -> (module with an `app`, one line of help)."""

    class Lazy(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return [*super().list_commands(ctx), *modules]

        # typer keeps its copy of click, and its types, to itself: hence Any
        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """A stand-in with the line for the help; `resolve_command` has the real one."""
            if cmd_name not in modules:
                return super().get_command(ctx, cmd_name)
            return TyperGroup(name=cmd_name, help=modules[cmd_name][1])

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args and args[0] in modules:
                return args[0], typer.main.get_group(load(modules[args[0]][0])), args[1:]
            return super().resolve_command(ctx, args)

    return Lazy
