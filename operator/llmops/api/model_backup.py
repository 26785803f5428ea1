"""ModelBackup: one restore point of an LLMDeployment, asked for by hand or made by its schedule."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from llmops.api.backup_status import ModelBackupStatus
from llmops.api.fields import ObjectName
from llmops.api.meta import KubeObject, SpecModel
from llmops.api.rules import Matches, Rule, Transition

POINT = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
_NAME = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _fixed(field: str, name: str) -> Transition:
    return Transition(
        path=f".{field}",
        cel=f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        holds=lambda new, old: getattr(new, name) == getattr(old, name),
        message="a restore point stays what it is: create another ModelBackup (only hold may change)",
    )


class ModelBackupSpec(SpecModel):
    """Of what the point is. Where it goes is in the deployment's spec.backup."""

    deployment: ObjectName = Field(
        description="LLMDeployment of this namespace that has spec.backup. Example: support."
    )
    point: Annotated[
        str,
        Field(max_length=20),
        Matches(POINT, "'{self}' is not the name of a point: write a time in UTC, as in 2026-11-20T03:00:00Z"),
    ] | None = Field(
        default=None,
        description="Name of the point, a time in UTC. Default: when this object was created. "
        "Example: 2026-11-20T03:00:00Z.",
    )  # fmt: skip
    hold: bool = Field(default=False, description="Keep the point whatever retention says. Default: false.")
    transitions = (_fixed("deployment", "deployment"), _fixed("point", "point"))


class ModelBackup(KubeObject):
    """One restore point: the model's files, its adapters and its resources, at one time.

    The object is a record: deleting it deletes nothing from the repository.
    """

    api_version: Literal["llmops.dev/v1alpha1"] = Field(description="Version of the API.")
    kind: Literal["ModelBackup"] = Field(description="Kind of the object.")
    spec: ModelBackupSpec = Field(description="Of what the point is. Written by users, and by a schedule.")
    status: ModelBackupStatus = Field(
        default=ModelBackupStatus(), description="What became of it. Written by the operator only."
    )
    rules = (
        Rule(
            path=".metadata.name",
            cel="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
            holds=lambda o: not o.metadata.name or _NAME.fullmatch(o.metadata.name) is not None,
            message="'{self.metadata.name}' cannot name the pods of a backup: use at most 63 lower case letters, "
            "digits and '-'",
        ),
    )

    @property
    def scheduled(self) -> bool:
        """Whether a schedule made it, whose Job makes the point."""
        return any(owner.kind == "LLMDeployment" for owner in self.metadata.owner_references)

    @property
    def taken(self) -> datetime:
        """The time that names the point."""
        if self.spec.point:
            return datetime.fromisoformat(self.spec.point)
        created = self.metadata.creation_timestamp
        return created or datetime.fromtimestamp(0, UTC)
