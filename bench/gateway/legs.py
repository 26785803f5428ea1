"""The proxies that are compared, each in front of the same stub engines: how to start it and where it listens."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack import compiled

ROOT = Path(__file__).parents[2]
KEY = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Leg:
    """One proxy. `key` is what clients send; empty where the proxy asks for none."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    key: str = ""

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children, user and system."""
        return sum(_cpu(pid) for pid in _family(self.process.pid)) if self.process else 0.0

    def memory_bytes(self) -> int:
        """Resident memory of the process and its children."""
        return sum(_resident(pid) for pid in _family(self.process.pid)) if self.process else 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(serving: Path = ROOT / "serving") -> dict[str, str]:
    """What a child needs to import the project, with the gateway from `serving`."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{serving}:{ROOT}"}


def python(
    directory: Path, *arguments: str, log: str = "engine", serving: Path = ROOT / "serving"
) -> subprocess.Popen[bytes]:
    with (directory / f"{log}.log").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment(serving), stdout=output, stderr=subprocess.STDOUT
        )


def engines(directory: Path, ports: Sequence[int], token_seconds: float = 0.0) -> subprocess.Popen[bytes]:
    listed = ",".join(map(str, ports))
    return python(directory, "-m", "bench.gateway.engine", listed, str(token_seconds))


def gateway(
    directory: Path,
    targets: Sequence[int],
    *,
    name: str = "gateway",
    keyed: bool = True,
    compiles: bool = True,
    affine: bool = True,
) -> Leg:
    """Ours, one worker, compiled as in its image; metrics are always on, `keyed` adds keys and limits.

    Without `affine`, requests go to whoever has the fewest, not to who has their prompt's beginning.
    """
    port, internal = free_ports(2)
    key = {
        "hash": hashlib.sha256(KEY.encode()).hexdigest(),
        "tenant": "bench",
        "models": "*",
        "requestsPerMinute": 10**9,
        "tokensPerMinute": 10**12,
        "concurrency": 10**6,
        "monthlyTokens": 10**12,
    }
    endpoints = [f"127.0.0.1:{target}" for target in targets]
    model = {"name": "support", "endpoints": endpoints, "prefixAffinity": affine}
    routes = directory / f"{name.replace(' ', '-')}.yaml"
    routes.write_text(json.dumps({"models": [model], "keys": [key]}))
    arguments = ["-m", "llmops_serving.gateway", "--routes", str(routes), "--host", "127.0.0.1", "--workers", "1"]
    arguments += ["--port", str(port), "--metrics-port", str(internal), *(["--require-keys"] if keyed else [])]
    serving = compiled.ensure() if compiles else ROOT / "serving"
    return Leg(name, port, python(directory, *arguments, log=name, serving=serving), KEY if keyed else "")


def nginx(directory: Path, targets: Sequence[int]) -> Leg | None:
    """The floor: one worker, kept connections, no buffering."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        return None
    [port] = free_ports(1)
    home = directory / "nginx"
    home.mkdir()
    servers = "".join(f"server 127.0.0.1:{target};" for target in targets)
    configuration = home / "nginx.conf"
    configuration.write_text(f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; client_body_buffer_size 64k;
  upstream engines {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; }} }}
}}
""")
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(configuration), "-p", str(home)], stdout=log, stderr=log)
    return Leg("nginx", port, process)


def router(directory: Path, targets: Sequence[int], program: str, policy: str, level: str) -> Leg | None:
    """vllm-router or smg, from the folder that `LLMOPS_BENCH_PEERS` names, or from the PATH."""
    peers = os.environ.get("LLMOPS_BENCH_PEERS")
    found = shutil.which(program, path=f"{peers}:{os.environ['PATH']}" if peers else None)
    if found is None:
        return None
    port, metrics = free_ports(2)
    command = [found, *(["launch"] if program == "smg" else []), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", *(f"http://127.0.0.1:{target}" for target in targets), "--policy", policy]
    command += ["--log-level", level, "--prometheus-port", str(metrics)]
    with (directory / f"{program}-{policy}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=directory)
    return Leg(f"{program} {policy}", port, process)


def wait_until_serving(leg: Leg, seconds: float = 60.0) -> None:
    """Until a chat is answered with 200."""
    from bench.gateway.client import request  # noqa: PLC0415  that module sets up an event loop policy

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", leg.port), 1) as connection:
                connection.settimeout(2)
                connection.sendall(request(stream_tokens=0, number=0, key=leg.key))
                if b" 200 " in connection.recv(64):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{leg.name} does not answer")


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
