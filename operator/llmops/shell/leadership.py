"""Which of several operators acts: the holder of one Lease, and only while it is sure to hold it.

The holder's own monotonic clock decides how long it may be sure (7 s after its last renewal); the others wait for the
Lease to stand still for longer than that (10 s by their own clocks). No wall clocks are compared, so none can be
wrong. A holder that is not sure writes nothing and goes on trying to renew: an API server that is away for an hour
costs no restart, and nobody else can have taken the Lease without its version telling. A process that was stopped and
continued finds at its next write that it is not sure, then that the Lease is somebody else's, and ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from llmops.shell.cluster import ApiError, Cluster, Conflicting, Unavailable
from llmops.shell.resources import LEASE

Json = dict[str, Any]
log = structlog.get_logger()

LEASE_SECONDS = 10
SURE_SECONDS = 7
RENEW_SECONDS = 2.0
LOOK_SECONDS = 0.7  # how often one that stands by looks: a Lease given back is taken within this time
FIELD_MANAGER = "llmops-operator-lease"


class Deposed(BaseException):
    """Another process may act now. Not an `Exception`: nothing may take it for a failed reconcile."""


class Leadership:
    """One candidate for one Lease. `clock` is monotonic, in seconds; `jitter` returns 0 to 1.

    `pod` is the pod this process runs in, if it is in one: a container is started again only when the one before it
    is dead, so that the Lease of an earlier process of the same pod need not be waited for.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        pod: str = "",
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._cluster, self._namespace, self._name, self._identity = cluster, namespace, name, identity
        self._pod, self._clock, self._jitter = pod, clock, jitter
        self._renewed: float | None = None
        self._renewal = asyncio.Event()
        self._seen: tuple[str, float] = ("", 0.0)
        self._standing = 0.0  # how long the Lease of another still has to stand still before it is free

    @property
    def sure(self) -> bool:
        """Whether no other operator can have become the leader."""
        return self._renewed is not None and self._clock() - self._renewed < SURE_SECONDS

    def check(self) -> None:
        """Asked before every write.

        Raises:
            Unavailable: the Lease was not renewed in time; time tells whether it can be, or is somebody else's.
        """
        if not self.sure:
            raise Unavailable(0, f"not sure to hold Lease {self._namespace}/{self._name}: nothing is written")

    async def until_sure(self) -> None:
        """Wait until this process may write, however long that takes."""
        while not self.sure:
            self._renewal.clear()
            await self._renewal.wait()

    async def acquire(self, *, standing_by: Callable[[], None]) -> None:
        """Wait until this process is the leader; `standing_by` is called while another one is."""
        while not await self._attempt(self._free):
            if self._seen[0]:
                standing_by()
            pause = LOOK_SECONDS * (0.5 + self._jitter() / 2)
            await asyncio.sleep(min(pause, self._standing) if self._standing > 0 else pause)
        log.info("leading", lease=f"{self._namespace}/{self._name}", identity=self._identity)

    async def keep(self) -> None:
        """Renew until cancelled.

        Raises:
            Deposed: somebody else holds, or held, the Lease.
        """
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            sure = self.sure
            await self._attempt(self._kept)
            if sure and not self.sure:
                log.warning("nothing is written until the lease is renewed", lease=f"{self._namespace}/{self._name}")

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait for it to expire."""
        if not self.sure:
            return
        self._renewed = None
        try:
            lease = await self._cluster.get(LEASE, self._namespace, self._name)
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
                await self._cluster.replace(lease, manager=FIELD_MANAGER)
        except ApiError as error:
            log.warning("lease not released; the next leader waits for it to expire", error=str(error))

    async def _attempt(self, may_take: Callable[[Json], bool]) -> bool:
        """One try to take or renew the Lease; true when it was."""
        began = self._clock()
        try:
            async with asyncio.timeout(SURE_SECONDS - RENEW_SECONDS):
                lease = await self._cluster.get(LEASE, self._namespace, self._name)
                if lease is None:
                    await self._cluster.create(self._fresh(), manager=FIELD_MANAGER)
                elif may_take(lease):
                    await self._cluster.replace(self._taken(lease), manager=FIELD_MANAGER)
                else:
                    return False
        except (ApiError, TimeoutError) as error:
            log.log(_level(error), "lease attempt failed", error=str(error) or type(error).__name__)
            return False
        self._renewal.set()
        self._renewed = began  # counted from before the request: what the others saw can only be later
        return True

    def _kept(self, lease: Json) -> bool:
        """Whether it is still ours. One that is free was taken and given back by another, who may be acting yet.

        Raises:
            Deposed: it is not.
        """
        holder = lease["spec"].get("holderIdentity")
        if holder != self._identity:
            self._renewed = None
            raise Deposed(f"{self._identity} lost Lease {self._namespace}/{self._name} to {holder or 'nobody'}")
        return True

    def _free(self, lease: Json) -> bool:
        """Whether the Lease is ours, given back, or has stood still for its whole duration by our own clock."""
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder in (self._identity, "") or (self._pod and holder.rpartition("_")[0] == self._pod):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        self._standing = self._seen[1] + int(spec.get("leaseDurationSeconds", LEASE_SECONDS)) - self._clock()
        return self._standing < 0

    def _taken(self, lease: Json) -> Json:
        spec = lease["spec"]
        changed = spec.get("holderIdentity") != self._identity
        update = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": _micro_time(),
            "leaseTransitions": spec.get("leaseTransitions", 0) + changed,
        }
        if changed:
            update["acquireTime"] = update["renewTime"]
        return {**lease, "spec": {**spec, **update}}

    def _fresh(self) -> Json:
        meta = {"name": self._name, "namespace": self._namespace}
        lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": {}}
        return self._taken(lease)


def _micro_time() -> str:
    """For people who read the Lease; nobody decides by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _level(error: Exception) -> int:
    """A lost race is the usual thing between two candidates; anything else should be seen."""
    return logging.DEBUG if isinstance(error, Conflicting) else logging.WARNING
