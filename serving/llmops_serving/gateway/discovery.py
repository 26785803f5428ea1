"""Where models and pods come from: the Kubernetes API by list and watch, or a routes file.

Whatever goes wrong with the source, what is known stays known: the API server may be away for an hour and warm
requests go on. A watch that falls silent is replaced, because a dead connection looks like a quiet cluster.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
import yaml

from llmops import names
from llmops_serving.gateway.keys import Key, Keyring, from_fields, from_secret, keyring
from llmops_serving.gateway.kubernetes import Access
from llmops_serving.gateway.ledger import month
from llmops_serving.gateway.table import Model, Table, from_cluster, from_routes, located, table

log = structlog.get_logger(__name__)

SERVER_TIMEOUT_SECONDS = 300
INACTIVITY_SECONDS = 70  # the API server sends a bookmark about once a minute
PAGE = 500
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
MAX_LINE_BYTES = 16 * 1024 * 1024
FILE_CHECK_SECONDS = 0.5
SUMS_SECONDS = 20.0

Changed = Callable[[], None]
Kept = Callable[[dict[str, Any]], Any]


class RelistError(Exception):
    """The watch cannot go on from where it is."""


class Watch:
    """A mirror of all objects of one kind, kept current until cancelled. `objects`, as kept, by `namespace/name`."""

    def __init__(
        self, access: Access, path: str, selector: str, on_change: Changed, *, keep: Kept = lambda found: found
    ) -> None:
        """`path` is the collection, for example `/api/v1/pods`; `keep` what is of use."""
        self._keep = keep
        self._access = access
        self._path = path
        self._selector = selector
        self._on_change = on_change
        self.objects: dict[str, Any] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List, watch, and begin again whenever that ends."""
        failures = 0
        while True:
            try:
                version = await self._list()
                failures = 0
                while True:
                    version = await self._follow(version)
            except RelistError as reason:
                log.info("watch lists again", path=self._path, reason=str(reason))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as problem:
                failures += 1
                if failures in (1, 10) or failures % 100 == 0:
                    log.warning("watch failed", path=self._path, failures=failures, problem=repr(problem)[:300])
            delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing

    async def _list(self) -> str:
        found: dict[str, Any] = {}
        parameters = {"limit": str(PAGE)} | ({"labelSelector": self._selector} if self._selector else {})
        while True:
            page = await self._access.get(self._path, parameters)
            found.update((_key(item), self._keep(item)) for item in page.get("items") or ())
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            parameters["continue"] = metadata["continue"]
        self.objects = found
        self.synced.set()
        self._on_change()
        version: str = metadata["resourceVersion"]
        return version

    async def _follow(self, version: str) -> str:
        """Apply events until the server ends the watch in peace; return the version to go on from."""
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(SERVER_TIMEOUT_SECONDS),
        } | ({"labelSelector": self._selector} if self._selector else {})
        async with self._access.stream(self._path, parameters, silence_seconds=INACTIVITY_SECONDS) as response:
            if response.status == 410:
                raise RelistError("410 Gone")
            response.raise_for_status()
            async for line in response.content:
                version = self._apply(orjson.loads(line))
        return version

    def _apply(self, event: dict[str, Any]) -> str:
        kind, found = event["type"], event["object"]
        if kind == "ERROR":
            raise RelistError(f"ERROR {found.get('code')} {found.get('reason')}")
        newer: str = found["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return newer
        if kind == "DELETED":
            self.objects.pop(_key(found), None)
            self._on_change()
        elif self.objects.get(_key(found)) != (kept := self._keep(found)):
            self.objects[_key(found)] = kept
            self._on_change()
        return newer


def _key(found: dict[str, Any]) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


class ClusterDiscovery:
    """Tells `apply` a new table after every change of the deployments and of their pods."""

    def __init__(self, access: Access, apply: Callable[[Table], None], namespaces: Sequence[str] = ()) -> None:
        """All namespaces, or those given: one watch each, because rights in them allow no other."""
        self._apply = apply
        self._changed = asyncio.Event()
        scopes = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
        self._deployments = [
            Watch(access, f"/apis/{names.GROUP}/{names.VERSION}{scope}/llmdeployments", "", self._changed.set)
            for scope in scopes
        ]
        engines = f"{names.LABEL_DEPLOYMENT},{names.LABEL_COMPONENT}={names.ENGINE_COMPONENT}"
        self._pods = [
            Watch(access, f"/api/v1{scope}/pods", engines, self._changed.set, keep=located) for scope in scopes
        ]

    async def run(self) -> None:
        """Until cancelled. The first table comes when both kinds were listed."""
        watches = [*self._deployments, *self._pods]
        async with asyncio.TaskGroup() as group:
            for watch in watches:
                group.create_task(watch.run())
            for watch in watches:
                await watch.synced.wait()
            last: list[Model] | None = None
            while True:
                await self._changed.wait()
                self._changed.clear()
                models = from_cluster(_found(self._deployments), filter(None, _found(self._pods)))
                if models != last:  # most changes of a deployment are of its status
                    last = models
                    self._apply(table(models))


def _found(watches: Sequence[Watch]) -> list[Any]:
    return [found for watch in watches for found in watch.objects.values()]


class KeyDiscovery:
    """Tells `admit` the keys of one namespace, and again after every change. A malformed one is left out."""

    def __init__(self, access: Access, admit: Callable[[Keyring], None], namespace: str) -> None:
        """Reads Secrets labelled as API keys in `namespace` only."""
        self._admit = admit
        self._changed = asyncio.Event()
        path = f"/api/v1/namespaces/{namespace}/secrets"
        self._secrets = Watch(access, path, names.LABEL_API_KEY, self._changed.set)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._secrets.run())
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._admit(keyring(_valid_keys(self._secrets.objects)))


def _valid_keys(secrets: dict[str, dict[str, Any]]) -> Iterator[Key]:
    for name, secret in secrets.items():
        try:
            yield from_secret(secret)
        except ValueError as problem:
            log.warning("api key ignored", secret=name, problem=str(problem))


class PeerDiscovery:
    """Tells `update` the internal addresses of the gateway's other replicas, and again after every change."""

    def __init__(
        self, access: Access, update: Callable[[set[str]], None], *, namespace: str, service: str, own_pod: str
    ) -> None:
        """`service` is the headless one of the internal port; `own_pod` is left out."""
        self._update = update
        self._own_pod = own_pod
        self._changed = asyncio.Event()
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._slices = Watch(access, path, f"kubernetes.io/service-name={service}", self._changed.set)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._slices.run())
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._update(internal_addresses(self._slices.objects.values(), self._own_pod))


def internal_addresses(slices: Iterable[dict[str, Any]], own_pod: str) -> set[str]:
    """`host:port` of every gateway pod in these EndpointSlices but our own."""
    found: set[str] = set()
    for entry in slices:
        port = next((port["port"] for port in entry.get("ports") or () if port.get("name") == "internal"), None)
        for endpoint in entry.get("endpoints") or ():
            pod = (endpoint.get("targetRef") or {}).get("name")
            if port and pod != own_pod and (endpoint.get("conditions") or {}).get("serving") is not False:
                host = endpoint["addresses"][0]
                found.add(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return found


class SumsDiscovery:
    """Tells `recall` the tokens of this month by key, as the operator has written them down."""

    def __init__(self, access: Access, recall: Callable[[dict[str, int]], None], namespace: str) -> None:
        """Reads one ConfigMap of `namespace` by its name."""
        self._access = access
        self._recall = recall
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{names.USAGE_CONFIG_MAP}"

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                document = await self._access.get(self._path, {})
                self._recall(sums_of(document.get("data") or {}, month(time.time())))
                failures = 0
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as problem:
                failures += 1
                if failures in (1, 10) or failures % 100 == 0:
                    log.warning("token sums not read", failures=failures, problem=repr(problem)[:300])
            await asyncio.sleep(SUMS_SECONDS if not failures else BACKOFF_SECONDS[-1])


def sums_of(data: dict[str, str], current: str) -> dict[str, int]:
    """The sums of the month `current` in a ConfigMap whose keys are `MONTH.KEY`."""
    return {
        name.removeprefix(f"{current}."): int(value)
        for name, value in data.items()
        if name.startswith(f"{current}.") and value.isdecimal()
    }


class FileDiscovery:
    """Tells `apply` and `admit` what a routes file says, and again whenever it changes."""

    def __init__(
        self, path: Path, apply: Callable[[Table], None], admit: Callable[[Keyring], None] | None = None
    ) -> None:
        """Without `admit` the file's `keys` are ignored."""
        self._path = path
        self._apply = apply
        self._admit = admit
        self._text = ""

    def load(self) -> None:
        """Read the file now; nothing changes when it is not valid.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not a routes file.
        """
        text = self._path.read_text()
        if text == self._text:
            return
        self._text = text
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as problem:
            raise ValueError(f"routes: not YAML: {problem}") from problem
        models = from_routes(document)
        if self._admit is not None:
            self._admit(keyring(_file_key(entry, index) for index, entry in enumerate(document.get("keys") or ())))
        self._apply(table(models))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FILE_CHECK_SECONDS)
            try:
                self.load()
            except (OSError, ValueError) as problem:
                log.warning("routes file not applied", path=str(self._path), problem=str(problem))


def _file_key(entry: Any, index: int) -> Key:
    if not isinstance(entry, dict):
        raise ValueError(f"routes: keys[{index}]: expected a mapping")  # noqa: TRY004 - a file's shape, not a type
    try:
        return from_fields(f"keys[{index}]", {str(name): str(value) for name, value in entry.items()})
    except ValueError as problem:
        raise ValueError(f"routes: keys[{index}]: {problem}") from problem
