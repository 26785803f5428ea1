"""Our own copy of the children, kept by watches: what exists, without asking for it at every look.

The copy may be late; nothing destructive is decided on it alone (a delete carries the uid and version it was decided
on). It is never empty by accident: `ready` is set only after every kind was listed once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from llmops import names
from llmops.shell.cluster import ApiError, Change, Cluster, Expired
from llmops.shell.packing import Packing
from llmops.shell.resources import Resource

Json = dict[str, Any]
log = structlog.get_logger()

RETRY_SECONDS = (0.5, 3.0)  # an API server that is back is noticed within 3 s
UNSERVED_SECONDS = 30.0


@dataclass(frozen=True, order=True, slots=True)
class Key:
    """The name of one object of ours."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


def owners(manifest: Json) -> Iterator[Key]:
    """Who wants to hear of a child: its owners of our group, and the object its labels name (pods, slices)."""
    namespace = manifest["metadata"].get("namespace", "")
    labels = manifest["metadata"].get("labels") or {}
    if name := labels.get(names.LABEL_DEPLOYMENT):
        yield Key("LLMDeployment", namespace, name)
    if name := labels.get(names.LABEL_JOB):
        yield Key("FineTuneJob", namespace, name)
    if name := labels.get(names.LABEL_BACKUP):
        yield Key(names.LABEL_BACKUP, namespace, name)  # what several ModelBackups of a deployment are told by
    if manifest["kind"] == "ModelBackup":
        yield Key("LLMDeployment", namespace, manifest["spec"]["deployment"])
    if name := labels.get(names.LABEL_WEIGHTS):
        yield Key(names.LABEL_WEIGHTS, namespace, name)  # a download that several deployments may share
    for reference in manifest["metadata"].get("ownerReferences") or []:
        if reference["apiVersion"].startswith(f"{names.GROUP}/"):
            yield Key(reference["kind"], namespace, reference["name"])


class Mirror:
    """Children of every object of ours, by owner.

    Objects are kept packed and without managed fields: a hundredth of the memory of dictionaries, and most are read
    rarely.
    """

    def __init__(
        self,
        cluster: Cluster,
        resources: Iterable[Resource],
        *,
        optional: Iterable[Resource] = (),
        written_by_users: Iterable[Resource] = (),
        namespaces: tuple[str, ...],
        on_change: Callable[[Key], None],
        jitter: Callable[[], float],
    ) -> None:
        """`optional` kinds are followed once the cluster serves them; being whole waits for those it does serve.

        Kinds that users write, too, carry no label of ours; they are followed whole. `jitter` returns 0 to 1: what
        loses all its watches at once does not ask for all of them at once again.
        """
        self._jitter = jitter
        self._unlabelled = frozenset(written_by_users)
        self._cluster, self._resources, self._on_change = cluster, (*resources, *self._unlabelled), on_change
        self._optional = tuple(optional)
        self._served: set[Resource] = set()
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._objects: dict[tuple[str, str, str], tuple[bytes, tuple[Key, ...]]] = {}
        self._packing = Packing()
        self._by_owner: dict[Key, set[tuple[str, str, str]]] = defaultdict(set)
        every = (*self._resources, *self._optional)
        self._missing = {(resource, namespace) for resource in every for namespace in self._namespaces}
        self.ready = asyncio.Event()

    def children(self, owner: Key) -> list[Json]:
        """Copies of everything `owner` has, in a stable order."""
        return [self._unpacked(name) for name in sorted(self._by_owner.get(owner, ()))]

    def serves(self, resource: Resource) -> bool:
        """Whether the cluster has an optional kind; a kind that is installed later is noticed within a minute."""
        return resource in self._served

    def put(self, manifest: Json) -> None:
        """Take over what a write just returned, so that the next look does not see an older world."""
        self._store(manifest)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for resource in self._resources:
                for namespace in self._namespaces:
                    group.create_task(self._follow(resource, namespace))
            for resource in self._optional:
                group.create_task(self._await_and_follow(resource))

    async def _await_and_follow(self, resource: Resource) -> None:
        while not await self._asked(resource):
            for namespace in self._namespaces:
                self._listed(resource, namespace)  # nothing of it can exist
            await asyncio.sleep(UNSERVED_SECONDS)
        self._served.add(resource)
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._follow(resource, namespace))

    async def _asked(self, resource: Resource) -> bool:
        """Whether the kind is served: an answer, however often it takes to get one."""
        while True:
            try:
                return await self._cluster.serves(resource)
            except ApiError as error:
                log.warning("cannot ask for a kind", kind=resource.kind, error=str(error))
                await asyncio.sleep(RETRY_SECONDS[1] * (0.5 + self._jitter() / 2))

    async def _follow(self, resource: Resource, namespace: str | None) -> None:
        query = {} if resource in self._unlabelled else {"labelSelector": names.selector(names.MANAGED_BY)}
        waits, version = pauses(self._jitter), ""
        while True:
            try:
                if not version:
                    version = await self._list(resource, namespace, query)
                async for change in self._cluster.watch(resource, namespace, version, query=query):
                    version = change.object["metadata"]["resourceVersion"]
                    self._take(change)
                    waits = pauses(self._jitter)
            except Expired:
                version = ""
            except ApiError as error:
                pause = next(waits)
                log.warning("watch interrupted", kind=resource.kind, error=str(error), retry_seconds=round(pause, 2))
                await asyncio.sleep(pause)
                # A refused or reset watch may have missed the 410 that explains it: listing again is always right.
                version = ""

    async def _list(self, resource: Resource, namespace: str | None, query: dict[str, str]) -> str:
        items, version = await self._cluster.list(resource, namespace, query=query)
        seen = set()
        for item in items:
            manifest = {**item, "apiVersion": resource.api_version, "kind": resource.kind}
            seen.add(self._name(manifest))
            self._store(manifest, notify=True)
        gone = [
            name
            for name in self._objects
            if name[0] == resource.kind and namespace in (None, name[1]) and name not in seen
        ]
        for name in gone:
            self._drop(name)
        self._listed(resource, namespace)
        return version

    def _listed(self, resource: Resource, namespace: str | None) -> None:
        self._missing.discard((resource, namespace))
        if not self._missing:
            self.ready.set()

    def _take(self, change: Change) -> None:
        if change.type == "BOOKMARK":
            return
        if change.type == "DELETED":
            self._drop(self._name(change.object))
        else:
            self._store(change.object, notify=True)

    def _store(self, manifest: Json, *, notify: bool = False) -> None:
        name = self._name(manifest)
        manifest["metadata"].pop("managedFields", None)
        before = self._objects.get(name)
        packed, keys = self._packing.pack(manifest), tuple(dict.fromkeys(owners(manifest)))
        if before and before[0] == packed:
            return
        if before and _older(manifest, self._unpacked(name)):
            return
        self._objects[name] = (packed, keys)
        for key in keys:
            self._by_owner[key].add(name)
        lost = set(before[1]).difference(keys) if before else ()
        for key in lost:
            self._forget(key, name)
        if notify:
            for key in (*keys, *lost):
                self._on_change(key)

    def _drop(self, name: tuple[str, str, str]) -> None:
        _, keys = self._objects.pop(name, (b"", ()))
        for key in keys:
            self._forget(key, name)
        for key in keys:  # afterwards: whoever is told looks at once, and must not find it under another key
            self._on_change(key)

    def _forget(self, key: Key, name: tuple[str, str, str]) -> None:
        self._by_owner[key].discard(name)
        if not self._by_owner[key]:
            del self._by_owner[key]

    def _unpacked(self, name: tuple[str, str, str]) -> Json:
        return self._packing.unpack(name[0], self._objects[name][0])

    @staticmethod
    def _name(manifest: Json) -> tuple[str, str, str]:
        return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def pauses(jitter: Callable[[], float]) -> Iterator[float]:
    """Seconds before each further try: doubling up to the longest, less up to half of it by chance."""
    first, longest = RETRY_SECONDS
    pause = first
    while True:
        yield pause * (0.5 + jitter() / 2)
        pause = min(longest, pause * 2)


def _older(new: Json, old: Json) -> bool:
    """Whether a watch brings a state from before the write we already took over (same object, smaller version)."""
    new_meta, old_meta = new["metadata"], old["metadata"]
    same = new_meta["uid"] == old_meta["uid"]
    return same and int(new_meta["resourceVersion"]) < int(old_meta["resourceVersion"])
