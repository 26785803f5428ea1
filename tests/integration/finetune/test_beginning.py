"""A pod of a training job that is told to go while it still imports, which takes seconds, goes at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.finetune.conftest import REPOSITORY

pytestmark = pytest.mark.timeout(120)
# Libraries try imports and pass over what fails; an exception out of a signal's handler would be taken for that.
SLOW = """
import signal
while True:
    try:
        print("importing", flush=True)
        signal.pause()
    except Exception:
        pass
"""
JOB, LAUNCHER, DATASET = (f"llmops_serving.jobs.{name}" for name in ("finetune", "finetune.launch", "dataset"))
SPEC = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "pvc://data/t.jsonl"}}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a process namespace of its own")
@pytest.mark.parametrize(
    ("module", "slow", "says"),
    [
        pytest.param(JOB, "pydantic", None, id="before it reads its arguments"),
        pytest.param(JOB, "torch", "Interrupted", id="before it trains"),
        pytest.param(LAUNCHER, "torch", None, id="before it starts its processes"),
        pytest.param(DATASET, "torch", None, id="before it checks rows"),
    ],
)
def test_a_pod_that_imports_still_goes_when_told(module: str, slow: str, says: str | None, tmp_path: Path) -> None:
    """As in a container, it is the first process of its namespace: the kernel gives it no signal it does not handle."""
    (tmp_path / f"{slow}.py").write_text(SLOW)
    paths = os.pathsep.join([str(tmp_path), *(str(REPOSITORY / source) for source in ("operator", "serving"))])
    told = tmp_path / "termination"
    arguments = [f"--spec={json.dumps(SPEC)}", f"--job={tmp_path}", f"--model={tmp_path}", f"--termination-log={told}"]
    command = [sys.executable, "-m", module, *(["--standalone", "-m", JOB] if module == LAUNCHER else []), *arguments]
    container = ["unshare", "--pid", "--fork", "--kill-child", *command]
    with subprocess.Popen(container, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE) as outside:
        try:
            assert outside.stdout
            assert outside.stdout.readline() == b"importing\n"
            first = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()[0]
            os.kill(int(first), signal.SIGTERM)
            assert outside.wait(60) == 43
        finally:
            outside.kill()
    assert (json.loads(told.read_text())["outcome"] if told.exists() else None) == says
