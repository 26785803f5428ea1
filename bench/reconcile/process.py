"""The operator as a process, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

from hack.cluster.controlplane import LOOPBACK, free_port
from hack.images import venv

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "images": {"jobs": "jobs:1", "trainer": "trainer:1"},
    "gateway": {"namespace": "default"},
    "profiles": {"cpu": {"image": "engine:1"}},
}
START_SECONDS, SETTLE_SECONDS = 120, 5


class OperatorProcess:
    """One operator of one namespace, for the length of a `with`."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str) -> None:
        self._port = free_port(LOOPBACK)
        self._log = folder / f"operator-{self._port}.log"
        config = folder / "config.yaml"
        config.write_text(json.dumps({**CONFIG, "namespaces": [namespace]}))
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "LLMOPS_CONFIG": str(config),
            "LLMOPS_NAMESPACE": "default",
            "LLMOPS_HEALTH_PORT": str(self._port),
            "PYTHONPATH": str(ROOT / "operator"),
        }

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            command = [str(venv.ensure("operator") / "bin" / "python"), "-m", "llmops"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    async def working(self) -> None:
        """Until it looks at objects."""
        for _ in range(START_SECONDS * 10):
            if b'"working"' in self._log.read_bytes():
                await asyncio.sleep(SETTLE_SECONDS)
                return
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        raise SystemExit(self._log.read_text())

    async def settled(self) -> None:
        """Until it has looked at nothing for a while."""
        seen = -1.0
        while True:
            now = self._sum("llmops_operator_reconciles_total")
            if now == seen:
                return
            seen = now
            await asyncio.sleep(SETTLE_SECONDS)

    async def looked_at(self, count: int) -> None:
        """Until it has looked so often and is quiet."""
        while True:
            await self.settled()
            if self._sum("llmops_operator_reconciles_total") >= count:
                return

    def calls(self) -> Counter[str]:
        """Requests so far by verb, but for those of the Lease."""
        found: Counter[str] = Counter()
        for line in self._metrics():
            if line.startswith("llmops_operator_api_calls_total{") and 'resource="leases"' not in line:
                labels, value = line.rsplit(" ", 1)
                found[labels.split('verb="')[1].split('"')[0]] += int(float(value))
        return found

    def writes(self) -> int:
        """Writes so far."""
        calls = self.calls()
        return sum(calls[verb] for verb in ("PATCH", "POST", "PUT", "DELETE"))

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _sum(self, series: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in self._metrics() if line.startswith(series))

    def _metrics(self) -> list[str]:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self._port}/metrics", timeout=30) as answer:
            return str(answer.read().decode()).splitlines()
