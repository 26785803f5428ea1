"""What makes training faster changes no result."""

from __future__ import annotations

import json
import os
import subprocess

from tests.integration.finetune.conftest import HERE, REPOSITORY, Jobs, rows


def test_a_step_has_the_loss_and_the_gradient_that_trl_finds(jobs: Jobs) -> None:
    jobs.ruled(rows(40))
    paths = os.pathsep.join(str(REPOSITORY / source) for source in ("operator", "serving"))
    command = [jobs.python, HERE / "gradients.py", jobs.model, jobs.volume / "data", jobs.volume / "work"]
    said = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE).stdout
    apart = json.loads(said.splitlines()[-1])
    assert max(apart["false"].values()) < 1e-5, apart  # float32
    assert max(apart["true"].values()) < 2e-2, apart  # bfloat16 has two to three digits
