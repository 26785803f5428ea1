"""Tokens that each API key has used this month: heard on the load streams, written down where gateways find them.

What a gateway says of a key is all it knows of the month, not a difference, so the largest word is kept: an operator
that was away for an hour has lost nothing once it hears the gateways again, and a gateway that restarts reads it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from llmops import names
from llmops.shell.cluster import ApiError, Cluster
from llmops.shell.resources import CONFIG_MAP

log = structlog.get_logger()

WRITE_SECONDS = 20.0  # and gateways read as often: what is used survives everybody's restart but for a minute
MANAGER = "llmops-budgets"
MONTHS_KEPT = 2


class Budgets:
    """Sums by month and key, in one ConfigMap of the gateway's namespace, which the chart makes."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        """Nothing heard yet; `sums` are tokens by `MONTH.KEY`."""
        self._cluster, self._namespace = cluster, namespace
        self.sums: dict[str, int] = {}
        self._written: dict[str, int] | None = None

    def heard(self, month: str, key: str, tokens: int) -> None:
        """A gateway knows of so many tokens of this key in this month."""
        name = f"{month}.{key}"
        self.sums[name] = max(tokens, self.sums.get(name, 0))

    async def keep(self) -> None:
        """Write down what changed, until cancelled. Without the ConfigMap nothing is kept: no keys are asked for."""
        while True:
            try:
                await self.write()
            except ApiError as error:
                log.warning("token sums not written", error=str(error))
            await asyncio.sleep(WRITE_SECONDS)

    async def write(self) -> None:
        """Write the sums, unless they are there already."""
        if self.sums == self._written:
            return
        live = await self._cluster.get(CONFIG_MAP, self._namespace, names.USAGE_CONFIG_MAP)
        if live is None:
            return
        there = _counts(live.get("data") or {})
        for name, value in there.items():
            self.sums[name] = max(value, self.sums.get(name, 0))
        kept = sorted({name.partition(".")[0] for name in self.sums})[-MONTHS_KEPT:]
        self.sums = {name: value for name, value in self.sums.items() if name.partition(".")[0] in kept}
        now = dict(self.sums)  # more is heard while this is written
        if now != there:
            manifest: dict[str, Any] = {
                "apiVersion": CONFIG_MAP.api_version,
                "kind": CONFIG_MAP.kind,
                "metadata": {key: live["metadata"][key] for key in ("name", "namespace", "resourceVersion")},
                "data": {name: str(value) for name, value in sorted(now.items())},
            }
            await self._cluster.apply(manifest, manager=MANAGER)
        self._written = now


def _counts(data: Mapping[str, str]) -> dict[str, int]:
    return {name: int(value) for name, value in data.items() if value.isdecimal()}
