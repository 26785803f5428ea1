"""From pydantic's JSON schema to the structural schema that Kubernetes takes.

What Kubernetes cannot say (unions, exclusive bounds) and what a good API does not leave open (a field without a
description, text, lists and maps without a bound) is an error here, so that it cannot be released.
"""

from __future__ import annotations

from typing import Any

from llmops.api.meta import KubeObject
from llmops.api.rules import VALIDATIONS

Json = dict[str, Any]

_BOUNDS = {"string": ("maxLength", "enum", "format"), "array": ("maxItems",), "map": ("maxProperties",)}
_DROPPED = {"title", "additionalProperties", "propertyNames", "default", "const", "$ref", "anyOf"}
_KEPT = {
    "type", "description", "enum", "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems",
    "maxItems", "minProperties", "maxProperties", "required", "properties", "items", VALIDATIONS,
    "x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip


class SchemaError(TypeError):
    """A model says something that a good CustomResourceDefinition cannot; the text names the field."""


def structural(model: type[KubeObject]) -> Json:
    """The `openAPIV3Schema` of a kind: everything inlined, defaults in the spec and none in the status."""
    printed = model.model_json_schema(by_alias=True)
    definitions = printed.get("$defs", {})
    fields = printed["properties"]
    schema: Json = {
        "type": "object",
        "description": printed["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": fields["apiVersion"]["description"]},
            "kind": {"type": "string", "description": fields["kind"]["description"]},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}},
            "spec": _Inliner(definitions, defaults=True).schema(fields["spec"], "spec"),
            "status": _unseen(_Inliner(definitions, defaults=False).schema(fields["status"], "status")),
        },
    }
    return schema | ({VALIDATIONS: printed[VALIDATIONS]} if VALIDATIONS in printed else {})


def _unseen(status: Json) -> Json:
    """A new object says that nobody has looked at it: without that, kstatus takes it for finished."""
    generation = {**status["properties"]["observedGeneration"], "minimum": -1}
    generation["description"] += " -1: nobody has looked yet."
    return {
        **status,
        "properties": {**status["properties"], "observedGeneration": generation},
        "default": {"observedGeneration": -1},
    }


class _Inliner:
    def __init__(self, definitions: Json, *, defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def schema(self, node: Json, path: str) -> Json:
        """One node and all below it."""
        node = self._resolved(node, path)
        if unknown := node.keys() - _KEPT - _DROPPED:
            raise SchemaError(f"{path}: {', '.join(sorted(unknown))} has no place in a structural schema")
        kept = {key: value for key, value in node.items() if key in _KEPT}
        if "x-kubernetes-int-or-string" in kept:
            return kept | {"anyOf": node["anyOf"]}
        if "const" in node:
            kept["enum"] = [node["const"]]
        if "properties" in node:
            kept["properties"] = {
                name: self._field(each, f"{path}.{name}") for name, each in node["properties"].items()
            }
        elif kept["type"] == "object" and "x-kubernetes-preserve-unknown-fields" not in kept:
            kept["additionalProperties"] = self.schema(node["additionalProperties"], f"{path}[*]")
        if "items" in node:
            kept["items"] = self.schema(node["items"], f"{path}[]")
        _require_bounds(kept, path)
        return kept

    def _field(self, node: Json, path: str) -> Json:
        field = self.schema(node, path)
        if not field.get("description"):
            raise SchemaError(f"{path} has no description")
        default = self._resolved(node, path).get("default")
        if self._defaults and default is not None:
            if field["type"] == "object":
                # Each field below brings its own; where none does, an empty object would only be noise.
                default = {} if any("default" in each for each in field.get("properties", {}).values()) else None
            if default not in (None, []):
                field["default"] = default
        return field

    def _resolved(self, node: Json, path: str) -> Json:
        """The node without references and without `null`: an absent field is how Kubernetes says none."""
        if "$ref" in node:
            beside = {key: value for key, value in node.items() if key != "$ref"}
            return self._resolved(self._definitions[node["$ref"].rpartition("/")[2]] | beside, path)
        if "anyOf" in node and "x-kubernetes-int-or-string" not in node:
            choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
            if len(choices) != 1:
                raise SchemaError(f"{path}: a structural schema has no unions")
            beside = {key: value for key, value in node.items() if key != "anyOf"}
            return self._resolved(choices[0], path) | beside
        return node


def _require_bounds(node: Json, path: str) -> None:
    kind = "map" if "additionalProperties" in node else node["type"]
    bounds = _BOUNDS.get(kind)
    if bounds and not any(bound in node for bound in bounds):
        raise SchemaError(f"{path}: a {kind} needs one of {', '.join(bounds)}")
    if kind == "integer" and "minimum" not in node:
        raise SchemaError(f"{path}: an integer needs a minimum")
