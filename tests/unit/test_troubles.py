"""Which conditions become series, and that a deployment's series end with it."""

from __future__ import annotations

from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest

from llmops.api.meta import Condition
from llmops.shell.mirror import Key
from llmops.shell.troubles import Troubles

KEY = Key("LLMDeployment", "team-a", "support")
FOUND = [
    ("Ready", "False", "WaitingForGPU"),
    ("Accepted", "True", "Accepted"),
    ("Progressing", "True", "RollingOut"),
    ("Drifted", "Unknown", "Learning"),
]


def test_conditions_worth_an_alert_are_series() -> None:
    troubles, registry = Troubles(), CollectorRegistry()
    registry.register(troubles)
    at = datetime(2026, 11, 21, tzinfo=UTC)
    troubles.see(KEY, [Condition(type=t, status=s, reason=r, last_transition_time=at) for t, s, r in FOUND])  # type: ignore[arg-type]
    own = 'llmops_condition{model="support",namespace="team-a",reason="%s",type="%s"} 1.0'
    lines = generate_latest(registry).decode().splitlines()[2:]
    assert lines == [own % ("WaitingForGPU", "Ready"), own % ("RollingOut", "Progressing")]
    troubles.forget(KEY)
    assert generate_latest(registry).decode().splitlines()[2:] == []
