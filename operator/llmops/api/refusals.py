"""What is wrong with a manifest, as the API server would say it: a field and a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from llmops.api.meta import KubeObject, Ruled


@dataclass(frozen=True)
class Refusal:
    """One reason not to accept an object.

    Attributes:
        field: As Kubernetes writes it: `spec.adapters[0].source`.
        message: What is wrong, and what to write instead.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def refusals(kind: type[KubeObject], manifest: Mapping[str, Any], old: KubeObject | None = None) -> list[Refusal]:
    """Everything that speaks against a manifest; empty when the API server would take it.

    Args:
        kind: What it should be.
        manifest: As read from a file.
        old: The stored object that it would replace.
    """
    try:
        new = kind.from_manifest(manifest)
    except ValidationError as error:
        return [_refusal(problem) for problem in error.errors(include_url=False, include_input=False)]
    return [] if old is None else list(_changes(new, old, ""))


def _refusal(problem: Any) -> Refusal:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    return Refusal((field + problem.get("ctx", {}).get("path", "")).lstrip("."), problem["msg"])


def _changes(new: Ruled, old: Ruled, path: str) -> Iterator[Refusal]:
    for transition in new.transitions:
        if not transition.holds(new, old):
            yield Refusal(path + transition.path, transition.message)
    for name in type(new).model_fields:
        after, before = getattr(new, name), getattr(old, name)
        if isinstance(after, Ruled) and isinstance(before, Ruled):
            yield from _changes(after, before, f"{path}.{to_camel(name)}".lstrip("."))
