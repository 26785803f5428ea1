"""What logs of our own jobs tell."""

from __future__ import annotations

from llmops.judge import outcomes

LOG = """
{"event": "progress", "step": 10, "loss": 5.7}
[W1121 not JSON]
{"event": "progress", "step": 20, "loss": 0.9}
{"event": "checkpoint", "step": 20, "total": 60}
{"event": "progress", "step": 20, "eval_loss": 1.3}
"""


def test_a_loss_is_not_forgotten_because_an_evaluation_was_told_after_it() -> None:
    assert outcomes.latest(LOG, "progress") == {"event": "progress", "step": 20, "loss": 0.9, "eval_loss": 1.3}


def test_nothing_is_told_of_what_did_not_happen() -> None:
    assert outcomes.latest(LOG, "halved") is None
