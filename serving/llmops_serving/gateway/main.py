"""Start: read the command line and the environment, build real things, serve until a signal comes."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import structlog
import uvloop
from aiohttp import web

from llmops import names
from llmops_serving.gateway import kubernetes
from llmops_serving.gateway.audit import AuditLog
from llmops_serving.gateway.discovery import (
    ClusterDiscovery,
    FileDiscovery,
    KeyDiscovery,
    PeerDiscovery,
    SumsDiscovery,
)
from llmops_serving.gateway.gateway import Gateway, Options
from llmops_serving.gateway.internal import application
from llmops_serving.gateway.keys import Keyring
from llmops_serving.gateway.peers import Peers
from llmops_serving.gateway.probe import Prober
from llmops_serving.gateway.proxy import ClientConnection
from llmops_serving.gateway.trace import Tracer
from llmops_serving.gateway.workers import Workers, sockets

log = structlog.get_logger(__name__)

BACKLOG = 4096

Discovery = ClusterDiscovery | FileDiscovery | KeyDiscovery | PeerDiscovery | SumsDiscovery


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process needs to start."""

    host: str
    port: int
    metrics_port: int
    routes: Path | None
    kubeconfig: Path | None
    namespaces: tuple[str, ...]
    key_namespace: str | None
    drain_seconds: float
    identity: str
    workers: int
    worker_socket: Path | None
    audit: bool
    traces: str
    trace_ratio: float
    peer_service: str
    peers: frozenset[str]
    pod_name: str
    options: Options


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m llmops_serving.gateway", description="OpenAI-compatible gateway in front of engine pods."
    )
    flags.add_argument("--host", default="0.0.0.0", help="address of the public port (default: all)")
    flags.add_argument("--port", type=int, default=names.GATEWAY_PORT, help="public port (default: %(default)s)")
    flags.add_argument(
        "--metrics-port",
        type=int,
        default=names.GATEWAY_INTERNAL_PORT,
        help="port of metrics, load stream and health (default: %(default)s)",
    )
    flags.add_argument("--routes", type=Path, help="serve a static list of models instead of a cluster's")
    flags.add_argument("--kubeconfig", type=Path, help="find models in this cluster; default: the one we run in")
    flags.add_argument(
        "--namespace", action="append", default=[], help="serve the models of this namespace only; may be repeated"
    )
    flags.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one per core)"
    )
    flags.add_argument("--worker-socket", type=Path, help=argparse.SUPPRESS)  # set by the parent of several workers
    flags.add_argument("--require-keys", action="store_true", help="ask for API keys: Secrets, or `keys` in the file")
    flags.add_argument("--key-namespace", default="", help="namespace of the keys' Secrets; or POD_NAMESPACE")
    flags.add_argument("--audit", action="store_true", help="write a line of JSON for every request: no prompt, no key")
    flags.add_argument("--traces", default="", metavar="URL", help="send traces to this OTLP/HTTP receiver")
    flags.add_argument(
        "--trace-ratio", type=_ratio, default=0.01, help="share of requests that are traced when no client decides"
    )
    flags.add_argument("--peer-service", default="", help="headless Service of all replicas, who share every limit")
    flags.add_argument(
        "--peer", action="append", default=[], metavar="HOST:PORT", help="internal address of another replica"
    )
    flags.add_argument("--drain-seconds", type=float, default=600.0, help="time for requests under way after SIGTERM")
    flags.add_argument("--max-body-mib", type=int, default=64, help="largest request body (default: %(default)s)")
    return flags


def _ratio(text: str) -> float:
    ratio = float(text)
    if not 0 <= ratio <= 1:
        raise argparse.ArgumentTypeError("a share is between 0 and 1")
    return ratio


def settings(arguments: list[str], environment: dict[str, str]) -> Settings:
    """The command line over the environment."""
    given = parser().parse_args(arguments)
    return Settings(
        host=given.host,
        port=given.port,
        metrics_port=given.metrics_port,
        routes=given.routes,
        kubeconfig=given.kubeconfig,
        namespaces=tuple(given.namespace),
        key_namespace=(given.key_namespace or environment.get("POD_NAMESPACE", "default"))
        if given.require_keys
        else None,
        drain_seconds=given.drain_seconds,
        identity=f"{environment.get('POD_NAME') or socket.gethostname()}-{os.getpid()}",
        workers=given.workers,
        worker_socket=given.worker_socket,
        audit=given.audit,
        traces=given.traces,
        trace_ratio=given.trace_ratio,
        peer_service=given.peer_service,
        peers=frozenset(given.peer),
        pod_name=environment.get("POD_NAME", ""),
        options=Options(max_body_bytes=given.max_body_mib * 1024 * 1024),
    )


def main() -> int:
    """Serve; the exit status is 0 after a drain that cut nobody."""
    chosen = settings(sys.argv[1:], dict(os.environ))
    return uvloop.run(supervise(chosen) if chosen.workers > 1 and chosen.worker_socket is None else serve(chosen))


async def supervise(chosen: Settings) -> int:
    """The parent of several workers, until SIGTERM or SIGINT."""
    with tempfile.TemporaryDirectory(prefix="llmops-gateway-") as directory:
        command = ["-m", "llmops_serving.gateway", *sys.argv[1:]]
        workers = Workers(chosen.workers, command, Path(directory), chosen.identity)
        return await workers.run(chosen.host, chosen.metrics_port, _stop_signal())


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def serve(chosen: Settings) -> int:
    """One process, until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = _stop_signal()
    gateway = Gateway(loop, chosen.options, process=chosen.identity)
    if chosen.audit:
        gateway.audit = AuditLog(lambda lines: os.write(sys.stdout.fileno(), lines))
    stop_tracing = _trace(chosen, gateway)
    peers = _peers(chosen, gateway)
    try:
        discoveries = _discoveries(chosen, gateway, peers)
    except (OSError, ValueError) as problem:
        sys.stderr.write(f"cannot start: {problem}\n")
        return 2
    server = await loop.create_server(
        lambda: cast("asyncio.Protocol", ClientConnection(gateway)),  # it has the methods, which is all that is asked
        chosen.host,
        chosen.port,
        reuse_port=True,
        backlog=BACKLOG,
    )
    runner = web.AppRunner(application(gateway, chosen.identity), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    if chosen.worker_socket is not None:
        await web.UnixSite(runner, str(chosen.worker_socket)).start()
    else:
        await web.TCPSite(runner, chosen.host, chosen.metrics_port).start()
    log.info("serving", port=chosen.port, internal=str(chosen.worker_socket or chosen.metrics_port))
    prober = Prober(gateway)
    gc.freeze()  # what is loaded stays; requests leave no cycles, so that looking for some may be rare
    gc.set_threshold(20_000, 20, 20)
    tasks = [
        asyncio.create_task(gateway.keep_time()),
        asyncio.create_task(gateway.keep_ledger()),
        *(asyncio.create_task(discovery.run()) for discovery in discoveries),
    ]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()  # a task that ended by itself failed: say why and exit
    server.close()
    log.info("draining", requests=len(gateway.exchanges), seconds=chosen.drain_seconds)
    cut = await gateway.drain(chosen.drain_seconds)
    if gateway.audit is not None:
        gateway.audit.flush()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await prober.close()
    await peers.close()
    await runner.cleanup()
    await loop.run_in_executor(None, stop_tracing)
    log.info("stopped", cut=cut)
    return 1 if cut else 0


def _trace(chosen: Settings, gateway: Gateway) -> Callable[[], None]:
    """Record traces where that is wanted; returns what sends the last of them."""
    if not chosen.traces:
        return lambda: None
    from llmops_serving.gateway.spans import Spans  # noqa: PLC0415 - megabytes that nobody else needs

    spans = Spans(chosen.traces, chosen.identity)
    gateway.tracer = Tracer(chosen.trace_ratio, spans.write)
    return spans.close


def _peers(chosen: Settings, gateway: Gateway) -> Peers:
    """Who serves the same keys: without keys, that does not matter."""
    if chosen.key_namespace is None:
        return Peers(gateway)
    own = chosen.worker_socket
    beside = [path for path in sockets(own.parent, chosen.workers) if path != own] if own is not None else []
    peers = Peers(gateway, beside=beside, workers=chosen.workers)
    peers.update(set(chosen.peers))
    return peers


def _discoveries(chosen: Settings, gateway: Gateway, peers: Peers) -> list[Discovery]:
    keyed = chosen.key_namespace is not None
    if keyed:
        gateway.admit_keys(Keyring())  # until the keys are known, nobody has one
    if chosen.routes is not None:
        routes = FileDiscovery(chosen.routes, gateway.apply, gateway.admit_keys if keyed else None)
        routes.load()
        return [routes]
    if chosen.kubeconfig is not None:
        access = kubernetes.from_kubeconfig(chosen.kubeconfig)
    else:
        access = kubernetes.in_cluster(os.environ)
    found: list[Discovery] = [ClusterDiscovery(access, gateway.apply, chosen.namespaces)]
    if chosen.key_namespace is not None:
        found.append(KeyDiscovery(access, gateway.admit_keys, chosen.key_namespace))
        found.append(SumsDiscovery(access, gateway.ledger.recall, chosen.key_namespace))
        if chosen.peer_service:
            found.append(
                PeerDiscovery(
                    access,
                    peers.update,
                    namespace=chosen.key_namespace,
                    service=chosen.peer_service,
                    own_pod=chosen.pod_name,
                )
            )
    return found
