from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.weights.job import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "volume" / "model", tmp_path / "termination-log")
