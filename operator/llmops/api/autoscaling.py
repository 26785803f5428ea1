"""How load decides the number of replicas."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmops.api.fields import Cron, TimeZone
from llmops.api.meta import SpecModel
from llmops.api.quantity import RATE, IntOrString
from llmops.api.rules import Rule


class ScalingTarget(SpecModel):
    """The load that one replica should carry; where both are given, the one that asks for more replicas wins."""

    requests_per_second: Annotated[int | str, IntOrString(RATE, minimum=1)] | None = Field(
        default=None,
        description="Requests that arrive per second and replica: a whole number, or a decimal in quotes because API "
        'fields have no floating point. Example: 4 or "0.5".',
    )
    concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Requests in progress per replica. Example: 16."
    )
    rules = (
        Rule(
            cel="has(self.requestsPerSecond) || has(self.concurrency)",
            holds=lambda t: t.requests_per_second is not None or t.concurrency is not None,
            message="say how much one replica carries: give concurrency (16 is a good start) or requestsPerSecond",
            cause="FieldValueRequired",
        ),
    )

    @property
    def rate(self) -> float | None:
        """`requestsPerSecond` as a number."""
        return None if self.requests_per_second is None else float(self.requests_per_second)


class ScalingSchedule(SpecModel):
    """From each of these times on, another least number of replicas, until another schedule's time comes."""

    cron: Cron = Field(
        description="When it begins: minute, hour, day of month, month, day of week. Example: 0 7 * * 1-5."
    )
    time_zone: TimeZone = Field(
        default="UTC",
        description="IANA time zone that the cron expression means. Default: UTC. Example: Europe/Berlin.",
    )
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="Least number of replicas from then on. Example: 2."
    )


class AutoscalingSpec(SpecModel):
    """Let measured load decide the number of replicas."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1,
        description="Least number of replicas. 0 lets the model sleep; the next request is held, wakes it, and waits "
        "as long as a start takes. Default: 1.",
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(description="Most replicas. Example: 4.")
    target: ScalingTarget = Field(description="The load that one replica should carry.")
    scale_down_stabilization_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=300, description="How long demand must have been lower before replicas go, in seconds. Default: 300."
    )
    scale_to_zero_after_seconds: Annotated[int, Field(ge=1, le=604_800)] = Field(
        default=600,
        description="How long no request may have been there before the last replica goes, in seconds; only with "
        "minReplicas 0. Default: 600.",
    )
    schedules: list[ScalingSchedule] = Field(
        default=[], max_length=16, description="Times at which another least number of replicas begins."
    )
    rules = (
        Rule(
            path=".minReplicas",
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda a: a.min_replicas <= a.max_replicas,
            message="minReplicas {self.minReplicas} is more than maxReplicas {self.maxReplicas}: lower the one or "
            "raise the other",
        ),
        Rule(
            path=".schedules",
            cel="!has(self.schedules) || self.schedules.all(each, each.minReplicas <= self.maxReplicas)",
            holds=lambda a: all(each.min_replicas <= a.max_replicas for each in a.schedules),
            message="a schedule asks for more than maxReplicas {self.maxReplicas}: lower its minReplicas or raise "
            "maxReplicas",
        ),
    )
