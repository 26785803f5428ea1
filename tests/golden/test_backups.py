"""What looks after restore points, one file per way to ask for them: what a cluster would be given."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.api.llm_deployment import LLMDeployment
from llmops.api.model_backup import ModelBackup
from llmops.config import Config
from llmops.desired import adapters, backups, weights
from llmops.desired.adapters import Adapter
from llmops.desired.backups import Held, Points

HERE = Path(__file__).parent / "backups"
UID = "00000000-0000-0000-0000-000000000001"
Json = dict[str, Any]

CONFIG = Config.model_validate(
    {
        "images": {"jobs": "llmops/serving:1", "pullSecrets": ["registry"]},
        "gateway": {"namespace": "llmops-system"},
        "sources": {"huggingFaceEndpoint": "http://hub.example.com", "allowPrivateNetworks": True},
        "profiles": {"cpu": {"image": "llmops/engine-cpu:1"}},
    }
)
S3 = {"target": "s3://backups/llm", "secretRef": {"name": "backups"}}
EVERYTHING = {
    **S3,
    "name": "team-a-support",
    "schedule": "0 3 * * *",
    "timeZone": "Europe/Berlin",
    "retention": {"keepLast": 7, "weekly": 4},
    "verify": {"schedule": "0 5 * * 0", "coverDays": 14},
    "drill": {"schedule": "0 6 1 * *"},
    "objectLock": {"mode": "Governance", "days": 30},
}
HUB = {"source": "hf://org/model", "storage": {"size": "40Gi", "className": "fast"}}
ADAPTER = Adapter("tickets", "sha256:1f0c", "tickets-lora", "artifact/1f0c")
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"


def deployment(model: Json, backup: Json) -> LLMDeployment:
    return LLMDeployment.from_manifest(
        {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "support", "namespace": "team-a", "uid": UID, "labels": {"team": "a"}},
            "spec": {"model": model, "backup": backup, "replicas": 1},
            "status": {"model": {"revision": COMMIT}},
        }
    )


def cron_jobs(model: Json, backup: Json, *, weights_ready: bool = True, **points: Any) -> list[Json]:
    known = Points(**{"any": True, **points})
    llm = deployment(model, backup)
    return backups.objects(llm, CONFIG, points=known, weights_ready=weights_ready, beside=Held([ADAPTER]))


def one_point(model: Json, backup: Json, adapter: Adapter = ADAPTER, *, baselines: bool = False) -> list[Json]:
    meta = {"name": "before-upgrade", "namespace": "team-a", "uid": UID, "creationTimestamp": "2026-11-20T09:30:00Z"}
    manifest = {"apiVersion": "llmops.dev/v1alpha1", "kind": "ModelBackup", "metadata": meta}
    wanted = ModelBackup.from_manifest({**manifest, "spec": {"deployment": "support"}})
    llm = deployment(model, backup)
    assert llm.spec.backup is not None
    return backups.point(wanted, llm, llm.spec.backup, CONFIG, Held([adapter], baselines))


HELD = ("team-a-support@2026-11-01T03:00:00Z",)
CASES: dict[str, Callable[[], list[Json]]] = {
    "everything": lambda: cron_jobs(HUB, EVERYTHING, held=HELD, verify_every=timedelta(days=7)),
    "nothing-stored-yet": lambda: cron_jobs(HUB, EVERYTHING, any=False),
    "weights-not-there-yet": lambda: cron_jobs(HUB, EVERYTHING, any=False, weights_ready=False),
    "by-hand-on-a-volume": lambda: cron_jobs(HUB, {"target": "pvc://backups/llm", "secretRef": {"name": "key"}}),
    "one-point": lambda: one_point(HUB, S3),
    "one-point-with-baselines": lambda: one_point(HUB, S3, baselines=True),
    "one-point-on-a-volume": lambda: one_point(
        {"source": "pvc://models/llama"}, {"target": "pvc://backups", "secretRef": {"name": "key"}}
    ),
    "record-of-a-scheduled-point": lambda: [
        backups.record(deployment(HUB, EVERYTHING), datetime(2026, 11, 20, 3, tzinfo=UTC))
    ],
    "point-of-a-restored-model": lambda: one_point(
        {"source": "backup://support@2026-11-20T03:00:00Z"}, S3, Adapter("tickets", "sha256:1f0c", restored=True)
    ),
    "adapter-of-a-restored-model-for-an-engine": lambda: [
        adapters.loading(
            deployment({"source": "backup://support@2026-11-20T03:00:00Z"}, S3),
            CONFIG,
            adapters.Engine(node="node-1", address="10.0.0.7", identity="uid/containerd://1"),
            served="support",
            tolerations=(),
            adapters=[Adapter("tickets", "sha256:1f0c", restored=True)],
        )
    ],
    "restored": lambda: weights.objects(deployment({"source": "backup://support@2026-11-20T03:00:00Z"}, S3), CONFIG),
}


@pytest.mark.parametrize("name", CASES)
def test_children(name: str, golden: Callable[[Path, list[Json]], None]) -> None:
    golden(HERE / f"{name}.yaml", CASES[name]())


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in HERE.glob("*.yaml")} == set(CASES)


def test_a_job_of_the_schedule_says_when_it_was_due() -> None:
    llm, due = deployment(HUB, EVERYTHING), datetime(2026, 11, 20, 3, tzinfo=UTC)
    assert backups.due(llm, backups.scheduled_job_name(llm, due)) == due
    assert backups.due(llm, "before-upgrade-point") is None


def test_every_pod_is_restricted() -> None:
    """What Pod Security's `restricted` asks of a pod, for every template of every case."""
    for path in HERE.glob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            spec = manifest["spec"]
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template:
                pod = template["spec"]
                assert pod["automountServiceAccountToken"] is False
                assert pod["securityContext"]["runAsNonRoot"]
                assert all("hostPath" not in volume for volume in pod["volumes"])
                for container in pod["containers"]:
                    security = container["securityContext"]
                    assert security["capabilities"] == {"drop": ["ALL"]}
                    assert security["allowPrivilegeEscalation"] is False
                    assert security["readOnlyRootFilesystem"] is True
