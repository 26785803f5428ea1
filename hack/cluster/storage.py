"""A small provisioner: a claim of the default StorageClass gets a directory of the node.

It acts once the scheduler has chosen the node (WaitForFirstConsumer), and removes the directory and the
PersistentVolume when the claim is gone (reclaim policy Delete). Sizes are not enforced.
"""

import http.client
import json
import logging
import shutil
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hack.cluster.nodeconfig import PROVISIONER

WATCH_SECONDS = 300
RECONNECT_SECONDS = 1.0
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"

log = logging.getLogger("storage")


class Writes(Protocol):
    """What takes requests."""

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> int: ...


@dataclass(frozen=True)
class Server:
    """The API server as one user sees it."""

    address: str
    port: int
    tls: ssl.SSLContext

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        """The status that came back."""
        connection = http.client.HTTPSConnection(self.address, self.port, context=self.tls, timeout=30)
        try:
            content = json.dumps(body) if body else None
            connection.request(method, path, content, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Everything there is, then each change, until the server ends the watch."""
        connection = http.client.HTTPSConnection(self.address, self.port, context=self.tls, timeout=WATCH_SECONDS + 30)
        try:
            connection.request("GET", f"{path}?watch=1&timeoutSeconds={WATCH_SECONDS}")
            for line in connection.getresponse():
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
        finally:
            connection.close()


def persistent_volume(claim: dict[str, Any], directory: Path) -> dict[str, Any] | None:
    """The volume a claim waits for; None when it waits for no volume of ours."""
    metadata, spec = claim["metadata"], claim["spec"]
    annotations = metadata.get("annotations", {})
    node = annotations.get(_SELECTED_NODE)
    if annotations.get(_PROVISIONER) != PROVISIONER or not node or spec.get("volumeName"):
        return None
    name = f"pvc-{metadata['uid']}"
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "storageClassName": spec["storageClassName"],
            "persistentVolumeReclaimPolicy": "Delete",
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
            "hostPath": {"path": str(directory / name), "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def provision(server: Writes, claim: dict[str, Any], directory: Path) -> None:
    volume = persistent_volume(claim, directory)
    if volume is None:
        return
    path = Path(volume["spec"]["hostPath"]["path"])
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)  # the kubelet gives a hostPath to no fsGroup, and pods do not run as root
    status = server.send("POST", "/api/v1/persistentvolumes", volume)
    log.info("%s for %s: %d", volume["metadata"]["name"], claim["metadata"]["name"], status)


def reclaim(server: Writes, volume: dict[str, Any], directory: Path) -> None:
    metadata = volume["metadata"]
    ours = metadata.get("annotations", {}).get(_PROVISIONED_BY) == PROVISIONER
    released = volume.get("status", {}).get("phase") == "Released"
    if not (ours and released and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"):
        return
    shutil.rmtree(directory / metadata["name"], ignore_errors=True)
    status = server.send("DELETE", f"/api/v1/persistentvolumes/{metadata['name']}")
    log.info("%s removed: %d", metadata["name"], status)


def follow(server: Server, path: str, act: Callable[[Server, dict[str, Any], Path], None], directory: Path) -> None:
    """Act on every object of a kind, for ever; a lost connection is made again and sees everything anew."""
    while True:
        try:
            for seen in server.watch(path):
                act(server, seen, directory)
        except (OSError, http.client.HTTPException, ValueError) as lost:
            log.info("%s: %s", path, lost)
        time.sleep(RECONNECT_SECONDS)


def main(address: str, port: str, pki: str, directory: str) -> None:
    """Serve until killed, as the administrator whose certificate lies in the given folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    tls = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    tls.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
    server, volumes = Server(address, int(port), tls), Path(directory)
    claims = (server, "/api/v1/persistentvolumeclaims", provision, volumes)
    threading.Thread(target=follow, args=claims, daemon=True).start()
    follow(server, "/api/v1/persistentvolumes", reclaim, volumes)


if __name__ == "__main__":
    main(*sys.argv[1:])
