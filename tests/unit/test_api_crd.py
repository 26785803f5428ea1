"""The definitions as files: current, small, and with a word about every field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, create_model

from llmops.api import crd
from llmops.api.meta import KubeObject, SpecModel
from llmops.api.structural import SchemaError, structural

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 64 * 1024
each_kind = pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.plural)


@pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.plural)
def test_the_file_is_what_the_models_say(kind: crd.Kind) -> None:
    file = ROOT / "crds" / f"{kind.name}.yaml"
    assert file.read_text() == crd.text(kind), "run: python -m llmops.api.crd --write crds"


def test_no_definition_is_left_over() -> None:
    assert {file.name for file in (ROOT / "crds").iterdir()} == {f"{kind.name}.yaml" for kind in crd.KINDS}


@each_kind
def test_a_definition_stays_small(kind: crd.Kind) -> None:
    """As the API server holds and sends it: the file's indentation is for people."""
    assert len(json.dumps(crd.definition(kind), separators=(",", ":")).encode()) <= LIMIT_BYTES


@each_kind
def test_every_field_is_described(kind: crd.Kind) -> None:
    silent = [
        path
        for path, field in fields(structural(kind.model))
        if not path.startswith("metadata") and not field.get("description")
    ]
    assert silent == []


@each_kind
def test_every_optional_scalar_says_what_happens_without_it(kind: crd.Kind) -> None:
    spec = structural(kind.model)["properties"]["spec"]
    silent = [
        path
        for path, field in fields(spec)
        if not path.endswith("]")
        and field.get("type") in ("string", "integer", "boolean")
        and "Default:" not in field["description"]
        and "Example:" not in field["description"]
    ]
    assert silent == []


@each_kind
def test_the_default_in_the_text_is_the_default(kind: crd.Kind) -> None:
    spec = structural(kind.model)["properties"]["spec"]
    wrong = {
        path: field["default"]
        for path, field in fields(spec)
        if field.get("default") not in (None, {})
        and f"Default: {yaml.safe_dump(field['default']).splitlines()[0]}" not in field["description"]
    }
    assert wrong == {}


def fields(schema: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        path = f"{at}.{name}".lstrip(".")
        yield path, field
        yield from fields(field, path)
        yield from fields(field.get("items", {}), f"{path}[]")


def test_an_object_is_printed_with_its_names_columns_and_subresources() -> None:
    spec = crd.definition(crd.LLM_DEPLOYMENT)["spec"]
    version = spec["versions"][0]
    assert (spec["names"]["shortNames"], spec["names"]["categories"]) == (["llmd"], ["llmops"])
    narrow = [column["name"] for column in version["additionalPrinterColumns"] if not column.get("priority")]
    assert narrow == ["Ready", "Reason", "Replicas", "Desired", "Model", "Age"]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"
    assert "status" in version["subresources"]


class Silent(SpecModel):
    text: str = Field(max_length=3)


class Unbounded(SpecModel):
    text: str = Field(description="Any length.")


class Torn(SpecModel):
    text: int | list[int] = Field(description="Either.")


class Exclusive(SpecModel):
    text: int = Field(gt=0, description="More than none.")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (Silent, "spec.text has no description"),
        (Unbounded, "spec.text: a string needs one of maxLength"),
        (Torn, "spec.text: a structural schema has no unions"),
        (Exclusive, "spec.text: exclusiveMinimum has no place"),
    ],
)
def test_what_a_schema_cannot_say_well_is_not_printed(spec: type[SpecModel], says: str) -> None:
    example = create_model(
        "Example",
        __base__=KubeObject,
        __doc__="An example.",
        api_version=(str, Field(description="Version.")),
        kind=(str, Field(description="Kind.")),
        spec=(spec, Field(description="What is asked for.")),
        status=(dict[str, str], Field(default={}, description="What is so.")),
    )
    with pytest.raises(SchemaError, match=says):
        structural(example)
