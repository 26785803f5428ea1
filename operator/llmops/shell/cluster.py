"""The Kubernetes API as the operator uses it: read, server-side apply, delete with preconditions, watch.

Errors are sorted here and nowhere else: what time may heal is `Unavailable` or `Conflicting`, what the API refuses is
`Refused` with its words, and a missing object is a `None`, because "it is gone" is an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter

from llmops.shell.connection import Connection
from llmops.shell.resources import Resource, of

Json = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 10  # a third of what one look may take, so that a lost answer does not cost the whole look
WATCH_SECONDS = 300
# The API server sends a bookmark about once a minute: a longer silence is a dead connection, not a quiet cluster.
WATCH_SILENCE_SECONDS = 70
PAGE = 500


class ApiError(Exception):
    """The API server did not do what it was asked. `passes` when the same is known to be possible in seconds."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.passes = status == 409 or retry_after is not None


class Unavailable(ApiError):
    """Transport failure, 429 or 5xx: the same request may succeed later. `retry_after` is in seconds."""


class Conflicting(ApiError):
    """409: the object is not the one that was meant any more; read again."""


class Refused(ApiError):
    """Any other refusal: the request is wrong, or the right is missing."""


class Expired(ApiError):
    """410: the watch's resource version is too old; list again."""


@dataclass(frozen=True)
class Change:
    """One line of a watch."""

    type: str
    object: Json


class _Write(aiohttp.BytesPayload):
    """The body of a write, which asks at the last moment whether it may be sent; its head goes with it, or not at all.

    To find a connection can take longer than a Lease lasts, and a process can be stopped meanwhile.
    """

    def __init__(self, body: Json, may_write: Callable[[], None]) -> None:
        super().__init__(orjson.dumps(body))
        self._may_write = may_write

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """As aiohttp sends it."""
        self._may_write()
        await super().write_with_length(writer, content_length)


class Cluster:
    """One API server; `connections` bounds the requests at once, watches not counted.

    `observe_call(verb, plural, status)` is told of every request. `may_write()` is asked before every write, and again
    when it is sent, and raises when this process must not write any more.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        connections: int = 64,
        observe_call: Callable[[str, str, int], None] = lambda _verb, _plural, _status: None,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._observe_call = observe_call
        self._may_write = may_write
        self._session = self._connected(connections)
        # A watch holds its connection, and there is one per kind and namespace: in one bounded pool, a dozen
        # namespaces would leave no connection for anything else.
        self._watching = self._connected(0)
        self._writing: set[asyncio.Task[Json]] = set()

    def _connected(self, limit: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            base_url=self._connection.url,
            connector=aiohttp.TCPConnector(ssl=self._connection.tls or False, limit=limit),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
            headers={"User-Agent": "llmops-operator", "Accept": "application/json"},
            skip_auto_headers=("Accept-Encoding",),
        )

    async def written(self, seconds: float) -> bool:
        """Whether no write is under way any more; waits for them so long at most."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=seconds)
        return not self._writing

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
        await self._watching.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        """One object, read live; `None` when it does not exist."""
        try:
            return await self._call("GET", resource, resource.path(namespace, name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, resource: Resource, namespace: str | None = None, *, query: Mapping[str, str] | None = None
    ) -> tuple[list[Json], str]:
        """All objects of a collection, in pages, and the resource version to watch from."""
        items: list[Json] = []
        page = {"limit": str(PAGE), **(query or {})}
        while True:
            answer = await self._call("GET", resource, resource.path(namespace), query=page)
            items += answer.get("items") or []
            meta = answer["metadata"]
            if not meta.get("continue"):
                return items, meta["resourceVersion"]
            page["continue"] = meta["continue"]

    async def apply(self, manifest: Json, *, manager: str, subresource: str | None = None) -> Json:
        """Server-side apply, forced: the fields of `manifest` are ours. Returns the object as it is now."""
        resource, meta = of(manifest), manifest["metadata"]
        return await self._call(
            "PATCH",
            resource,
            resource.path(meta.get("namespace"), meta["name"], subresource),
            query={"fieldManager": manager, "force": "true", "fieldValidation": "Strict"},
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def scale(self, workload: Json, replicas: int, *, manager: str) -> Json:
        """Set the number of replicas of the workload that was read, and nothing else about it."""
        resource, meta = of(workload), workload["metadata"]
        return await self._call(
            "PATCH",
            resource,
            resource.path(meta["namespace"], meta["name"], "scale"),
            query={"fieldManager": manager, "force": "true"},
            body={
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": exact(workload),
                "spec": {"replicas": replicas},
            },
            content_type="application/apply-patch+yaml",
        )

    async def create(self, manifest: Json, *, manager: str) -> Json:
        """POST; `Conflicting` when an object of that name exists."""
        resource = of(manifest)
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._call("POST", resource, path, query={"fieldManager": manager}, body=manifest)

    async def replace(self, manifest: Json, *, manager: str) -> Json:
        """PUT guarded by the manifest's resourceVersion; `Conflicting` when somebody was faster."""
        resource, meta = of(manifest), manifest["metadata"]
        path = resource.path(meta.get("namespace"), meta["name"])
        return await self._call("PUT", resource, path, query={"fieldManager": manager}, body=manifest)

    async def delete(self, live: Json) -> None:
        """Delete exactly the object that was read: same uid, same version. Gone already is fine."""
        resource, meta = of(live), live["metadata"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        }
        try:
            await self._call("DELETE", resource, resource.path(meta.get("namespace"), meta["name"]), body=options)
        except Refused as error:
            if error.status != 404:
                raise

    async def logs(self, namespace: str, pod: str, *, container: str, tail: int) -> str:
        """The last lines a container printed; empty when there is nothing to read yet."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        query = {"container": container, "tailLines": str(tail), "limitBytes": "65536"}
        try:
            async with self._session.get(path, params=query, headers=self._connection.authorization()) as response:
                self._observe_call("GET", "pods/log", response.status)
                return await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(0, f"reading the logs of {pod}: {str(error) or type(error).__name__}") from error

    async def serves(self, resource: Resource) -> bool:
        """Whether this cluster has the kind (LeaderWorkerSet, PrometheusRule, ... are optional)."""
        root = "/api/v1" if resource.api_version == "v1" else f"/apis/{resource.api_version}"
        try:
            answer = await self._call("GET", resource, root)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return any(entry["name"] == resource.plural for entry in answer["resources"])

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[Change]:
        """Changes since `version`, until the server ends the watch. Raises `Expired`, `Unavailable` or `Refused`."""
        parameters = {
            **(query or {}),
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SILENCE_SECONDS)
        try:
            async with self._watching.get(
                resource.path(namespace), params=parameters, timeout=timeout, headers=self._connection.authorization()
            ) as response:
                self._observe_call("WATCH", resource.plural, response.status)
                if response.status != 200:
                    raise _error(response.status, await response.read(), response.headers)
                async for line in _lines(response.content):
                    change = Change(line["type"], line["object"])
                    if change.type == "ERROR":
                        raise _error(change.object.get("code", 500), orjson.dumps(change.object), {})
                    yield change
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            raise Unavailable(0, f"watching {resource.plural}: {str(error) or type(error).__name__}") from error

    async def _call(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        sending = partial(self._send, verb, resource, path, query=query, body=body, content_type=content_type)
        if verb == "GET":
            return await sending()
        self._may_write()
        # A write that was sent cannot be called back, and whoever gives up waiting for it must not make it forgotten:
        # carried out after this process has given its Lease away, it would meet the next one's.
        task = asyncio.create_task(sending())
        self._writing.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Json]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be there any more to hear of it

    async def _send(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
    ) -> Json:
        headers = self._connection.authorization()
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = _Write(body, self._may_write)
        try:
            async with self._session.request(verb, path, params=query, data=data, headers=headers) as response:
                payload = await response.read()
                self._observe_call(verb, resource.plural, response.status)
                if response.status >= 400:
                    raise _error(response.status, payload, response.headers)
                answer: Json = orjson.loads(payload)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            self._observe_call(verb, resource.plural, 0)
            raise Unavailable(0, f"{verb} {path}: {str(error) or type(error).__name__}") from error


def exact(live: Json) -> Json:
    """What names this very version of an object."""
    return {key: live["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[Json]:
    """JSON documents, one per line, of any length (`readline` stops at 64 KiB)."""
    pending = bytearray()
    async for chunk, _ in content.iter_chunks():
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            yield orjson.loads(pending[:end])
            del pending[: end + 1]


def _error(status: int, payload: bytes, headers: Mapping[str, str]) -> ApiError:
    try:
        message = str(orjson.loads(payload).get("message") or payload[:300].decode(errors="replace"))
    except (orjson.JSONDecodeError, AttributeError):
        message = payload[:300].decode(errors="replace") or f"HTTP {status}"
    if status == 410:
        return Expired(status, message)
    if status == 409:
        return Conflicting(status, message)
    if status == 429 or status >= 500:
        return Unavailable(status, message, retry_after=_seconds(headers.get("Retry-After")))
    return Refused(status, message)


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.isdigit() else None
