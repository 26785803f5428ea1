"""Where the gateways are: their pods' internal addresses, from the EndpointSlices of one Service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from llmops import names
from llmops.shell.cluster import ApiError, Cluster
from llmops.shell.resources import ENDPOINT_SLICE

Json = dict[str, Any]
log = structlog.get_logger()

RETRY_SECONDS = 2.0


async def follow(cluster: Cluster, namespace: str, service: str, found: Callable[[set[str]], None]) -> None:
    """Tell `found` the load stream's URL of every gateway, at the start and whenever they change, until cancelled.

    While the API server cannot be asked, the last answer stands: a gateway that is gone shows in its own stream.
    """
    query = {"labelSelector": f"kubernetes.io/service-name={service}"}
    slices: dict[str, Json] = {}
    while True:
        try:
            items, version = await cluster.list(ENDPOINT_SLICE, namespace, query=query)
            slices = {item["metadata"]["name"]: item for item in items}
            found(urls(slices))
            async for change in cluster.watch(ENDPOINT_SLICE, namespace, version, query=query):
                if change.type == "BOOKMARK":
                    continue
                if change.type == "DELETED":
                    slices.pop(change.object["metadata"]["name"], None)
                else:
                    slices[change.object["metadata"]["name"]] = change.object
                found(urls(slices))
        except ApiError as error:
            log.warning("gateways not seen", error=str(error), retry_seconds=RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)


def urls(slices: dict[str, Json]) -> set[str]:
    """The load streams of every endpoint that runs; one that drains still has requests to report."""
    addresses = set()
    for entry in slices.values():
        port = next((port["port"] for port in entry.get("ports") or [] if port.get("name") == "internal"), None)
        for endpoint in entry.get("endpoints") or []:
            if port and endpoint.get("conditions", {}).get("serving", True):
                host = endpoint["addresses"][0]
                addresses.add(f"http://{f'[{host}]' if ':' in host else host}:{port}{names.LOAD_STREAM}")
    return addresses
