"""What the operator reports about restore points: of a ModelBackup, and of a deployment's backups as a whole."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from llmops.api.meta import Condition, StatusModel
from llmops.api.rules import MapByKey

Count = Annotated[int, Field(ge=0)]


class RunStatus(StatusModel):
    """How the newest runs of one kind of job ended."""

    kind: Literal["Backup", "Verify", "Drill", "Collect"] = Field(description="Which job. Example: Verify.")
    last_success_time: datetime | None = Field(default=None, description="When one last succeeded (RFC 3339).")
    last_failure_time: datetime | None = Field(default=None, description="When one last failed (RFC 3339).")
    reason: str | None = Field(
        default=None, max_length=64, description="Why the last one failed. Example: RepositoryUnreachable."
    )
    message: str | None = Field(default=None, max_length=1024, description="What the last one said.")
    seconds: Count | None = Field(default=None, description="How long the last success took.")


class BackupStatus(StatusModel):
    """The newest restore point, and how the jobs that look after the points ended."""

    point: str | None = Field(
        default=None, max_length=128, description="The newest point. Example: support@2026-11-20T03:00:00Z."
    )
    bytes: Count | None = Field(default=None, description="Size of its files, in bytes.")
    stored_bytes: Count | None = Field(default=None, description="What they take in the repository, in bytes.")
    verified_point: str | None = Field(
        default=None, max_length=128, description="The newest point of which every byte was read again and was right."
    )
    runs: Annotated[list[RunStatus], MapByKey("kind")] = Field(
        default=[], max_length=8, description="How the newest runs ended, by kind of job."
    )

    def run(self, kind: str) -> RunStatus | None:
        """How the newest runs of this kind ended; `None` when none has."""
        return next((run for run in self.runs if run.kind == kind), None)


class ModelBackupStatus(StatusModel):
    """What became of the restore point."""

    observed_generation: Count = Field(default=0, description="The metadata.generation that this status is about.")
    conditions: Annotated[list[Condition], MapByKey("type")] = Field(
        default=[], max_length=16, description="What holds and why. Complete and Failed are the ends."
    )
    point: str | None = Field(
        default=None,
        max_length=128,
        description="The point, as a source names it after backup://. Example: support@2026-11-20T03:00:00Z.",
    )
    bytes: Count | None = Field(default=None, description="Size of its files, in bytes.")
    stored_bytes: Count | None = Field(
        default=None, description="What they take in the repository, in bytes; shared bytes count for each point."
    )
    new_bytes: Count | None = Field(default=None, description="What was stored that was not there before, in bytes.")
    digest: str | None = Field(
        default=None, max_length=128, description="Digest over the model's files. Example: sha256:4b7d..."
    )
    completion_time: datetime | None = Field(default=None, description="When the point was complete (RFC 3339).")
    verified_at: datetime | None = Field(
        default=None, description="When every byte of it had been read again and was right (RFC 3339)."
    )
    expires: datetime | None = Field(
        default=None, description="When retention drops it if backups go on as scheduled; absent: never (RFC 3339)."
    )
