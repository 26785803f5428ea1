"""`llmops drift replay` on recorded histories: what it reads, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmops.cli.drift import app
from llmops.judge.drift.baseline import Histogram
from llmops.judge.drift.history import _from_cumulative

TRACE = Path(__file__).parents[1] / "data/azure-llm-2023-conv.csv"


def replayed(*arguments: str) -> dict[str, dict[str, object]]:
    done = CliRunner().invoke(app, ["replay", *arguments, "-o", "json"])
    assert done.exit_code == 0, done.output
    found: dict[str, dict[str, object]] = json.loads(done.output)
    return found


def test_the_conversation_trace_alarms_rarely() -> None:
    """Textbook PSI > 0.1 alarms in 19 and 18 of these 19 windows (bench/drift)."""
    found = replayed("--csv", str(TRACE))
    alarms = {signal: sum(each["over"] for each in about["windows"]) for signal, about in found.items()}  # type: ignore[attr-defined]
    assert alarms == {"PromptTokens": 1, "CompletionTokens": 4}


def written(path: Path, *, late: int) -> Path:
    rows = [
        f"2026-11-20T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z,{100 + i % 700},{'stop' if i % 10 else 'length'}"
        for i in range(8000)
    ]
    rows += [f"2026-11-20T03:{i // 60 % 60:02}:{i % 60:02}Z,{100 + i % 700 + late},stop" for i in range(1000)]
    path.write_text("timestamp,prompt_tokens,finish_reason\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(("late", "alarms"), [(0, 0), (900, 2)], ids=["as ever", "longer prompts at the end"])
def test_a_history_of_ones_own(tmp_path: Path, late: int, alarms: int) -> None:
    found = replayed("--csv", str(written(tmp_path / "history.csv", late=late)))
    assert sum(each["over"] for each in found["PromptTokens"]["windows"]) == alarms  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("", "needs a column timestamp", id="empty"),
        pytest.param("when,what\n1,2\n", "needs a column timestamp", id="no known column"),
        pytest.param("timestamp,prompt_tokens\n2026-11-20T00:00:00Z,5\n", "0 windows", id="too short"),
        pytest.param("timestamp,prompt_tokens\nnoon,5\n", "noon", id="not a time"),
        pytest.param("timestamp,prompt_tokens\n" + "2026-11-20T00:00:00Z,many\n" * 600, "many", id="not a number"),
    ],
)
def test_what_it_refuses(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "history.csv"
    file.write_text(text)
    done = CliRunner().invoke(app, ["replay", "--csv", str(file)])
    assert (done.exit_code, complaint in done.output) == (2, True), done.output


def test_it_says_which_history_it_wants() -> None:
    done = CliRunner().invoke(app, ["replay"])
    assert (done.exit_code, "--csv FILE" in done.output) == (2, True)


@pytest.mark.parametrize(
    "cumulative",
    [
        {"100": 5.0, "200": 8.0, "+Inf": 9.0},
        {"100.0": 5.0, "200.0": 8.0, "+Inf": 9.0},
        {"100": 2.0, "100.0": 3.0, "200": 4.0, "200.0": 4.0, "+Inf": 9.0},
    ],
    ids=["Prometheus 2", "Prometheus 3", "upgraded within the window"],
)
def test_edges_in_any_spelling(cumulative: dict[str, float]) -> None:
    assert _from_cumulative(cumulative) == Histogram((100, 200), (5.0, 3.0, 1.0))
