"""What a download tells of its progress, whichever of its threads comes first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from llmops_serving.jobs.weights.download import Progress


def test_tenths_are_told_in_order_whichever_thread_reaches_them() -> None:
    told: list[int] = []
    other_added = threading.Event()

    def tell(_event: str, *, percent: int, **_rest: object) -> None:
        if not told:
            other_added.wait(0.2)  # the first teller is slow: the second thread must not be heard before it
        told.append(percent)

    progress = Progress(10, tell)

    def add() -> None:
        progress.add(1)
        other_added.set()

    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            threads.submit(add)
    assert told == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
