"""Both promtools that users have: the newest, built from hack/tools, and Debian 12's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import tools


def program(name: str, version: str) -> Path:
    """A program of Prometheus 3 (built from its module) or 2 (Debian 12's package, unpacked)."""
    if version == "3":
        return tools.program("prometheus", name)
    return tools.unpacked("prometheus") / "usr" / "bin" / name


@pytest.fixture(params=["3", "2"], ids=["prometheus-3", "prometheus-2"])
def promtool(request: pytest.FixtureRequest) -> Path:
    return program("promtool", request.param)


@pytest.fixture
def run_test(promtool: Path, tmp_path: Path) -> Callable[[dict[str, Any], dict[str, str]], str]:
    """Runs one promtool unit test with these rule files; returns what promtool complained about, or nothing."""

    def run(test: dict[str, Any], rule_files: dict[str, str]) -> str:
        for file, text in rule_files.items():
            (tmp_path / file).write_text(text)
        (tmp_path / "test.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(test))))
        done = subprocess.run(
            [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return run
