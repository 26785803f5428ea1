"""What is heard of tokens while their sums are written is written next."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from llmops.shell.budgets import Budgets
from llmops.shell.cluster import Cluster

Json = dict[str, Any]


class Listening:
    """The ConfigMap; a gateway reports while it is being written."""

    def __init__(self) -> None:
        self.live: Json = {"metadata": {"name": "usage", "namespace": "home", "resourceVersion": "1"}}
        self.budgets = Budgets(cast("Cluster", self), "home")
        self.reports = [40]

    async def get(self, *_: object) -> Json:
        return self.live

    async def apply(self, manifest: Json, *, manager: str) -> Json:
        assert manager
        self.live = manifest
        while self.reports:
            self.budgets.heard("2026-11", "mine", self.reports.pop())
        return manifest


def test_what_is_heard_while_the_sums_are_written_is_written_next() -> None:
    there = Listening()
    there.budgets.heard("2026-11", "mine", 30)
    asyncio.run(there.budgets.write())
    assert there.live["data"] == {"2026-11.mine": "30"}
    asyncio.run(there.budgets.write())
    assert there.live["data"] == {"2026-11.mine": "40"}
