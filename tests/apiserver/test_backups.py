"""Restore points on a real API server, with exactly the rights the chart gives: by schedule, by hand, their records."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.controlplane import ControlPlane
from hack.dashboards.questions import BACKUP
from hack.waiting import eventually
from llmops.cli.repo import recovered
from llmops_serving.jobs import backup
from llmops_serving.jobs.repository.format import Manifest, PointRef
from tests.apiserver import points
from tests.apiserver.operating import Operator, audited_plane, own_plane
from tests.apiserver.points import WAIT_SECONDS, Space, point
from tests.integration.scraping import all_answered, questions, scraping

Json = dict[str, Any]


plane = own_plane(audited_plane)
pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def space(plane: ControlPlane, namespace: str) -> Space:
    return Space(plane, namespace)


def test_a_schedule_makes_points_and_proves_and_drops_them(space: Space, operator: Operator, directory: Path) -> None:
    space.deploy(points.BACKUP)
    assert "There" not in space.wait("llmd", "support", "BackedUp", "NoPointYet")["message"]
    assert space.names("cronjobs") == ["support-backup"]

    first = datetime.now(UTC).replace(second=0, microsecond=0)
    text, stamp = f"{first:%Y-%m-%dT%H:%M:%SZ}", f"{first:%Y%m%d%H%M}"
    job = space.run("support-backup", first)
    eventually(lambda: space.names("mbak") == [f"support-{stamp}"], "the record of the point", WAIT_SECONDS)
    space.finish(job, point(text))
    space.wait("mbak", f"support-{stamp}", "Complete", "Completed")
    made = space.get("mbak", f"support-{stamp}")["status"]
    assert (made["point"], made["bytes"], made["storedBytes"], made["digest"]) == (
        f"support@{text}", 1000, 600, "sha256:1f0c",
    )  # fmt: skip
    assert made["expires"] == f"{first.year + 1}-01-01T03:00:00Z"
    assert space.wait("llmd", "support", "BackedUp", "BackedUp")["message"].startswith(f"support@{text}, 1000 B")
    eventually(
        lambda: space.names("cronjobs") == ["support-backup", "support-collect", "support-verify"],
        "what proves and drops points, once there is one",
        WAIT_SECONDS,
    )

    space.finish(
        space.run("support-verify", first), {"outcome": "Complete", "message": "", "verified": [made["point"]]}
    )
    eventually(lambda: space.get("mbak", f"support-{stamp}")["status"].get("verifiedAt"), "verifiedAt", WAIT_SECONDS)
    eventually(lambda: space.condition("llmd", "support", "BackedUp")["message"].endswith("verified."), "it to be said")
    shown = questions([BACKUP], namespace=space.name, model="support")
    with scraping(directory / "prometheus", [(f"127.0.0.1:{operator.port}", {})]) as prometheus:
        all_answered(prometheus.ask, shown)

    space.finish(
        space.run("support-collect", first), {"outcome": "Complete", "message": "", "dropped": [made["point"]]}
    )
    eventually(lambda: space.names("mbak") == [], "the record to go with its point", WAIT_SECONDS)


def test_a_point_by_hand_waits_for_nothing_and_stays_when_held(space: Space) -> None:
    space.deploy({name: value for name, value in points.BACKUP.items() if name != "schedule"})
    space.apply("ModelBackup", "before-upgrade", {"deployment": "support", "point": "2026-11-20T03:00:00Z"})
    space.finish("before-upgrade-point", point("2026-11-20T03:00:00Z"))
    space.wait("mbak", "before-upgrade", "Complete", "Completed")
    space.deploy(points.BACKUP)
    collect = "jsonpath={.spec.jobTemplate.spec.template.spec.containers[0].args}"
    eventually(lambda: "support-collect" in space.names("cronjobs"), "the CronJob that drops points", WAIT_SECONDS)
    assert "held" not in space.kubectl("get", "cronjob", "support-collect", "-o", collect)
    space.kubectl("patch", "mbak/before-upgrade", "--type=merge", "-p", '{"spec":{"hold":true}}')
    held = "--held=support@2026-11-20T03:00:00Z"
    eventually(
        lambda: held in space.kubectl("get", "cronjob", "support-collect", "-o", collect), "it to be held", WAIT_SECONDS
    )
    assert space.names("mbak") == ["before-upgrade"]  # what a user wrote is nobody else's to delete


def test_a_failed_backup_says_what_to_do(space: Space) -> None:
    space.deploy(points.BACKUP)
    space.apply("ModelBackup", "now", {"deployment": "support"})
    refused = {"outcome": "TargetAccessDenied", "message": "clock: AccessDenied"}
    space.finish("now-point", refused, code=40)
    eventually(lambda: space.condition("mbak", "now", "Failed").get("status") == "True", "the end", WAIT_SECONDS)
    failed = space.condition("mbak", "now", "Failed")
    assert (failed["reason"], failed["message"]) == ("TargetAccessDenied", "clock: AccessDenied")
    assert space.wait("llmd", "support", "BackedUp", "TargetAccessDenied")["status"] == "False"


def test_a_backup_that_the_api_server_refuses_is_not_given_up(space: Space) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-jobs"}}
    quota["spec"] = {"hard": {"count/jobs.batch": "0"}}
    space.deploy(points.BACKUP)
    space.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    eventually(
        lambda: space.kubectl("get", "resourcequota", "no-jobs", "-o", "jsonpath={.status.used}"),
        "the quota",
        WAIT_SECONDS,
    )
    space.apply("ModelBackup", "now", {"deployment": "support", "point": "2026-11-20T03:00:00Z"})
    waiting = space.wait("mbak", "now", "Complete", "QuotaExceeded")
    assert "The API server refused Job now-point" in waiting["message"]
    assert space.condition("mbak", "now", "Failed")["status"] == "False"
    space.kubectl("delete", "resourcequota", "no-jobs")
    space.kubectl("annotate", "mbak/now", "example.com/again=now")  # it would be looked at again by itself, later
    space.finish("now-point", point("2026-11-20T03:00:00Z"))
    space.wait("mbak", "now", "Complete", "Completed")


def test_without_spec_backup_there_is_nothing_to_point_at(space: Space) -> None:
    space.deploy(None)
    space.apply("ModelBackup", "now", {"deployment": "support"})
    assert "has no spec.backup" in space.wait("mbak", "now", "Failed", "NotBackedUp")["message"]
    assert space.condition("llmd", "support", "BackedUp") == {}
    space.deploy(points.BACKUP)
    eventually(lambda: space.names("cronjobs") == ["support-backup"], "the schedule", WAIT_SECONDS)
    space.deploy(None)
    eventually(lambda: space.names("cronjobs") == [], "no schedule", WAIT_SECONDS)


def test_what_traffic_taught_comes_back_in_an_empty_namespace(space: Space) -> None:
    at, files = "2026-11-20T03:00:00Z", {"outcome": "Complete", "digest": "sha256:1f0c", "bytes": 7}
    target = {name: points.BACKUP[name] for name in ("target", "secretRef")}
    spec = {"model": {"source": "hf://org/model"}, "replicas": 0, "drift": {}, "backup": target}
    space.apply("LLMDeployment", "support", spec)
    space.finish(space.weights(), {**files, "revision": "0123456789" * 4})
    space.wait("llmd", "support", "Drifted", "NoPrometheus")  # by then what is remembered is written
    learned = space.get("configmap", "support-drift")["data"]

    space.apply("ModelBackup", "before", {"deployment": "support", "point": at})
    eventually(lambda: "before-point" in space.names("jobs"), "the Job that makes the point", WAIT_SECONDS)
    container = space.get("job", "before-point")["spec"]["template"]["spec"]["containers"][0]
    job = backup.arguments().parse_args(container["args"])
    assert job.config_map == ["support-drift=/baselines"]
    documents = {
        "deployment.json": json.loads(job.resource[0]),
        "learned.json": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "support-drift"}}
        | {"data": learned},
    }

    space.kubectl("delete", "llmd/support", "mbak/before")
    eventually(
        lambda: "support-drift" not in space.names("configmaps") and not space.names("jobs"),
        "nothing of it to be left",
        WAIT_SECONDS,
    )
    for resource in recovered(Manifest(PointRef("support", "20261120T030000Z"), (), documents)):
        space.kubectl("apply", "-f", "-", stdin=json.dumps(resource))
    space.finish(space.weights(), {**files, "revision": f"support@{at}"})
    space.wait("llmd", "support", "WeightsReady", "Verified")
    owner = space.get("llmd", "support")["metadata"]["uid"]

    def owned() -> bool:
        references = space.get("configmap", "support-drift")["metadata"].get("ownerReferences", [])
        return [each["uid"] for each in references] == [owner]

    eventually(owned, "it to be the new deployment's own", WAIT_SECONDS)
    space.wait("llmd", "support", "Drifted", "NoPrometheus")
    assert space.get("configmap", "support-drift")["data"] == learned
