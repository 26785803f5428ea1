"""What one deployment's rules cost a Prometheus: milliseconds per evaluation, and series; for 3.x and Debian's 2.42.

Each rule's best of sixty looks: its other times measure what else the machine was doing. The recorded hour ends before
the quarter of an hour that a selector looks back, so that rules read each other from memory, as in a server that has
run; last week's is there as well. Evaluated sixty times faster than in life, so that there is as much to look back at.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from llmops import names
from llmops.api.drift import SIGNALS, TEXT_SIGNALS, FrozenBaseline, Signal, Watched
from llmops.desired.alerts import rule_file
from llmops.desired.drift_rules import drift_groups
from llmops.judge.drift.baseline import Categories, Distribution, counted
from llmops.judge.drift.threshold import frozen
from tests.integration.drift.live import (
    MODEL,
    NAMESPACE,
    Prometheus,
    Request,
    conversation,
    prometheus,
    recorded,
    until,
)

PER_SECOND, SECONDS, WINDOW = 5, 3900, 500
LOOKBACK_SECONDS = 990
SCORED = "llmops:drift_psi_debiased and on (baseline) llmops:drift_bar"
BUDGET_MS, MOST_SERIES = 5.0, 300
VERSIONS = ("3", "2")


def rows(versions: Sequence[str] = VERSIONS) -> Iterator[dict[str, Any]]:
    """One row per version of Prometheus and set of signals: the default, all that look at no text, and all."""
    requests = conversation(1)[: PER_SECOND * SECONDS]
    watched = Watched(namespace=NAMESPACE, model=MODEL)
    known = list(baselines(requests))
    sets = (known[: len(SIGNALS)], known[: -len(TEXT_SIGNALS)], known)
    for version, frozen_ones in product(versions, sets):
        groups = drift_groups(watched, frozen_ones, window="1h")
        rules = rule_file([each | {"interval": often} for each, often in zip(groups, ("1s", "4s"), strict=True)])
        past = recorded(requests, per_second=PER_SECOND, every=15, end=time.time() - LOOKBACK_SECONDS, weeks=2)
        with (
            tempfile.TemporaryDirectory() as home,
            prometheus(Path(home) / "server", version, "127.0.0.1:9", past) as server,
        ):
            server.take({"drift.yaml": rules})
            # Before there are scores, what follows from them costs nothing.
            until(partial(scored, server, len(frozen_ones)), "every score")
            each_minute, every_fourth = best(server.url)
            [total] = server.query('count({__name__=~"llmops:drift_.+"})')
        yield {
            "prometheus": version,
            "signals": len(frozen_ones),
            "evaluation_ms": each_minute,
            "fourth_ms": every_fourth,
            "mean_ms": round(each_minute + every_fourth / 4, 3),
            "series": int(total["value"][1]),
        }


def scored(server: Prometheus, signals: int) -> bool:
    """Whether every signal has its scores."""
    return len(server.query(SCORED)) == signals


def baselines(requests: list[Request]) -> Iterator[FrozenBaseline]:
    """All signals, those of the default first and those of text last; the trace tells nothing of nine of them."""
    parts = [requests[at : at + WINDOW] for at in range(0, len(requests) - WINDOW + 1, WINDOW)]
    counts: dict[Signal, list[Distribution]] = {
        "PromptTokens": [counted([each.prompt for each in part], names.TOKEN_BUCKETS) for part in parts],
        "CompletionTokens": [counted([each.completion for each in part], names.TOKEN_BUCKETS) for part in parts],
        "FinishReason": [Categories({"stop": WINDOW * 15 / 16, "length": WINDOW / 16})] * len(parts),
        "MaxTokens": [counted([64 << each.prompt % 6 for each in part], names.LIMIT_BUCKETS) for part in parts],
        "ErrorClass": [Categories({"200": WINDOW * 10 / 11, "429": WINDOW / 11})] * len(parts),
        "ToolCall": [Categories({"none": WINDOW / 3, "offered": WINDOW * 2 / 3})] * len(parts),
        "PrefixHit": [Categories(dict.fromkeys(("none", "quarter", "half", "most", "all"), WINDOW / 5))] * len(parts),
        "EmptyAnswer": [Categories({"no": WINDOW})] * len(parts),
        "Refusal": [Categories({"no": WINDOW * 9 / 10, "yes": WINDOW / 10})] * len(parts),
        "Repetition": [Categories({"no": WINDOW * 9 / 10, "yes": WINDOW / 10})] * len(parts),
        "JSONValidity": [Categories({"valid": WINDOW * 9 / 10, "invalid": WINDOW / 10})] * len(parts),
        "Language": [Categories(dict.fromkeys(("en", "de", "fr", "es"), WINDOW / 4))] * len(parts),
    }
    for signal, windows in counts.items():
        yield frozen(signal, windows, key="bench", signals=len(counts), at=datetime(2026, 11, 20, tzinfo=UTC))


def best(url: str) -> list[float]:
    """Milliseconds of one evaluation of each group: that which scores and alarms, and that beside it."""
    least: dict[tuple[int, int], float] = {}
    for _ in range(60):
        time.sleep(0.5)  # what is seen first was evaluated after the scores were there
        groups = httpx.get(f"{url}/api/v1/rules", timeout=30, trust_env=False).json()["data"]["groups"]
        for group, of in enumerate(groups):
            for index, rule in enumerate(of["rules"]):
                if took := rule["evaluationTime"]:
                    least[group, index] = min(took, least.get((group, index), took))
    return [round(sum(took for (of, _), took in least.items() if of == group) * 1e3, 3) for group in (0, 1)]
