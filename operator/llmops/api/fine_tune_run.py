"""How a training run is placed, bounded and kept: accelerators, volume, checkpoints, budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmops.api.fields import ObjectName, ProfileName
from llmops.api.meta import SpecModel
from llmops.api.quantity import SIZE
from llmops.api.rules import Matches

HOURS = "[0-9]{1,6}([.][0-9]{1,3})?"


class CheckpointSpec(SpecModel):
    """How much an interruption may cost."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=50, description="Optimizer steps between checkpoints; an eviction with notice costs none. Default: 50."
    )
    keep: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Checkpoints kept besides the best one. Default: 2."
    )


class EarlyStoppingSpec(SpecModel):
    """When to stop because nothing gets better."""

    patience: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="Evaluations in a row without a better loss after which training stops. Default: 3."
    )


class TrainingAcceleratorSpec(SpecModel):
    """What one training pod computes on."""

    profile: ProfileName = Field(
        default="cpu",
        description="A profile that the platform team has configured (Helm value `profiles`). Default: cpu. "
        "Example: nvidia-l4.",
    )
    count: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Accelerators in one pod, each with a process of its own (torchrun); on a CPU profile, processes. "
        "Default: 1. Example: 8.",
    )


class BudgetSpec(SpecModel):
    """What the job may cost, over all of its attempts."""

    gpu_hours: Annotated[
        str,
        Field(max_length=10),
        Matches(HOURS, "'{self}' is not a number of hours: write a decimal in quotes, as in '12.5'"),
    ] = Field(
        description="Hours of accelerators (pods x count, from the moment a node has taken the pod); on a CPU profile, "
        "of its processes. Used up, the job ends with a checkpoint. Example: '12.5'."
    )


class JobStorageSpec(SpecModel):
    """The job's own volume: the base model if it is fetched, prepared rows, checkpoints and the artifact."""

    size: Annotated[
        str,
        Field(max_length=24),
        Matches(SIZE.strip("^$"), "'{self}' is not the size of a volume: write a number and a unit, as in 40Gi"),
    ] = Field(
        default="20Gi",
        description="Size of the volume. Default: 20Gi. Example: 40Gi.",
    )
    class_name: ObjectName | None = Field(
        default=None, description="StorageClass of the volume. Default: the cluster's. Example: fast-ssd."
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = Field(
        default="ReadWriteOnce",
        description="ReadWriteMany lets the pods of nodes > 1 run on several nodes; with ReadWriteOnce they share one. "
        "Default: ReadWriteOnce.",
    )
