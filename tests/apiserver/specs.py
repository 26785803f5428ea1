"""The tables of objects that must be refused, must be accepted, and must not become one another."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
Json = dict[str, Any]

ACCEPTABLE: dict[str, Json] = {
    "llmdeployments": {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "support", "namespace": "default"},
        "spec": {"model": {"source": "hf://org/model"}, "replicas": 1},
    },
    "finetunejobs": {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tickets", "namespace": "default"},
        "spec": {"baseModel": {"source": "hf://org/model"}, "dataset": {"source": "s3://bucket/tickets.jsonl"}},
    },
    "modelbackups": {
        "apiVersion": "llmops.dev/v1alpha1",
        "kind": "ModelBackup",
        "metadata": {"name": "before-upgrade", "namespace": "default"},
        "spec": {"deployment": "support"},
    },
}


def table(folder: str, plural: str) -> list[Json]:
    """The cases of one table."""
    cases: list[Json] = yaml.safe_load((HERE / folder / f"{plural}.yaml").read_text())
    return cases


def merged(base: Json, change: Json) -> Json:
    """A JSON merge patch (RFC 7396)."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result[key] if isinstance(result.get(key), dict) else {}, value)
        else:
            result[key] = value
    return result
