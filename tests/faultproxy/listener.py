"""The smallest kopf operator: it prints what it hears of. It runs under any version of kopf, in a process of its own.

`python listener.py KUBECONFIG NAMESPACE HEALTH_PORT finite|endless`
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import kopf


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class Endlessly:
    def __iter__(self) -> Iterator[float]:
        return itertools.repeat(0.2)


def main(kubeconfig: str, namespace: str, port: str, backoffs: str) -> None:
    os.environ["KUBECONFIG"] = kubeconfig
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.error_backoffs = Endlessly() if backoffs == "endless" else [0.1, 0.2, 0.2]

    @kopf.on.login(registry=registry)
    def login(**context: Any) -> Any:
        return kopf.login_with_kubeconfig(**context)

    @kopf.on.event("llmops.dev", "v1alpha1", "llmdeployments", registry=registry)
    async def heard(name: str | None, **_: Any) -> None:
        say(heard=name)

    say(kopf=importlib.metadata.version("kopf"))
    asyncio.run(
        kopf.operator(
            registry=registry,
            settings=settings,
            namespaces=[namespace],
            liveness_endpoint=f"http://127.0.0.1:{port}/healthz",
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
