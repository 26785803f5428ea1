"""The models' own verdict about the tables that are also shown to a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.api import crd
from llmops.api.refusals import refusals
from tests.apiserver.specs import ACCEPTABLE, merged, table

Json = dict[str, Any]
KINDS = {kind.plural: kind.model for kind in crd.KINDS}


def cases(folder: str) -> list[Any]:
    return [
        pytest.param(plural, case, id=f"{plural}: {case['case']}") for plural in KINDS for case in table(folder, plural)
    ]


@pytest.mark.parametrize(("plural", "case"), cases("bad_specs"))
def test_what_is_wrong_is_refused_by_name(plural: str, case: Json) -> None:
    found = refusals(KINDS[plural], merged(ACCEPTABLE[plural], case["change"]))
    assert any(refusal.field.startswith(case["field"]) for refusal in found), found


@pytest.mark.parametrize(("plural", "case"), cases("good_specs"))
def test_what_is_right_is_accepted(plural: str, case: Json) -> None:
    assert refusals(KINDS[plural], merged(ACCEPTABLE[plural], case["change"])) == []


@pytest.mark.parametrize(("plural", "case"), cases("bad_changes"))
def test_a_stored_object_changes_only_as_far_as_its_parts_can(plural: str, case: Json) -> None:
    old = merged(ACCEPTABLE[plural], case["from"])
    found = refusals(KINDS[plural], merged(old, case["change"]), KINDS[plural].from_manifest(old))
    assert [refusal.field for refusal in found] == ([case["field"]] if "field" in case else [])
    assert all(case["says"] in refusal.message for refusal in found)


def test_a_stored_object_with_fields_of_a_newer_operator_in_status_is_read() -> None:
    manifest = merged(ACCEPTABLE["llmdeployments"], {"status": {"replicas": 2, "tomorrow": {"a": 1}}})
    llm = crd.LLM_DEPLOYMENT.model.from_manifest(manifest)
    assert llm.status.replicas == 2  # type: ignore[attr-defined]
