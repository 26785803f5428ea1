"""Whole manifests, compared with files: `pytest tests/golden --update-golden` writes them anew for a reviewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what the code says into the golden files")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, list[dict[str, Any]]], None]:
    """Compare manifests with a file, or write it."""

    def compare(path: Path, manifests: list[dict[str, Any]]) -> None:
        text = yaml.safe_dump_all(manifests, sort_keys=False, width=120)
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert text == path.read_text()

    return compare
