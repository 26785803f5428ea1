"""A namespace with a deployment that is backed up, and what a CronJob controller and a kubelet do in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hack.cluster.controlplane import ControlPlane
from hack.waiting import eventually

Json = dict[str, Any]
BACKUP = {
    "target": "s3://backups/llm",
    "secretRef": {"name": "backups"},
    "schedule": "0 3 1 1 *",  # far away: the tests say when it is due
    "retention": {"keepLast": 1},
    "verify": {"schedule": "0 5 1 1 *"},
}
WAIT_SECONDS = 180


class Space:
    """A namespace with a deployment whose weights are there at once, because a node mounts them."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane, self.name = plane, name

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("-n", self.name, *arguments, stdin=stdin)

    def apply(self, kind: str, name: str, spec: Json) -> None:
        manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.kubectl("apply", "--server-side", "--field-manager=user", "-f", "-", stdin=json.dumps(manifest))

    def deploy(self, backup: Json | None) -> None:
        spec: Json = {"model": {"source": "oci://models/tiny:1"}, "replicas": 0}
        self.apply("LLMDeployment", "support", spec | ({"backup": backup} if backup else {}))

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def names(self, kind: str) -> list[str]:
        return sorted(line.rpartition("/")[2] for line in self.kubectl("get", kind, "-o", "name").split())

    def condition(self, kind: str, name: str, type_: str) -> Json:
        for entry in self.get(kind, name).get("status", {}).get("conditions", []):
            if entry["type"] == type_:
                return dict(entry)
        return {}

    def wait(self, kind: str, name: str, type_: str, reason: str) -> Json:
        def look() -> Json | None:
            found = self.condition(kind, name, type_)
            return found if found.get("reason") == reason else None

        return eventually(look, f"{type_} of {kind}/{name} with reason {reason}", WAIT_SECONDS)

    def finish(self, job: str, outcome: Json, *, code: int = 0) -> None:
        """What a kubelet writes when the Job's pod has ended; the Job controller, which runs here, does the rest."""
        labels = ["-l", f"batch.kubernetes.io/job-name={job}", "-o", "name"]
        pod = eventually(lambda: self.kubectl("get", "pods", *labels).split(), f"the pod of {job}", WAIT_SECONDS)[0]
        container = self.get("job", job)["spec"]["template"]["spec"]["containers"][0]["name"]
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        ended = {"exitCode": code, "message": json.dumps(outcome), "startedAt": now, "finishedAt": now}
        state = {"name": container, "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
        phase = "Failed" if code else "Succeeded"
        status = {"phase": phase, "containerStatuses": [{**state, "state": {"terminated": ended}}]}
        self.kubectl("patch", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))

    def weights(self) -> str:
        """The Job that fetches the model; its name."""
        labels = ["-l", "app.kubernetes.io/component=weights", "-o", "name"]
        found = eventually(lambda: self.kubectl("get", "jobs", *labels).split(), "the Job of the weights", WAIT_SECONDS)
        return found[0].rpartition("/")[2]

    def run(self, cron_job: str, due: datetime) -> str:
        """Start a CronJob's Job as its controller does at `due`; the Job's name."""
        name = f"{cron_job}-{int(due.timestamp()) // 60}"
        self.kubectl("create", "job", f"--from=cronjob/{cron_job}", name)
        return name


def point(at: str, **more: Any) -> Json:
    facts = {"ref": f"support@{at}", "bytes": 1000, "stored_bytes": 600, "new_bytes": 600, "digest": "sha256:1f0c"}
    return {"outcome": "Complete", "message": "3 files.", "seconds": 2.0, **facts, **more}
