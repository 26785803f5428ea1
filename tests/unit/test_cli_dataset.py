"""`llmops dataset check` and `llmops estimate requests`: what is printed, and what the exit code says."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from llmops.cli import dataset, estimate

GOOD = "".join(json.dumps({"prompt": f"question {n}", "completion": "b"}) + "\n" for n in range(100))
COST = [
    "requests",
    "--per-hour",
    "100",
    "--seconds",
    "3",
    "--price-per-second",
    "0.0373",
    "--price-per-request",
    "0.0001",
]


def test_good_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(GOOD)
    result = CliRunner().invoke(dataset.app, ["check", str(tmp_path / "t.jsonl")])
    assert result.exit_code == 0
    assert result.output.startswith(
        "DatasetValid: 100 rows of format PromptCompletion (JSONL): 80 to train on, 20 held"
    )


def test_bad_rows_are_told_by_line_and_end_in_one(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(GOOD + '{"prompt": 1}\n')
    result = CliRunner().invoke(dataset.app, ["check", str(tmp_path / "t.jsonl"), "-o", "json"])
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["outcome"], found["broken"]) == ("DatasetInvalid", 1)
    assert "line 101 lacks completion" in found["message"]


def test_a_cost_is_added_up() -> None:
    result = CliRunner().invoke(estimate.app, [*COST, "--days", "250", "--hours-per-day", "12", "--stated", "11.20"])
    assert (result.exit_code, result.output) == (0, "11.20 per hour\n33,600.00 for 250 days of 12 hours\n")


def test_a_stated_cost_that_is_another_ends_in_one() -> None:
    result = CliRunner().invoke(estimate.app, [*COST, "--stated", "112"])
    assert result.exit_code == 1
    assert "which would be 1000 requests per hour" in result.output
