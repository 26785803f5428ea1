"""What a judgement is: a status, one reason of the closed set, and a sentence for the reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llmops.api.conditions import ConditionType, Reason
from llmops.api.meta import Condition

MESSAGE_LIMIT = 1024

# What no time heals: somebody has to change the spec or the cluster. What is not listed may pass by itself (a node
# that an autoscaler adds, a quota that is freed, a throttled source), and whoever waits should go on waiting.
_FINAL = {
    Reason.INVALID_SPEC,
    Reason.UNKNOWN_PROFILE,
    Reason.MISSING_CRD,
    Reason.NAME_TAKEN,
    Reason.CONFLICT,
    Reason.FORBIDDEN,
    Reason.MODEL_NOT_FOUND,
    Reason.MODEL_AUTH_FAILED,
    Reason.SECRET_NOT_FOUND,
    Reason.SOURCE_FORBIDDEN,
    Reason.SOURCE_INVALID,
    Reason.DISK_FULL,
    Reason.CHECKSUM_MISMATCH,
    Reason.UNSAFE_MODEL,
    Reason.WEIGHTS_FAILED,
    Reason.OUT_OF_MEMORY,
    Reason.ENGINE_ARGS_INVALID,
    Reason.CRASH_LOOPING,
    Reason.IMAGE_PULL_FAILED,
    Reason.ROLLOUT_BLOCKED,
    Reason.INSUFFICIENT_MEMORY,
}


@dataclass(frozen=True)
class Verdict:
    """One condition's content, without its type and times."""

    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str


def abnormal(state: Verdict, *, settled: bool) -> dict[ConditionType, Verdict]:
    """What kstatus looks for: `Stalled` or `Reconciling`, each there only while it is true.

    Args:
        state: What the object is doing now, or what keeps it from doing it.
        settled: Whether the present spec is reached, or given up for good.
    """
    if state.status == "False" and state.reason in _FINAL:
        return {ConditionType.STALLED: Verdict("True", state.reason, state.message)}
    if settled:
        return {}
    return {ConditionType.RECONCILING: Verdict("True", state.reason, state.message)}


def shortened(text: str, limit: int = 256) -> str:
    """One line of at most `limit` characters; what was cut is marked."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def conditions(
    verdicts: Mapping[ConditionType, Verdict],
    before: Sequence[Condition],
    *,
    order: Sequence[str],
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Conditions in a fixed order; the time of the last transition moves only when the status does."""
    old = {condition.type: condition for condition in before}
    stamped = []
    for kind, verdict in verdicts.items():
        previous = old.get(kind)
        same = previous is not None and previous.status == verdict.status
        stamped.append(
            Condition(
                type=kind,
                status=verdict.status,
                observed_generation=generation,
                last_transition_time=previous.last_transition_time if same and previous else now.replace(microsecond=0),
                reason=verdict.reason,
                message=verdict.message,
            )
        )
    return in_order(stamped, order)


def in_order(found: Sequence[Condition], order: Sequence[str]) -> list[Condition]:
    """The conditions as `order` lists their types; those it does not list come last."""
    return sorted(found, key=lambda each: order.index(each.type) if each.type in order else len(order))
