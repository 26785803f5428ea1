"""What the operator reports about an LLMDeployment. Facts that hold: numbers that move are metrics."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from llmops.api.backup_status import BackupStatus
from llmops.api.meta import Condition, StatusModel
from llmops.api.rules import MapByKey

Count = Annotated[int, Field(ge=0)]


class RestoredAdapter(StatusModel):
    """An adapter that came back with the model's files."""

    name: str = Field(max_length=63, description="Its name when it was backed up.")
    digest: str = Field(max_length=128, description="Digest over its files, shortened. Example: sha256:4b7d...")


class ModelStatus(StatusModel):
    """Which bytes are served."""

    revision: str | None = Field(
        default=None,
        max_length=255,
        description="The immutable revision that spec.model was resolved to. Example: a commit.",
    )
    digest: str | None = Field(
        default=None, max_length=128, description="Digest over every file's name and hash. Example: sha256:4b7d..."
    )
    bytes: Count | None = Field(default=None, description="Size of all files, in bytes.")
    adapters: Annotated[list[RestoredAdapter], MapByKey("name")] = Field(
        default=[], max_length=32, description="Adapters that came back with the files from a restore point."
    )


class WeightsStatus(StatusModel):
    """Where the model's files are."""

    claim: str | None = Field(
        default=None, max_length=253, description="Volume claim that holds the files. Example: support-weights-1f0c."
    )
    path: str | None = Field(default=None, max_length=1024, description="Directory of the files on the volume.")


class AdapterStatus(StatusModel):
    """How far an adapter is."""

    name: str = Field(max_length=63, description="Name of the adapter, as in spec.adapters.")
    source: str | None = Field(
        default=None, max_length=1024, description="Where the files of this digest came from, as in spec.adapters."
    )
    digest: str | None = Field(
        default=None, max_length=128, description="Digest over every file's name and hash. Example: sha256:4b7d..."
    )
    ready_replicas: Count = Field(default=0, description="Replicas that provably serve it.")
    message: str | None = Field(
        default=None,
        max_length=512,
        description="What it waits for or why it is not served, until every replica has it.",
    )


class LastScale(StatusModel):
    """The last time the autoscaler changed the number of replicas; kept here because Events are gone after an hour."""

    time: datetime = Field(description="When it was decided (RFC 3339, UTC).")
    from_replicas: Count = Field(description="Replicas before.")
    to_replicas: Count = Field(description="Replicas from then on.")
    reason: str = Field(max_length=64, description="Why, as one word. Example: DemandRose.")
    message: str = Field(default="", max_length=512, description="Why, as a sentence with the load that was measured.")


class LLMDeploymentStatus(StatusModel):
    """What is so."""

    observed_generation: Count = Field(default=0, description="The metadata.generation that this status is about.")
    conditions: Annotated[list[Condition], MapByKey("type")] = Field(
        default=[], max_length=16, description="What holds and why. Ready is the one to wait for."
    )
    replicas: Count = Field(default=0, description="Replicas that exist, ready or not.")
    ready_replicas: Count = Field(default=0, description="Replicas that answer requests.")
    desired_replicas: Count | None = Field(
        default=None, description="Replicas that should exist now: spec.replicas, or what load asks for."
    )
    last_scale: LastScale | None = Field(
        default=None, description="The last change of size by load; `kubectl describe` shows earlier ones as Events."
    )
    selector: str | None = Field(
        default=None, max_length=1024, description="Label selector of the pods, for HorizontalPodAutoscalers."
    )
    model: ModelStatus = Field(default=ModelStatus(), description="Which bytes are served.")
    weights: WeightsStatus = Field(default=WeightsStatus(), description="Where the model's files are.")
    adapters: Annotated[list[AdapterStatus], MapByKey("name")] = Field(
        default=[], max_length=32, description="How far each adapter is."
    )
    cost_per_hour: str | None = Field(
        default=None,
        max_length=32,
        description="Cost of an hour of the pods there are, where the profile has a price. Example: 2.40.",
    )
    backup: BackupStatus | None = Field(
        default=None, description="The newest restore point, and how the jobs that look after the points ended."
    )
    endpoint: str | None = Field(
        default=None,
        max_length=512,
        description="Base URL for OpenAI clients. Example: http://llmops-gateway.llmops-system.svc/v1.",
    )
