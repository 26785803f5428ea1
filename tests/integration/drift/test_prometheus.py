"""A real Prometheus with an hour of the Azure trace (and the same hour of last week) in its database.

Its recorded scores must be those Python computes from the same counts, with few series.
"""

from __future__ import annotations

import csv
import math
import socket
import subprocess
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops import names
from llmops.api.drift import FrozenBaseline, Signal, Watched
from llmops.cli.drift import prometheus_history
from llmops.desired.alerts import rule_file
from llmops.desired.drift_rules import drift_groups
from llmops.desired.drift_scores import DEBIASED, SIGNAL, THRESHOLD, Scores
from llmops.judge.drift.baseline import Categories, counted
from llmops.judge.drift.statistic import score
from llmops.judge.drift.threshold import frozen
from tests.integration.drift.conftest import program

TRACE = Path(__file__).parents[2] / "data/azure-llm-2023-conv.csv"
COLUMNS: dict[Signal, str] = {"PromptTokens": "ContextTokens", "CompletionTokens": "GeneratedTokens"}
TOKEN_TYPES: dict[Signal, str] = {"PromptTokens": "input", "CompletionTokens": "output"}
WATCHED = Watched(namespace="team-a", model="support")
HIGHER_BAR = "llmops:drift_bar > on (baseline) llmops:drift_threshold"  # this hour of last week was alike
GATEWAYS, SCRAPE_SECONDS, WEEK_SECONDS = 2, 15, 604_800
HISTORY_SECONDS = 3900  # it ends now: Prometheus records nothing that is older than its newest block


@dataclass(frozen=True)
class Request:
    second: float
    tokens: dict[Signal, int]


def trace() -> list[Request]:
    rows = list(csv.DictReader(TRACE.open()))
    first = datetime.fromisoformat(rows[0]["TIMESTAMP"][:26])
    return [
        Request(
            (datetime.fromisoformat(row["TIMESTAMP"][:26]) - first).total_seconds(),
            {signal: int(row[column]) for signal, column in COLUMNS.items()},
        )
        for row in rows
    ]


def baselines(requests: list[Request]) -> list[FrozenBaseline]:
    """Learned from the first half hour, in windows of 500 requests."""
    half = requests[: len(requests) // 2]
    made = [
        frozen(
            signal,
            [counted([r.tokens[signal] for r in half[i : i + 500]], names.TOKEN_BUCKETS) for i in range(0, 9500, 500)],
            key="trace",
            signals=3,
            at=datetime(2023, 11, 16, tzinfo=UTC),
        )
        for signal in COLUMNS
    ]
    reasons = Categories({"stop": 9000.0, "length": 600.0})
    return [*made, frozen("FinishReason", [reasons], key="trace", signals=3, at=datetime(2023, 11, 16, tzinfo=UTC))]


def open_metrics(requests: list[Request], end: float) -> Iterator[str]:
    """What Prometheus would have scraped from two gateways during the hour before `end`, and a week before that."""
    hours = [end - WEEK_SECONDS, end]
    for gateway in range(GATEWAYS):
        own = f'namespace="team-a",model="support",adapter="",tenant="",pod="gateway-{gateway}"'
        mine = requests[gateway::GATEWAYS]
        counters = {f'llmops_gateway_requests_total{{{own},code="200"}}': [each.second for each in mine]}
        for signal, token_type in TOKEN_TYPES.items():
            for edge in (*names.TOKEN_BUCKETS, math.inf):
                le = "+Inf" if edge == math.inf else str(edge)
                below = [each.second for each in mine if each.tokens[signal] <= edge]
                of = f'{own},gen_ai_token_type="{token_type}",le="{le}"'
                counters[f"gen_ai_client_token_usage_bucket{{{of}}}"] = below
        for reason, which in (("stop", range(94)), ("length", range(94, 100))):
            kept = [each.second for i, each in enumerate(mine) if i % 100 in which]
            counters[f'llmops_gateway_finish_reason_total{{{own},reason="{reason}"}}'] = kept
        for series, seconds in counters.items():
            for hour in hours:
                for tick in range(0, HISTORY_SECONDS, SCRAPE_SECONDS):
                    yield f"{series} {bisect_right(seconds, tick)} {hour - HISTORY_SECONDS + tick:.3f}\n"
    yield "# EOF\n"


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expression: str, *, at: float | None = None) -> list[dict[str, Any]]:
        about = {"query": expression} | ({"time": str(at)} if at else {})
        answer = httpx.get(f"{self.url}/api/v1/query", params=about, timeout=30).raise_for_status().json()
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def wait(self, what: str, ready: Callable[[], bool], *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.2)


@pytest.fixture(scope="module", params=["3", "2"], ids=["prometheus-3", "prometheus-2"])
def prometheus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server, promtool = (program(name, request.param) for name in ("prometheus", "promtool"))
    home = tmp_path_factory.mktemp("prometheus")
    requests = trace()
    with (home / "history.om").open("w") as history:
        history.writelines(open_metrics(requests, time.time()))
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", "history.om", "data"],
        cwd=home,
        check=True,
        capture_output=True,
    )
    groups = drift_groups(WATCHED, baselines(requests), window="1h")
    (home / "rules.yaml").write_text(rule_file([each | {"interval": "1s"} for each in groups]))
    (home / "prometheus.yaml").write_text("rule_files: [rules.yaml]\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            server,
            "--config.file=prometheus.yaml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=30d",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=(home / "log").open("w"),
    )
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        running.wait("ready", lambda: is_ready(running.url))
        running.wait("scores and bars", lambda: len(running.query(HIGHER_BAR)) == 3)
        yield running
    finally:
        process.terminate()
        process.wait(timeout=60)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("series", "part", "behind"),
    [
        ("llmops:drift_samples", "samples", 0),
        ("llmops:drift_psi_debiased", "debiased", 0),
        ("llmops:drift_jensen_shannon", "jensen_shannon", 10),
        ("llmops:drift_kolmogorov_smirnov", "kolmogorov_smirnov", 10),
    ],
)
def test_scores_are_those_python_computes_from_the_same_counts(
    prometheus: Prometheus, series: str, part: str, behind: int
) -> None:
    """A group's counts and scores are of one second; the group beside it reads what that wrote last.

    A crowded machine leaves evaluations out.
    """
    for baseline in baselines(trace())[:2]:
        where = f'{{signal="{baseline.signal}"}}'
        at = float(prometheus.query(f"timestamp({series}{where})")[0]["value"][1])
        [found] = prometheus.query(series + where, at=at)
        seen = [now for back in range(behind + 1) if (now := counts(prometheus, baseline, at - back))]
        wanted = [getattr(score(now, [each.count for each in baseline.bins]), part) for now in seen]
        assert float(found["value"][1]) in [pytest.approx(each, rel=1e-6) for each in wanted]


def counts(prometheus: Prometheus, baseline: FrozenBaseline, at: float) -> list[float]:
    """Requests per bin, as the rules had them at that time; empty before they had any."""
    found = prometheus.query(f'llmops:drift_cumulative{{signal="{baseline.signal}"}}', at=at)
    upto = {each["metric"]["hi"]: float(each["value"][1]) for each in found}
    edges = [0.0, *(upto[str(each.upper or "+Inf")] for each in baseline.bins)] if upto else []
    return [above - below for below, above in pairwise(edges)]


def test_the_same_hour_of_last_week_scores_as_the_same(prometheus: Prometheus) -> None:
    found = prometheus.query(Scores(WATCHED, tuple(baselines(trace())), "1h").last_week)
    assert len(found) == 3
    assert all(abs(float(each["value"][1])) < 0.01 for each in found)


@pytest.mark.parametrize(
    ("threshold", "alarms"),
    [
        pytest.param(2.0, False, id="below the bar"),
        pytest.param(0.7, False, id="over the threshold, but the same hour of last week was as far"),
        pytest.param(0.3, True, id="so far over the threshold that last week is no excuse"),
    ],
)
def test_last_week_excuses_a_little(prometheus: Prometheus, threshold: float, *, alarms: bool) -> None:
    """The rules' own bar, with the threshold at a multiple of the score that is there."""
    learned = baselines(trace())
    scores = Scores(WATCHED, tuple(learned), "1h")
    score, literal = scores.own(DEBIASED), scores.literal(THRESHOLD)
    assert scores.bar.count(literal) == 3
    above = prometheus.query(f"{score} > on {SIGNAL} ({scores.bar.replace(literal, f'({threshold} * {score})')})")
    assert (learned[0].signal in {each["metric"]["signal"] for each in above}) is alarms


def test_few_series_per_deployment(prometheus: Prometheus, record_property: Callable[[str, object], None]) -> None:
    [total] = prometheus.query('count({__name__=~"llmops:drift_.+"})')
    record_property("series", total["value"][1])
    assert int(total["value"][1]) <= 300


def test_replay_reads_the_history_back(prometheus: Prometheus) -> None:
    """Quarters of an hour of the trace, as Prometheus remembers them: nearly all of its requests, in all signals."""
    now = datetime.now(UTC)
    with httpx.Client(base_url=prometheus.url, timeout=30) as client:
        found = prometheus_history(
            client, namespace="team-a", model="support", start=now - timedelta(hours=1), end=now, length="15m"
        )
    assert list(found) == ["PromptTokens", "CompletionTokens", "FinishReason", "ErrorClass"]
    seen = {signal: sum(window.counts.total for window in windows) for signal, windows in found.items()}
    assert all(0.8 * 19_366 < total < 19_366 for total in seen.values()), seen
