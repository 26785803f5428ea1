"""When a child needs no write."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.shell.converge import satisfied

CASES: list[tuple[str, Any, Any, bool]] = [
    ("equal", {"a": 1}, {"a": 1}, True),
    ("defaults of the server beside it", {"a": 1}, {"a": 1, "b": 2}, True),
    ("another value", {"a": 1}, {"a": 2}, False),
    ("a missing field", {"a": 1}, {}, False),
    ("nested", {"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 1, "d": 2}]}}, True),
    ("one more in a list", {"a": [1]}, {"a": [1, 2]}, False),
    ("one less in a list", {"a": [1, 2]}, {"a": [1]}, False),
    ("an empty list that the server leaves out", {"a": []}, {}, True),
    ("an empty map that the server leaves out", {"a": {}}, {}, True),
    ("an empty text that the server leaves out", {"value": ""}, {}, True),
    ("a false that the server leaves out", {"readOnly": False}, {}, True),
    ("a true that is not there", {"readOnly": True}, {}, False),
    ("a zero that is not there", {"replicas": 0}, {}, False),
    ("a quantity written otherwise", {"memory": "1024Mi"}, {"memory": "1Gi"}, True),
    ("half a core", {"cpu": "0.5"}, {"cpu": "500m"}, True),
    ("another quantity", {"memory": "1Gi"}, {"memory": "2Gi"}, False),
    ("a number that was a text", {"cpu": 2}, {"cpu": "2"}, True),
    ("a map where a text is", {"a": {"b": 1}}, {"a": "b"}, False),
]


@pytest.mark.parametrize(("wish", "live", "holds"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_satisfied(wish: Any, live: Any, *, holds: bool) -> None:
    assert satisfied(wish, live) is holds
