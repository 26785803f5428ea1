"""Objects derived from the definitions of our kinds: mostly right, most with something wrong about them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from tests.apiserver.specs import ACCEPTABLE

Json = dict[str, Any]
Path = tuple[str | int, ...]

# What somebody who means harm, or whose template engine failed, writes into a field.
STRANGE: tuple[Any, ...] = (
    None,
    "",
    " ",
    "x" * 5000,
    "\x00",
    "$(HF_TOKEN)",
    "../../../etc/passwd",
    "a\nb: c",
    "--privileged",
    "{{ .Values.secret }}",
    "ä" * 70,
    "-1",
    "1e999",
    -1,
    0,
    2**31,
    2**63,
    0.5,
    True,
    [],
    {},
    ["a", "a"],
    {"": ""},
    [None],
    [{}],
    {"a": {"b": {"c": None}}},
)


def mutations(plural: str, schema: Json, count: int, seed: int) -> Iterator[Json]:
    """`count` objects of a kind, each grown from its schema and then hurt in up to two places."""
    chance = random.Random(f"{plural}/{seed}")
    for number in range(count):
        found = copy.deepcopy(ACCEPTABLE[plural])
        found["metadata"]["name"] = f"mutation-{number}"
        spec = schema["properties"]["spec"]
        for _ in range(chance.randrange(3)):
            name = chance.choice(sorted(spec["properties"]))
            found["spec"][name] = grown(spec["properties"][name], chance)
        for _ in range(chance.randrange(3)):
            hurt(found["spec"], chance)
        yield found


def grown(schema: Json, chance: random.Random) -> Any:
    """A value as the schema asks for it, as far as the schema says."""
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {})
        if not fields and "additionalProperties" in schema:
            return {f"key-{n}": grown(schema["additionalProperties"], chance) for n in range(chance.randrange(3))}
        chosen = set(schema.get("required", [])) | {name for name in fields if chance.random() < 0.4}
        return {name: grown(fields[name], chance) for name in sorted(chosen)}
    if kind == "array":
        return [grown(schema["items"], chance) for _ in range(chance.randrange(3))]
    if kind == "integer":
        low = schema.get("minimum", 0)
        return chance.randint(low, min(schema.get("maximum", low + 100), low + 100))
    if kind == "boolean":
        return chance.random() < 0.5
    return chance.choice(["hf://org/model", "s3://bucket/key", "main", "a", "10Gi", "0.5", "cpu", "finetune://job"])


def hurt(spec: Json, chance: random.Random) -> None:
    """Replace, remove or add something somewhere."""
    where = chance.choice(list(places(spec)))
    parent: Any = spec
    for part in where[:-1]:
        parent = parent[part]
    how = chance.randrange(3)
    strange = copy.deepcopy(chance.choice(STRANGE))  # a copy: the next one to be hurt may be within it
    if how == 0:
        del parent[where[-1]]
    elif how == 1 and isinstance(parent, dict):
        parent[chance.choice(["privileged", "hostNetwork", "x-unknown", "Model"])] = strange
    else:
        parent[where[-1]] = strange


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a value, but its root."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))
