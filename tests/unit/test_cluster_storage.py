from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.storage import persistent_volume, provision, reclaim

CHOSEN = {
    "volume.kubernetes.io/storage-provisioner": "llmops.dev/local-path",
    "volume.kubernetes.io/selected-node": "llmops",
}
VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": "pvc-u1", "annotations": {"pv.kubernetes.io/provisioned-by": "llmops.dev/local-path"}},
    "spec": {
        "storageClassName": "standard",
        "persistentVolumeReclaimPolicy": "Delete",
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "volumeMode": "Filesystem",
        "hostPath": {"path": "/volumes/pvc-u1", "type": "Directory"},
        "nodeAffinity": {
            "required": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["llmops"]}]}
                ]
            }
        },
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": "team",
            "name": "weights",
            "uid": "u1",
        },
    },
}


def claim(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    asked = {"storageClassName": "standard", "accessModes": ["ReadWriteMany"]}
    return {
        "metadata": {"name": "weights", "namespace": "team", "uid": "u1", "annotations": annotations or {}},
        "spec": {**asked, "resources": {"requests": {"storage": "1Gi"}}, **spec},
    }


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        pytest.param(claim(), None, id="nobody has scheduled a pod yet"),
        pytest.param(claim({**CHOSEN, "volume.kubernetes.io/selected-node": ""}), None, id="the node was taken back"),
        pytest.param(
            claim({**CHOSEN, "volume.kubernetes.io/storage-provisioner": "ebs.csi.aws.com"}), None, id="not our class"
        ),
        pytest.param(claim(CHOSEN, volumeName="pvc-u1"), None, id="bound already"),
        pytest.param(claim(CHOSEN), VOLUME, id="a node is chosen"),
    ],
)
def test_a_claim_gets_a_volume_once_its_node_is_chosen(
    waiting: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert persistent_volume(waiting, Path("/volumes")) == expected


@dataclass
class Requests:
    """An API server that takes everything and remembers it."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        self.seen.append((method, f"{path} {body['metadata']['name']}" if body else path))
        return 200


def test_a_new_volume_is_a_directory_that_any_user_may_write(tmp_path: Path) -> None:
    server = Requests()
    provision(server, claim(CHOSEN), tmp_path)
    assert (tmp_path / "pvc-u1").stat().st_mode & 0o777 == 0o777
    assert server.seen == [("POST", "/api/v1/persistentvolumes pvc-u1")]


RELEASED = {**VOLUME, "status": {"phase": "Released"}}


@pytest.mark.parametrize(
    ("volume", "removed"),
    [
        pytest.param(RELEASED, True, id="released"),
        pytest.param({**VOLUME, "status": {"phase": "Bound"}}, False, id="still bound"),
        pytest.param(VOLUME, False, id="new"),
        pytest.param({**RELEASED, "metadata": {"name": "pvc-u1"}}, False, id="made by somebody else"),
        pytest.param(
            {**RELEASED, "spec": {**VOLUME["spec"], "persistentVolumeReclaimPolicy": "Retain"}},  # type: ignore[dict-item]
            False,
            id="to be retained",
        ),
    ],
)
def test_a_volume_goes_with_its_claim(tmp_path: Path, volume: dict[str, Any], *, removed: bool) -> None:
    data = tmp_path / "pvc-u1" / "model.safetensors"
    data.parent.mkdir()
    data.touch()
    server = Requests()
    reclaim(server, volume, tmp_path)
    assert data.exists() is not removed
    assert server.seen == ([("DELETE", "/api/v1/persistentvolumes/pvc-u1")] if removed else [])
