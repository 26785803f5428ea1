"""Prometheus rules for restore points: too old, failing, damaged, not rehearsed, out of reach."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

DEPLOYMENT = "{{ $labels.namespace }}/{{ $labels.deployment }}"
# Where there is no point yet, its schedule's age stands for one.
NEWEST = "(llmops_backup_point_timestamp_seconds or llmops_backup_schedule_created_timestamp_seconds)"
TOO_OLD = f"time() - {NEWEST} > 1.5 * llmops_backup_interval_seconds"
RESTORE = "`llmops repo list` shows what could be restored; docs/backup.md says how."


def backup_groups(*, runbooks: str | None = None) -> list[Json]:
    """The one group for every deployment with spec.backup, over what the operator says of them."""
    alerts = [
        (
            "BackupTooOld",
            TOO_OLD,
            "critical",
            f"The newest restore point of {DEPLOYMENT} is older than one and a half times its schedule's interval.",
        ),
        (
            "BackupFailed",
            'llmops_backup_failing{kind=~"Backup|Collect", reason!="RepositoryUnreachable"} == 1',
            "warning",
            f"The last {{{{ $labels.kind }}}} of {DEPLOYMENT} failed: {{{{ $labels.reason }}}}.",
        ),
        (
            "VerifyFailed",
            'llmops_backup_failing{kind="Verify", reason!="RepositoryUnreachable"} == 1',
            "critical",
            f"Restore points of {DEPLOYMENT} did not pass verification: {{{{ $labels.reason }}}}. {RESTORE}",
        ),
        (
            "DrillFailed",
            'llmops_backup_failing{kind="Drill", reason!="RepositoryUnreachable"} == 1',
            "critical",
            f"A restore point of {DEPLOYMENT} was not restored in a rehearsal: {{{{ $labels.reason }}}}. {RESTORE}",
        ),
        (
            "RepositoryUnreachable",
            'max by (namespace, deployment) (llmops_backup_failing{reason="RepositoryUnreachable"}) == 1',
            "warning",
            f"The repository of {DEPLOYMENT} does not answer: nothing is backed up, verified or restorable meanwhile.",
        ),
    ]
    rules = [_alert(*alert, runbooks=runbooks) for alert in alerts]
    return [{"name": "llmops-backup", "interval": "1m", "rules": rules}]


def _alert(name: str, expr: str, severity: str, summary: str, *, runbooks: str | None) -> Json:
    annotations = {"summary": summary} | ({"runbook_url": f"{runbooks}#{name.lower()}"} if runbooks else {})
    return {"alert": name, "expr": expr, "for": "5m", "labels": {"severity": severity}, "annotations": annotations}
