"""The policy on an hour of real traffic: Azure LLM inference trace 2023, conversation part.

Microsoft, AzurePublicDataset, CC BY 4.0; Patel et al., "Splitwise", ISCA 2024.
"""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import pytest

from llmops.judge.scaling import Limits
from llmops.judge.simulation import Fleet, autoscaler, clairvoyant, requests, simulate

TRACE = Path(__file__).parents[2] / "data" / "azure-llm-2023-conv.csv"


@pytest.mark.long
def test_the_trace_costs_little_more_than_clairvoyance_at_the_same_wait() -> None:
    with TRACE.open() as file:
        rows = [
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(file)
        ]
    trace = requests(rows)
    limits, fleet = Limits(minimum=1, maximum=30, concurrency=16), Fleet(slots=16, load_seconds=60)
    ours = simulate(trace, autoscaler(limits), fleet)
    best = clairvoyant(trace, limits, fleet, wait_seconds=ours.wait(0.95))

    assert len(ours.waits) == len(trace) == 19_366
    assert ours.reversals == 0
    assert best.wait(0.95) <= ours.wait(0.95)
    assert ours.replica_seconds <= 1.15 * best.replica_seconds
