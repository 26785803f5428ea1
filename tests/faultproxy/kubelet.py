"""What kubelets would write about pods, where no kubelet runs: the controllers that run do the rest."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx

Json = dict[str, Any]
STARTED, ENDED = "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z"
WEIGHTS = {"outcome": "Complete", "message": "verified", "revision": "0123abc", "digest": "sha256:00", "bytes": 1024}
DATASET = {"outcome": "DatasetValid", "message": "300 rows."}
POINT = {"outcome": "Complete", "message": "3 files.", "seconds": 2.0, "ref": "base@1", "bytes": 1000}
POINT |= {"stored_bytes": 600, "new_bytes": 600, "digest": "sha256:22"}
ARTIFACT = {"outcome": "Completed", "message": "trained", "uri": "artifacts/1", "digest": "sha256:11", "metrics": {}}


OUTCOMES = {"weights": WEIGHTS, "dataset": DATASET, "backup": POINT, "training": ARTIFACT}  # by component


class PodStatuses:
    """Jobs are done and engines are ready at once, but for the components that wait for `finish`."""

    def __init__(self, client: httpx.Client, *, waiting: Collection[str] = ("training",)) -> None:
        self._client = client
        self._waiting = waiting
        self._finishing: set[str] = set()
        self._held: dict[tuple[str, str], Json] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="kubelet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def begin(self, namespace: str) -> None:
        """Let what waits in a namespace go on until `finish`, as at the start."""
        self._finishing.discard(namespace)

    def finish(self, namespace: str) -> None:
        """Let all that waits in a namespace, now and later, end well."""
        self._finishing.add(namespace)
        for pod in [pod for where, pod in list(self._held.items()) if where[0] == namespace]:
            self._write(pod, _ended(pod, OUTCOMES[_component(pod)]))

    def _follow(self) -> None:
        timeout = httpx.Timeout(10, read=None)
        while not self._ended.is_set():
            with (
                suppress(httpx.HTTPError),
                self._client.stream("GET", "/api/v1/pods?watch=true&timeoutSeconds=30", timeout=timeout) as stream,
            ):
                for line in stream.iter_lines():
                    change = json.loads(line)
                    if change["type"] in ("ADDED", "MODIFIED"):
                        self._seen(change["object"])

    def _seen(self, pod: Json) -> None:
        meta = pod["metadata"]
        where = (meta["namespace"], meta["name"])
        if meta.get("deletionTimestamp"):
            self._held.pop(where, None)
        elif pod.get("status", {}).get("phase", "Pending") == "Pending":
            waits = _component(pod) in self._waiting and meta["namespace"] not in self._finishing
            if waits:
                self._held[where] = pod
            done = _component(pod) in OUTCOMES and not waits
            self._write(pod, _ended(pod, OUTCOMES[_component(pod)]) if done else self._running(pod))

    def _running(self, pod: Json) -> Json:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": STARTED}
        states = [_container(each, {"running": {"startedAt": STARTED}}) | {"ready": True} for each in _containers(pod)]
        return {"phase": "Running", "conditions": [ready], "containerStatuses": states}

    def _write(self, pod: Json, status: Json) -> None:
        meta = pod["metadata"]
        self._client.patch(
            f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status",
            json={"metadata": {"uid": meta["uid"]}, "status": status},
            headers={"Content-Type": "application/strategic-merge-patch+json"},
        )


def _component(pod: Json) -> str:
    return str(pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def _ended(pod: Json, outcome: Json) -> Json:
    ended = {"exitCode": 0, "message": json.dumps(outcome), "startedAt": STARTED, "finishedAt": ENDED}
    states = [_container(each, {"terminated": ended}) for each in _containers(pod)]
    return {"phase": "Succeeded", "containerStatuses": states}


def _containers(pod: Json) -> list[str]:
    return [container["name"] for container in pod["spec"]["containers"]]


def _container(name: str, state: Json) -> Json:
    return {"name": name, "image": "i", "imageID": "i", "ready": False, "restartCount": 0, "state": state}
