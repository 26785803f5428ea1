"""Every panel of every dashboard, asked of a real Prometheus that scrapes what really runs."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hack.cluster import tools
from hack.dashboards.questions import COST, DEPLOYMENT, OVERVIEW
from hack.demo.__main__ import chat
from hack.demo.install import SYSTEM, Platform
from hack.waiting import eventually
from tests.e2e.conftest import Space, ask
from tests.integration.conftest import free_port
from tests.integration.scraping import Scraper, all_answered, questions

Json = dict[str, Any]


def scraped(platform: Platform, folder: Path, pods: list[tuple[str, str, int, dict[str, str]]]) -> Json:
    """A configuration that scrapes pods (namespace, name, port, labels) through the API server, as an administrator."""
    content = yaml.safe_load(platform.provider.kubeconfig.read_text())
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    files = {
        "ca_file": cluster["certificate-authority-data"],
        "cert_file": user["client-certificate-data"],
        "key_file": user["client-key-data"],
    }
    for name, data in files.items():
        (folder / name).write_bytes(base64.b64decode(data))
    tls = {name: str(folder / name) for name in files}
    jobs = [
        {
            "job_name": f"{namespace}-{pod}",
            "scheme": "https",
            "tls_config": tls,
            "honor_labels": True,  # operator and gateway speak of other namespaces than their own
            "metrics_path": f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics",
            "static_configs": [
                {"targets": [cluster["server"].removeprefix("https://")], "labels": {"pod": pod, **labels}}
            ],
        }
        for namespace, pod, port, labels in pods
    ]
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}


@pytest.fixture
def prometheus(space: Space, platform: Platform, tmp_path: Path) -> Iterator[Scraper]:
    """One that scrapes operator, gateway and the engine of the model `seen`, which answers requests."""
    space.apply("seen")
    space.wait("seen", "Serving")
    engine = (space.name, space.pods("seen")[0], 8000, {"namespace": space.name, "model": "seen"})
    listed = json.loads(platform.kubectl("get", "pods", "-n", SYSTEM, "-o", "json"))["items"]
    ports = {"operator": 8081, "gateway": 9090}
    system: list[tuple[str, str, int, dict[str, str]]] = [
        (SYSTEM, pod["metadata"]["name"], ports[component], {})
        for pod in listed
        if (component := pod["metadata"]["labels"].get("app.kubernetes.io/component")) in ports
    ]
    (tmp_path / "prometheus.yml").write_text(json.dumps(scraped(platform, tmp_path, [engine, *system])))
    address = f"127.0.0.1:{free_port()}"
    command = [str(tools.program("prometheus", "prometheus")), f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--web.listen-address={address}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("wb"))
    found = Scraper(f"http://{address}")

    def scrapes() -> bool:
        try:
            return len(found.ask("up == 1")) == len(system) + 1
        except httpx.TransportError:
            return False

    eventually(scrapes, "every target is scraped")
    yield found
    process.terminate()
    process.wait(30)


@pytest.mark.timeout(1200)
def test_every_panel_shows_data(prometheus: Scraper, space: Space, gateway: str) -> None:
    def talk() -> None:
        chat(gateway, "seen", "What is a list?")
        assert ask(gateway, "seen")["status"] == 200
        time.sleep(0.5)  # the next scrape

    asked = questions((OVERVIEW, DEPLOYMENT, COST), namespace=space.name, model="seen")
    all_answered(prometheus.ask, asked, meanwhile=talk)
