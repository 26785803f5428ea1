"""What every kind shares: the strict base of specs, the lenient base of what the cluster fills in, object metadata."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from llmops.api.rules import VALIDATIONS, Rule, Transition


class Ruled(BaseModel):
    """A model with rules about more than one of its fields."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    transitions: ClassVar[tuple[Transition, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.rules:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        if own := [r.validation() for r in cls.rules] + [t.validation() for t in cls.transitions]:
            schema[VALIDATIONS] = own
        return schema


class SpecModel(Ruled):
    """Part of what a user writes: unknown fields and wrong types are refused, as the API server refuses them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_means_absent(cls, data: Any) -> Any:
        """The API server drops nulls of fields that are not nullable before it applies defaults."""
        return (
            {key: _without_nulls(value) for key, value in data.items() if value is not None}
            if isinstance(data, dict)
            else data
        )


def _without_nulls(value: Any) -> Any:
    """A map without entries that are null; a model below looks after its own."""
    return {key: entry for key, entry in value.items() if entry is not None} if isinstance(value, dict) else value


class StatusModel(BaseModel):
    """Part of what the operator reports: read leniently, because an older or newer operator may have written it."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    @field_validator("observed_generation", mode="before", check_fields=False)
    @classmethod
    def _never_looked_at(cls, value: Any) -> Any:
        """The schema's default for a new object is -1, which tells kstatus to wait for the operator."""
        return 0 if value == -1 else value


class OwnerReference(BaseModel):
    """Whose deletion deletes the object."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    kind: str
    name: str
    uid: str


class ObjectMeta(BaseModel):
    """The part of Kubernetes' object metadata that the operator reads."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(StatusModel):
    """One fact about the object that holds until the next entry of the same type replaces it."""

    type: str = Field(max_length=64, description="What the condition is about. Example: Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds. Unknown: nobody can tell.")
    observed_generation: int = Field(
        default=0, ge=0, description="The metadata.generation that was judged; an older one means: not yet looked at."
    )
    last_transition_time: datetime = Field(description="When `status` last changed (RFC 3339, UTC).")
    reason: str = Field(max_length=64, description="Why, as one word from a closed set. Example: WaitingForGPU.")
    message: str = Field(default="", max_length=4096, description="Why, as a sentence that says what to do.")


class KubeObject(Ruled):
    """A custom resource: apiVersion and kind, metadata, what is asked for (spec) and what is so (status)."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    api_version: str
    kind: str
    metadata: ObjectMeta

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """The object as read from the API server or a file.

        Raises:
            pydantic.ValidationError: What the API server would have refused, with the path of each field.
        """
        return cls.model_validate(manifest, by_alias=True, by_name=False)
