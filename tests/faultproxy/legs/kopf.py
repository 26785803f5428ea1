"""A watch that meets nothing but 5xx for a while: what kopf makes of it, by version.

Up to 1.44.6 the watching task ends, the process lives on, its /healthz stays green, and no event is ever heard again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.controlplane import ControlPlane, free_port
from hack.waiting import eventually
from tests.faultproxy.lane import Site, ground
from tests.faultproxy.models import SMALL, Models
from tests.faultproxy.page import Section, table

OLD = "1.44.6"
LISTENER = Path(__file__).parents[1] / "listener.py"
DEAF_SECONDS = 30.0  # the back-offs of the listener are over after half a second: what is not heard by then never is


@dataclass(frozen=True)
class Finding:
    """What became of a kopf that met 5xx until its back-offs were used up."""

    version: str
    ended: bool
    healthy: bool
    heard: bool

    @property
    def silent(self) -> bool:
        """Alive and green, and deaf: what nobody notices."""
        return self.healthy and not self.ended and not self.heard


def finding(plane: ControlPlane, directory: Path, python: str, name: str, *, endless: bool) -> Finding:
    """Let a kopf under this interpreter meet 503 on its watches, then see whether it hears of a new object."""
    with Site(plane, directory, name, [f"{name}-work"]) as site:
        models = Models(site, 1)
        models.create()
        port = free_port("127.0.0.1")
        kubeconfig = site.proxy.kubeconfig(site.log(name).with_suffix(".kubeconfig"), name)
        command = [
            python,
            str(LISTENER),
            str(kubeconfig),
            f"{name}-work",
            str(port),
            "endless" if endless else "finite",
        ]
        with site.log(name).open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(lambda: heard(site.log(name), "m-0"), "the first object to be heard of", 120)
            site.proxy.watches.refuse = 503
            site.proxy.watches.cut()
            before = site.proxy.watches.opened
            eventually(lambda: site.proxy.watches.opened - before >= 4 or process.poll() is not None, "tries", 120)
            time.sleep(2)
            site.proxy.watches.refuse = None
            models.hands.create("LLMDeployment", "llmdeployments", SMALL, "late")
            deadline = time.monotonic() + DEAF_SECONDS
            while time.monotonic() < deadline and not heard(site.log(name), "late") and process.poll() is None:
                time.sleep(0.2)
            version = json.loads(site.log(name).read_text().splitlines()[0])["kopf"]
            ended = process.poll() is not None
            return Finding(version, ended, not ended and healthy(port), heard(site.log(name), "late"))
        finally:
            process.kill()
            process.wait()


def heard(log: Path, name: str) -> bool:
    return f'"heard": "{name}"' in log.read_text()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def old_python(directory: Path) -> str:
    """An interpreter in a throw-away environment with the old kopf."""
    environment = directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"kopf=={OLD}", "pyyaml"], check=True)
    return str(python)


def run(directory: Path, *, long: bool) -> Section:
    """`long` changes nothing: the back-offs are shortened instead of waited for."""
    del long
    with ground() as plane:
        found = [
            (finding(plane, directory, old_python(directory), "old", endless=False), "finite, as by default"),
            (finding(plane, directory, sys.executable, "pinned", endless=False), "finite, as by default"),
            (finding(plane, directory, sys.executable, "ours", endless=True), "endless, as the operator sets them"),
        ]
    rows = [
        [each.version, how, *("yes" if fact else "no" for fact in (each.ended, each.healthy, each.heard))]
        for each, how in found
    ]
    head = ["kopf", "back-offs", "process ended", "/healthz green", "hears of a new object"]
    broken = []
    if not found[0][0].silent:
        broken.append(f"kopf {OLD} did not fall silent: the reproduction no longer shows what it is for")
    broken += [f"kopf {each.version} fell silent with {how} back-offs" for each, how in found[1:] if each.silent]
    broken += ["the operator's settings do not survive it"] * (not found[2][0].heard)
    text = "Every watch is answered 503 until the back-offs are used up; then the API server is well again."
    return Section("kopf", "kopf's silent watch", f"{text}\n\n{table(head, rows)}", tuple(broken))
