"""What the README tells people to write is what the API takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.model_backup import ModelBackup

README = Path(__file__).parents[2] / "README.md"
KINDS = {"LLMDeployment": LLMDeployment, "FineTuneJob": FineTuneJob, "ModelBackup": ModelBackup}
BLOCKS = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
OBJECTS = [found for block in BLOCKS for found in yaml.safe_load_all(block)]


@pytest.mark.parametrize("manifest", OBJECTS, ids=[f"{found['kind']} {found['metadata']['name']}" for found in OBJECTS])
def test_every_example_is_accepted(manifest: dict[str, Any]) -> None:
    assert KINDS[manifest["kind"]].from_manifest(manifest).metadata.name == manifest["metadata"]["name"]


def test_the_readme_has_examples() -> None:
    assert {found["kind"] for found in OBJECTS} == set(KINDS)
