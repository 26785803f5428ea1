"""A real Prometheus that scrapes what a test runs, and what dashboards and rules ask of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hack.cluster import tools
from hack.dashboards.questions import Dashboard
from hack.waiting import eventually
from tests.integration.conftest import free_port

Json = dict[str, Any]
PATIENCE_SECONDS = 180


@dataclass(frozen=True)
class Scraper:
    """A running Prometheus."""

    url: str

    def ask(self, query: str) -> list[Json]:
        """The series that answer an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=30, trust_env=False).json()
        assert answer["status"] == "success", (query, answer)
        found: list[Json] = answer["data"]["result"]
        return found

    def tree(self, query: str) -> Json:
        """The expression as Prometheus 3 reads it."""
        asked = {"params": {"query": query}, "timeout": 30, "trust_env": False}
        answer = httpx.get(f"{self.url}/api/v1/parse_query", **asked).json()  # type: ignore[arg-type]
        assert answer["status"] == "success", (query, answer)
        found: Json = answer["data"]
        return found


@contextmanager
def scraping(home: Path, targets: Sequence[tuple[str, Mapping[str, str]]]) -> Iterator[Scraper]:
    """Prometheus 3 that scrapes these addresses, with these labels, every second."""
    jobs = [
        {
            "job_name": address,
            "honor_labels": True,
            "static_configs": [{"targets": [address], "labels": dict(labels)}],
        }
        for address, labels in targets
    ]
    home.mkdir(parents=True, exist_ok=True)
    (home / "prometheus.yaml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    address = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [tools.program("prometheus", "prometheus"), f"--config.file={home / 'prometheus.yaml'}"]
    command += [f"--web.listen-address={address}", f"--storage.tsdb.path={home / 'data'}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        scraper = Scraper(f"http://{address}")
        eventually(lambda: answers(f"{scraper.url}/-/ready"), f"Prometheus; see {home / 'log'}", PATIENCE_SECONDS)
        yield scraper
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    return False


def questions(dashboards: Sequence[Dashboard], **filled: str) -> dict[str, str]:
    """Every query of these dashboards by where it stands, with Grafana's variables filled in."""
    values = {"$__rate_interval": "20s", "$__range": "1m", **{f"${name}": text for name, text in filled.items()}}
    either = "|".join(map(re.escape, values))
    return {
        f"{dashboard.uid}: {panel.title}: {query}": re.sub(either, lambda match: values[match[0]], query)
        for dashboard in dashboards
        for panel in dashboard.panels
        for query in panel.lines.values()
    }


def all_answered(
    ask: Callable[[str], list[Json]],
    asked: Mapping[str, str],
    *,
    meanwhile: Callable[[], object] = lambda: None,
    seconds: float = PATIENCE_SECONDS,
) -> None:
    """Each of these queries has returned data once; `meanwhile` is done between two looks."""
    silent = set(asked)

    def answered() -> bool:
        meanwhile()
        silent.difference_update([title for title in sorted(silent) if ask(asked[title])])
        return not silent

    try:
        eventually(answered, "data", seconds)
    except TimeoutError as late:
        raise AssertionError("no data for\n" + "\n".join(sorted(silent))) from late
