"""What is written as a status."""

from __future__ import annotations

from llmops.shell.report import filled


def test_what_is_empty_is_left_out_of_a_status_at_any_depth() -> None:
    status = {
        "model": {},
        "weights": {"claim": "c", "extra": {}},
        "adapters": [],
        "replicas": 0,
        "said": "",
        "no": False,
    }
    assert filled(status) == {"weights": {"claim": "c"}, "replicas": 0, "said": "", "no": False}
