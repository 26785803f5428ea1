"""JSON schemas for kubeconform, taken from the API server itself: it is the authority, and it needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
REF = "#/definitions/"
# Where the server's swagger says "string" and takes a number as well.
EITHER = {"type": ["string", "integer"]}


def write_schemas(swagger: Json, folder: Path) -> str:
    """One strict schema file per kind into `folder`; returns kubeconform's `-schema-location` for them."""
    definitions = {
        name: EITHER if name.endswith((".IntOrString", ".Quantity")) else strict(definition)
        for name, definition in swagger["definitions"].items()
    }
    for name, definition in swagger["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].partition(".")[0]
            version = f"{group}-{kind['version']}" if group else kind["version"]
            needed = {needed: definitions[needed] for needed in closure(name, definitions)}
            schema = {"$ref": REF + name, "definitions": needed}
            (folder / f"{kind['kind'].lower()}-{version}.json").write_text(json.dumps(schema))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def strict(schema: Json) -> Json:
    """The schema without extensions, every object closed that lists its fields."""
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return EITHER
    kept = {key: value for key, value in schema.items() if not key.startswith("x-")}
    for key in ("items", "additionalProperties", "not"):
        if isinstance(kept.get(key), dict):
            kept[key] = strict(kept[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in kept:
            kept[key] = [strict(each) for each in kept[key]]
    if "properties" in kept:
        kept["properties"] = {name: strict(field) for name, field in kept["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    return kept


def closure(name: str, definitions: Json) -> set[str]:
    """`name` and every definition it leads to."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        if (here := waiting.pop()) not in found:
            found.add(here)
            waiting.extend(references(definitions[here]))
    return found


def references(node: Any) -> Iterator[str]:
    """Names of the definitions that a schema refers to directly."""
    if isinstance(node, dict):
        target = node.get("$ref")
        if isinstance(target, str):
            yield target.removeprefix(REF)
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)
