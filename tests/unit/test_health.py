"""Argo CD's health script, run by the Lua that Argo CD has, and the ConfigMap that carries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from tests.fixtures.health import CASES, NAMES, manifest

ROOT = Path(__file__).parents[2]
ARGOCD = ROOT / "manifests" / "gitops" / "argocd"
KINDS = {yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in (ROOT / "crds").glob("*.yaml")}


def health(manifest: dict[str, Any]) -> dict[str, str]:
    lua = LuaRuntime(unpack_returned_tuples=True)
    script = (ARGOCD / "health.lua").read_text()
    answer = lua.execute(f"return function(obj)\n{script}\nend")(lua.table_from(manifest, recursive=True))
    return dict(answer.items())


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_argo_cd_shows_the_health(case: dict[str, Any]) -> None:
    found = health(manifest(case))
    assert found["status"] == case["argo"]
    assert found["message"]


def test_the_message_says_the_reason_and_what_to_do() -> None:
    stalled = {"kind": "LLMDeployment", "conditions": ["Stalled=True ModelNotFound"]}
    assert health(manifest(stalled))["message"] == "ModelNotFound: about ModelNotFound"


def test_every_kind_has_cases() -> None:
    assert {case["kind"] for case in CASES} == KINDS


def test_the_config_map_carries_the_script_for_every_kind() -> None:
    carried = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())["data"]
    script = (ARGOCD / "health.lua").read_text()
    assert carried == {f"resource.customizations.health.llmops.dev_{kind}": script for kind in KINDS}
