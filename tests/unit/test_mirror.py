"""How long the mirror waits before it asks again."""

from __future__ import annotations

import itertools

import pytest

from llmops.shell.mirror import pauses


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [(1.0, [0.5, 1.0, 2.0, 3.0, 3.0]), (0.0, [0.25, 0.5, 1.0, 1.5, 1.5])],
)
def test_tries_come_further_apart_and_no_two_operators_or_watches_together(
    jitter: float, expected: list[float]
) -> None:
    assert list(itertools.islice(pauses(lambda: jitter), 5)) == expected
