"""Alerts on restore points, judged by promtool: what the operator says of them, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmops.desired.alerts import rule_file
from llmops.desired.backup_rules import backup_groups

RULES = rule_file(backup_groups())
OWN = 'namespace="team-a",deployment="support"'
DAY = 86_400
GOOD = {
    f"llmops_backup_interval_seconds{{{OWN}}}": DAY,
    f"llmops_backup_schedule_created_timestamp_seconds{{{OWN}}}": 0,
}
POINT = {f"llmops_backup_point_timestamp_seconds{{{OWN}}}": 0}


def failing(kind: str, reason: str) -> dict[str, int]:
    return {f'llmops_backup_failing{{{OWN},kind="{kind}",reason="{reason}"}}': 1}


def fine(kind: str) -> dict[str, int]:
    return {f'llmops_backup_failing{{{OWN},kind="{kind}",reason=""}}': 0}


# Series that stay as they are, how many hours later somebody looks, and what has fired by then.
CASES: dict[str, tuple[dict[str, int], int, set[str]]] = {
    "all is well": (GOOD | POINT | fine("Backup") | fine("Verify"), 24, set()),
    "one night was missed": (GOOD | POINT, 35, set()),
    "a night and a half": (GOOD | POINT, 37, {"BackupTooOld"}),
    "no point since there is a schedule": (GOOD, 37, {"BackupTooOld"}),
    "without a schedule nothing is too old": (POINT, 37, set()),
    "a bucket without rights": (GOOD | POINT | failing("Backup", "TargetAccessDenied"), 1, {"BackupFailed"}),
    "nothing is dropped any more": (GOOD | POINT | failing("Collect", "ChecksumMismatch"), 1, {"BackupFailed"}),
    "a flipped bit": (GOOD | POINT | failing("Verify", "ChecksumMismatch"), 1, {"VerifyFailed"}),
    "a rehearsal that fails": (GOOD | POINT | failing("Drill", "ChecksumMismatch"), 1, {"DrillFailed"}),
    "a bucket that is away": (
        GOOD | POINT | failing("Backup", "RepositoryUnreachable") | failing("Verify", "RepositoryUnreachable"),
        1,
        {"RepositoryUnreachable"},
    ),
}


def test_every_alert_fires_in_some_case() -> None:
    known = {rule["alert"] for group in backup_groups() for rule in group["rules"]}
    assert known == set().union(*(firing for _, _, firing in CASES.values()))


@pytest.mark.parametrize(("series", "hours", "firing"), CASES.values(), ids=CASES)
def test_alerts(
    series: dict[str, int],
    hours: int,
    firing: set[str],
    run_test: Callable[[dict[str, Any], dict[str, str]], str],
) -> None:
    wanted = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    check = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{hours}h",
        "exp_samples": wanted,
    }
    given = [{"series": name, "values": f"{value}x{12 * hours}"} for name, value in series.items()]
    test = {
        "rule_files": ["backup.yaml"],
        "evaluation_interval": "5m",
        "tests": [{"interval": "5m", "input_series": given, "promql_expr_test": [check]}],
    }
    assert run_test(test, {"backup.yaml": RULES}) == ""
