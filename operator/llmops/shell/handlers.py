"""What we listen to, as kopf wants to hear it: each handler wakes a key and decides nothing.

`on.event` writes nothing to the objects and needs no finalizer; every other kind of kopf handler does one or both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kopf
from kopf._cogs.structs.bodies import RawBody  # not exported, but parameters of the public kopf.operator and of theirs
from kopf._cogs.structs.ephemera import AnyMemo
from kopf._core.engines.peering import Identity
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from llmops import names
from llmops.shell.mirror import Key
from llmops.shell.resources import FINE_TUNE_JOB, LLM_DEPLOYMENT, MODEL_BACKUP, Resource

WATCHED: tuple[Resource, ...] = (LLM_DEPLOYMENT, FINE_TUNE_JOB, MODEL_BACKUP)


class Endlessly:
    """Back-offs that never run out: a finite list turns a ten-minute outage into a crash loop."""

    def __init__(self, *pauses: float) -> None:
        self._pauses = pauses

    def __iter__(self) -> Iterator[float]:
        yield from self._pauses
        while True:
            yield self._pauses[-1]


def registry(wake: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Handlers for every kind users write, and the login of kopf's own connection."""
    handlers = kopf.OperatorRegistry()

    def login(**context: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**context) or kopf.login_with_kubeconfig(**context)

    kopf.on.login(registry=handlers)(login)
    for resource in WATCHED:

        async def woken(namespace: str | None, name: str | None, *, kind: str = resource.kind, **_: Any) -> None:
            wake(Key(kind, namespace or "", name or ""))

        kopf.on.event(names.GROUP, names.VERSION, resource.plural, registry=handlers)(woken)
    return handlers


class Forgetful(ResourceMemories):
    """Nothing is kept of an object: kopf's 3 KB each are for daemons, indices and memos, of which we have none."""

    async def recall(
        self,
        raw_body: RawBody,
        *,
        memobase: AnyMemo | None = None,
        noticed_by_listing: bool = False,
        ephemeral: bool = True,
    ) -> ResourceMemory:
        return await super().recall(
            raw_body, memobase=memobase, noticed_by_listing=noticed_by_listing, ephemeral=ephemeral
        )


def identity(name: str) -> Identity:
    """This process as kopf names it; left to itself it looks up a user name, which a numeric user has not."""
    return Identity(name)


def settings() -> kopf.OperatorSettings:
    """The knobs of kopf, each with the incident it prevents."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False  # we post Events ourselves, aggregated and bounded
    chosen.peering.standalone = True  # a Lease decides who acts; kopf's peering has no compare-and-swap
    chosen.networking.error_backoffs = Endlessly(0.5, 1, 2, 3)  # an API server that is back is noticed within 3 s
    chosen.networking.request_timeout = 30
    chosen.watching.server_timeout = 300
    chosen.watching.inactivity_timeout = 70  # a silent connection is a dead one: bookmarks come every minute
    chosen.queueing.worker_limit = 32  # unlimited is one task and one connection per object
    # A worker that lingers keeps its place and its object: 32 of them and kopf's 5 s are six objects a second.
    chosen.queueing.idle_timeout = 0.05
    chosen.process.ultimate_exiting_timeout = None  # kopf is begun anew after an error: it would kill us 600 s later
    chosen.scanning.disabled = True  # our kinds are known; looking for others needs rights we do not want
    return chosen
