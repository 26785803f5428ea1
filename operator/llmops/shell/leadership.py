"""Which of several operators acts: the holder of one Lease, and only while it is sure to hold it.

The holder's own monotonic clock decides how long it may be sure (7 s after its last renewal); the others wait for the
Lease to stand still for longer than that (10 s by their own clocks). No wall clocks are compared, so none can be
wrong; a process that was stopped and continued finds at its next write that it is not sure, and ends.
"""

from __future__ import annotations

import asyncio
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
FIELD_MANAGER = "llmops-operator-lease"


class Deposed(BaseException):
    """This process may not write any more. Not an `Exception`: nothing may take it for a failed reconcile."""


class Leadership:
    """One candidate for one Lease. `clock` is monotonic, in seconds; `jitter` returns 0 to 1."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._cluster, self._namespace, self._name, self._identity = cluster, namespace, name, identity
        self._clock, self._jitter = clock, jitter
        self._renewed: float | None = None
        self._seen: tuple[str, float] = ("", 0.0)

    @property
    def sure(self) -> bool:
        """Whether no other operator can have become the leader."""
        return self._renewed is not None and self._clock() - self._renewed < SURE_SECONDS

    def check(self) -> None:
        """Asked before every write.

        Raises:
            Deposed: the Lease was not renewed in time.
        """
        if not self.sure:
            raise Deposed(f"{self._identity} is not sure to hold Lease {self._namespace}/{self._name}")

    async def acquire(self, *, standing_by: Callable[[], None]) -> None:
        """Wait until this process is the leader; `standing_by` is called while another one is."""
        while not await self._attempt():
            standing_by()
            await asyncio.sleep(RENEW_SECONDS * (0.5 + self._jitter() / 2))
        log.info("leading", lease=f"{self._namespace}/{self._name}", identity=self._identity)

    async def keep(self) -> None:
        """Renew until cancelled.

        Raises:
            Deposed: somebody else holds the Lease, or it could not be renewed for 7 seconds.
        """
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            held = await self._attempt()
            if not held and not self.sure:
                raise Deposed(f"{self._identity} could not renew Lease {self._namespace}/{self._name}")

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

    async def _attempt(self) -> bool:
        """One try to take or renew the Lease; true when it was."""
        began = self._clock()
        try:
            async with asyncio.timeout(SURE_SECONDS - RENEW_SECONDS):
                lease = await self._cluster.get(LEASE, self._namespace, self._name)
                if lease is None:
                    await self._cluster.create(self._fresh(), manager=FIELD_MANAGER)
                elif self._free(lease):
                    await self._cluster.replace(self._taken(lease), manager=FIELD_MANAGER)
                else:
                    self._renewed = None
                    return False
        except (Unavailable, Conflicting, TimeoutError) as error:
            log.debug("lease attempt failed", error=str(error))
            return False
        self._renewed = began  # counted from before the request: what the others saw can only be later
        return True

    def _free(self, lease: Json) -> bool:
        """Whether the Lease is ours, given back, or has stood still for its whole duration by our own clock."""
        spec = lease["spec"]
        if spec.get("holderIdentity") in (self._identity, "", None):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
            return False
        return self._clock() - self._seen[1] > int(spec.get("leaseDurationSeconds", LEASE_SECONDS))

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
