"""spec.backup: in which repository an LLMDeployment's restore points are, how often one is made, how long they stay."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmops.api.fields import DNS_LABEL, Cron, SecretRef, TimeZone, sources
from llmops.api.meta import SpecModel
from llmops.api.rules import Matches, Rule

TARGET_SCHEMES = ("s3", "gs", "az", "pvc")

Schedule = Annotated[
    Cron,
    Rule(
        # Kubernetes' CronJobs, which run these, have no day 7.
        cel="!self.matches(' [^ /]*7[^ ]*$')",
        holds=lambda cron: "7" not in cron.rpartition(" ")[2].partition("/")[0],
        message="'{self}' has 7 as a day of the week: write Sunday as 0",
    ),
]
Keep = Annotated[int, Field(ge=0, le=1000)]
PointsName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(DNS_LABEL, "'{self}' cannot name restore points: use lower case letters, digits and '-', as in support"),
]


class RetentionSpec(SpecModel):
    """Which points stay. Whatever it says, the newest verified point, the one in use and held ones do."""

    keep_last: Keep = Field(default=0, description="Newest points that stay. Default: 0. Example: 7.")
    daily: Keep = Field(default=0, description="Days (UTC) of which the newest point stays. Default: 0. Example: 7.")
    weekly: Keep = Field(default=0, description="ISO weeks of which the newest point stays. Default: 0. Example: 4.")
    monthly: Keep = Field(default=0, description="Months of which the newest point stays. Default: 0. Example: 12.")
    yearly: Keep = Field(default=0, description="Years of which the newest point stays. Default: 0. Example: 5.")
    rules = (
        Rule(
            path=".keepLast",
            cel="self.keepLast + self.daily + self.weekly + self.monthly + self.yearly > 0",
            holds=lambda r: r.keep_last + r.daily + r.weekly + r.monthly + r.yearly > 0,
            message="a retention that keeps nothing: give at least one number (keepLast: 7 is a good start), or leave "
            "retention out to keep every point",
            cause="FieldValueRequired",
        ),
    )


class VerifySpec(SpecModel):
    """How stored points are proven: their bytes are read again, a share at each run."""

    schedule: Schedule = Field(
        default="0 5 * * 0",
        description="When to verify, as cron in spec.backup.timeZone. Default: 0 5 * * 0, Sundays at five.",
    )
    cover_days: Annotated[int, Field(ge=1, le=366)] = Field(
        default=30, description="Days within which every stored byte is read again. Default: 30."
    )


class DrillSpec(SpecModel):
    """A rehearsal: a random point is restored into a scratch volume, every digest checked, the time taken."""

    schedule: Schedule = Field(description="When to rehearse, as cron in spec.backup.timeZone. Example: '0 6 1 * *'.")


class ObjectLockSpec(SpecModel):
    """S3 Object Lock on everything a point needs, renewed when a newer point needs it too."""

    mode: Literal["Governance", "Compliance"] = Field(
        description="Compliance: nobody deletes a locked object; Governance: only who has a special right. "
        "Example: Governance."
    )
    days: Annotated[int, Field(ge=1, le=36_500)] = Field(
        description="Days that a point stays locked after it was made. Example: 30."
    )


class BackupSpec(SpecModel):
    """Where restore points go, how often one is made, how they are proven and how long they stay."""

    target: Annotated[str, Field(max_length=1024), sources(TARGET_SCHEMES, says="where to")] = Field(
        description="The repository: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or "
        "pvc://CLAIM/PATH. Deployments that share one store what they have in common once. Example: s3://backups/llm."
    )
    secret_ref: SecretRef = Field(
        description="The repository's key and the target's credentials. Its keys become environment variables of the "
        "jobs: LLMOPS_REPOSITORY_KEY (at least 16 characters; without it no point can be restored), "
        "LLMOPS_REPOSITORY_KEY_PREVIOUS while the key is changed, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_SERVICE_ACCOUNT_KEY; AZURE_STORAGE_ACCOUNT_NAME, "
        "AZURE_STORAGE_ACCOUNT_KEY. Example: {name: backups}."
    )
    name: PointsName | None = Field(
        default=None,
        description="What its points are called in the repository. Give it where several namespaces share one. "
        "Default: metadata.name. Example: team-a-support.",
    )
    schedule: Schedule | None = Field(
        default=None, description="When to make a point, as cron. Default: only by ModelBackups. Example: '0 3 * * *'."
    )
    time_zone: TimeZone = Field(
        default="UTC", description="Time zone of the schedules. Default: UTC. Example: Europe/Berlin."
    )
    retention: RetentionSpec | None = Field(default=None, description="Which points stay. Default: all.")
    verify: VerifySpec = Field(default=VerifySpec(), description="How stored points are proven.")
    drill: DrillSpec | None = Field(default=None, description="A rehearsal of restoring. Default: none.")
    object_lock: ObjectLockSpec | None = Field(
        default=None, description="S3 Object Lock; the bucket must have it enabled. Default: none."
    )
    weights: Literal["Auto", "Pointer", "Full"] = Field(
        default="Auto",
        description="Pointer keeps files of a pinned hf:// revision as an address and a digest, Full keeps their "
        "bytes. Auto is Pointer for hf:// models without a secretRef, and Full for all else. Pointers to gated models "
        "need HF_TOKEN in secretRef when they are restored. "
        "Default: Auto.",
    )
    suspend: bool = Field(
        default=False, description="Make, verify and drop nothing for now; what is stored stays. Default: false."
    )
    rules = (
        Rule(
            path=".objectLock",
            cel="!has(self.objectLock) || self.target.startsWith('s3://')",
            holds=lambda b: b.object_lock is None or b.target.startswith("s3://"),
            message="only s3:// targets have Object Lock, and the target is {self.target}: leave objectLock out",
            cause="FieldValueForbidden",
        ),
    )
