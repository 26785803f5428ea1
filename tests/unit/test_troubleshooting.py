"""The page about faults names reasons that exist and tests that exist, and misses no fault that is tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from llmops.api.conditions import Reason
from tests.apiserver.test_user_faults import CASES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| what happened"))
]
FAULTS = {row[0]: row[1].strip("`") for row in ROWS if len(row) == 6}


def test_every_fault_that_is_tested_has_a_row_with_its_reason() -> None:
    assert {name: FAULTS.get(name) for name in CASES} == {name: case.reason for name, case in CASES.items()}


def test_reasons_are_of_the_closed_set() -> None:
    assert set(FAULTS.values()) <= {reason.value for reason in Reason}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_names_tests_that_exist(row: list[str]) -> None:
    named = re.findall(r"`(tests/[^`]+)`", row[-1])
    assert named
    for each in named:
        path, _, test = each.partition("::")
        name, _, case = test.rstrip("]").partition("[")
        text = (ROOT / path).read_text()
        functions = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
        assert name in functions, each
        assert f'"{case}"' in text or not case, each
