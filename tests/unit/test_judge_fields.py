"""Whether a status has to be written again, beside what others say in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from llmops.judge import fields

Json = dict[str, Any]
WISH: Json = {
    "replicas": 0,
    "model": {"claim": "c"},
    "conditions": [{"type": "Ready", "status": "True"}, {"type": "Accepted", "status": "True"}],
}
ITEM: Json = {".": {}, "f:type": {}, "f:status": {}}
OURS: Json = {
    "manager": "us",
    "operation": "Apply",
    "subresource": "status",
    "fieldsV1": {
        "f:status": {
            "f:replicas": {},
            "f:model": {"f:claim": {}},
            "f:conditions": {'k:{"type":"Ready"}': ITEM, 'k:{"type":"Accepted"}': ITEM},
        }
    },
}
THEIRS: Json = {"manager": "them", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}}


def nothing(live: Json) -> None:
    """As we wrote it."""


def beside(live: Json) -> None:
    live["status"] |= {"costPerHour": "5", "model": {"claim": "c", "digest": "x"}}
    live["status"]["conditions"][0]["theirs"] = True
    live["status"]["conditions"].insert(0, {"type": "Audited", "status": "True"})


def another_order(live: Json) -> None:
    live["status"]["conditions"].reverse()


def another_value(live: Json) -> None:
    live["status"]["replicas"] = 1


def another_condition(live: Json) -> None:
    live["status"]["conditions"][1]["status"] = "False"


def one_of_ours_too_many(live: Json) -> None:
    live["status"]["url"] = "http://old"
    live["metadata"]["managedFields"][1]["fieldsV1"]["f:status"]["f:url"] = {}


def a_condition_of_ours_too_many(live: Json) -> None:
    live["status"]["conditions"].append({"type": "Old", "status": "True"})
    live["metadata"]["managedFields"][1]["fieldsV1"]["f:status"]["f:conditions"]['k:{"type":"Old"}'] = ITEM


def taken_over(live: Json) -> None:
    del live["metadata"]["managedFields"][1]["fieldsV1"]["f:status"]["f:replicas"]


def no_status(live: Json) -> None:
    del live["status"]


def never_ours(live: Json) -> None:
    live["metadata"]["managedFields"].pop()


@pytest.mark.parametrize(
    ("done", "stands"),
    [
        (nothing, True),
        (beside, True),
        (another_order, True),
        (another_value, False),
        (another_condition, False),
        (one_of_ours_too_many, False),
        (a_condition_of_ours_too_many, False),
        (taken_over, False),
        (no_status, False),
        (never_ours, False),
    ],
)
def test_only_what_is_ours_and_differs_is_a_reason_to_write(done: Callable[[Json], None], *, stands: bool) -> None:
    live = copy.deepcopy({"metadata": {"managedFields": [THEIRS, OURS]}, "status": WISH})
    done(live)
    assert fields.stands(live, "status", WISH, "us") is stands


@pytest.mark.parametrize(("wish", "stands"), [(["a", "b"], True), (["b", "a"], True), (["a", "c"], False)])
def test_a_set_is_the_same_in_any_order(wish: list[str], *, stands: bool) -> None:
    owned = {**OURS, "fieldsV1": {"f:status": {"f:names": {'v:"a"': {}, 'v:"b"': {}}}}}
    live = {"metadata": {"managedFields": [owned]}, "status": {"names": ["theirs", "a", "b"]}}
    assert fields.stands(live, "status", {"names": wish}, "us") is stands
