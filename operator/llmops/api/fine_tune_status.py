"""What the operator reports about a FineTuneJob, in coarse steps: numbers that move are metrics."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from llmops.api.meta import Condition, StatusModel
from llmops.api.rules import MapByKey

Count = Annotated[int, Field(ge=0)]
Decimal = Annotated[str, Field(max_length=32)]


class ProgressStatus(StatusModel):
    """How far training is."""

    step: Count = Field(default=0, description="Optimizer steps done.")
    total_steps: Count | None = Field(default=None, description="Optimizer steps there will be.")
    epoch: Decimal | None = Field(default=None, description='Passes over the data, a decimal. Example: "1.25".')
    train_loss: Decimal | None = Field(default=None, description='Loss on the training rows. Example: "1.93".')
    eval_loss: Decimal | None = Field(default=None, description='Loss on the held-out rows. Example: "2.04".')
    best_eval_loss: Decimal | None = Field(default=None, description='Lowest of those so far. Example: "2.01".')
    best_step: Count | None = Field(default=None, description="Step of the lowest one; that checkpoint is exported.")
    tokens_per_second: Count | None = Field(default=None, description="Tokens trained per second, padding left out.")
    eta_seconds: Count | None = Field(default=None, description="Seconds that were left to train at this step.")
    last_checkpoint_step: Count | None = Field(default=None, description="Step that an interruption goes back to.")
    restarts: Count = Field(default=0, description="How often it was interrupted and went on.")


class BaseModelStatus(StatusModel):
    """How large the base model is, as the check of the data has found it."""

    parameters: Count = Field(default=0, description="Weights. Example: 8030261248.")
    hidden_size: Count = Field(default=0, description="Width of a layer. Example: 4096.")
    layers: Count = Field(default=0, description="Layers. Example: 32.")
    vocabulary_size: Count = Field(default=0, description="Tokens it knows. Example: 128256.")


class UsageStatus(StatusModel):
    """What training has used so far, in coarse steps while it runs."""

    accelerator_seconds: Count = Field(default=0, description="Seconds x accelerators of all training pods.")
    pods: Annotated[dict[str, Count], Field(max_length=256)] = Field(
        default={}, description="The part of it of each pod that still exists."
    )


class ArtifactStatus(StatusModel):
    """What came out."""

    uri: str | None = Field(default=None, max_length=1024, description="Where the artifact is. Example: s3://b/a/1f0c.")
    digest: str | None = Field(default=None, max_length=128, description="Digest over its files. Example: sha256:4b7d.")
    provenance: str | None = Field(
        default=None, max_length=1024, description="Where the record of base, data, settings and image is."
    )


class FineTuneJobStatus(StatusModel):
    """How far it is."""

    observed_generation: Count = Field(default=0, description="The metadata.generation that this status is about.")
    conditions: Annotated[list[Condition], MapByKey("type")] = Field(
        default=[], max_length=16, description="What holds and why. Complete and Failed are the ends."
    )
    start_time: datetime | None = Field(default=None, description="When the first pod was created (RFC 3339).")
    completion_time: datetime | None = Field(default=None, description="When the artifact was written (RFC 3339).")
    progress: ProgressStatus = Field(default=ProgressStatus(), description="How far training is.")
    base_model: BaseModelStatus = Field(default=BaseModelStatus(), description="How large the base model is.")
    usage: UsageStatus = Field(default=UsageStatus(), description="What training has used so far.")
    artifact: ArtifactStatus = Field(default=ArtifactStatus(), description="What came out.")
    evaluation: Annotated[dict[str, Decimal], Field(max_length=32)] = Field(
        default={},
        description="The result on the test rows by metric: its value, the base model's (baseX), and what was gained "
        'with a confidence interval of 95 % (xGain). Example: {evalLoss: "2.01"}.',
    )
