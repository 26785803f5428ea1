"""Sixteen secrets, told by pods and planted in the cluster, and a search for them in everything that we write."""

from __future__ import annotations

import base64
import json
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.controlplane import LOOPBACK, ControlPlane, free_port
from hack.waiting import eventually
from tests.apiserver.operating import Operator, ProxiedPlane, audited_plane
from tests.apiserver.test_user_faults import HUB, IMAGE, apply, crashed, ended, of, ready, tell
from tests.integration.cli.conftest import Cli

Json = dict[str, Any]
SPACE = "secrets"
# What a program says, and the part of it that nobody may read.
PLANTED = {
    "a hub token": ("RuntimeError: 401 for token {}", "hf_PlantedPlantedPlanted01"),
    "an access key": ("RuntimeError: {} is not allowed", "AKIAPLANTED000000002"),
    "a session's access key": ("RuntimeError: bad {}", "ASIAPLANTED000000003"),
    "a secret key": ("RuntimeError: AWS_SECRET_ACCESS_KEY={} refused", "PlantedwJalrXUtnFEMI04"),
    "a session token": ("RuntimeError: aws_session_token: {}", "PlantedFwoGZXIvYXdzEJr05"),
    "an OpenAI key": ("RuntimeError: using {}", "sk-proj-PlantedPlantedPlanted06"),
    "a key of ours": ("RuntimeError: using {}", "llm-PlantedPlantedPlanted07"),
    "a bearer token": ("RuntimeError: sent Authorization: Bearer {}", "PlantedBearer.abc-def08"),
    "basic credentials": ("RuntimeError: sent Authorization: Basic {}", "UGxhbnRlZDpQbGFudGVkMDk="),
    "a password in a URL": ("RuntimeError: GET https://user:{}@host/x", "PlantedPassword10"),
    "a signed URL": ("RuntimeError: https://b.example.com/k?X-Amz-Signature={}&x=1", "PlantedSignature11"),
    "a shared access signature": ("RuntimeError: https://a.blob.example.com/k?sv=1&sig={}", "PlantedSig12"),
    "a web token": ("RuntimeError: expired {}", "eyJQbGFudGVkMTM.eyJQbGFudGVkMTM.PlantedSig13"),
    "a field of JSON": ('RuntimeError: {{"password": "{}"}}', "PlantedJson14"),
    "a GitHub token": ("RuntimeError: using {}", "ghp_PlantedPlantedPlanted15"),
    "a private key": ("RuntimeError: -----BEGIN PRIVATE KEY----- {} -----END PRIVATE KEY-----", "UGxhbnRlZEtleTE2"),
}


@pytest.fixture(scope="module")
def written(directory: Path) -> Iterator[dict[str, str]]:
    """Everything that we wrote while sixteen models failed with a secret in their last words."""
    with audited_plane(directory) as plane:
        port = free_port(LOOPBACK)
        operator = Operator(plane, directory, port=port)
        plane.kubectl("create", "namespace", SPACE)
        for number, (sentence, secret) in enumerate(PLANTED.values()):
            plant(plane, f"m-{number}", sentence.format(secret), secret)
        for number in range(len(PLANTED)):
            name = f"m-{number}"
            eventually(lambda name=name: ready(plane, SPACE, name).get("reason") in TOLD, f"{name} to be told", 120)
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=30) as answer:
            metrics = answer.read().decode()
        bundle = directory / "bundle.tar.gz"
        assert Cli(plane.kubeconfig)("report", "-n", SPACE, "--to", str(bundle)).code == 0
        yield {
            "status": statuses(plane),
            "events": plane.kubectl("get", "events", "-n", SPACE, "-o", "json"),
            "children": plane.kubectl("get", "deployments,jobs,cronjobs,services", "-n", SPACE, "-o", "json"),
            "metrics": metrics,
            "bundle": "\n".join(texts(bundle)),
            "log": operator.log.read_text(),
        }
        assert operator.stop() == 0


TOLD = ("CrashLooping", "WeightsFailed", "ModelAuthFailed")


def plant(plane: ProxiedPlane, name: str, said: str, secret: str) -> None:
    """A Secret that holds it, a model that names the Secret, and a pod of the model that blurts it out."""
    data = {"HF_TOKEN": base64.b64encode(secret.encode()).decode()}
    meta = {"name": f"{name}-hub", "namespace": SPACE}
    held = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}
    plane.kubectl("create", "-f", "-", stdin=json.dumps(held))
    if int(name.removeprefix("m-")) % 2:
        apply(plane, SPACE, name, IMAGE)
        tell(plane, SPACE, of(name, "engine"), crashed(f"starting\n{said}\n", 1))
    else:
        apply(plane, SPACE, name, HUB, model={"source": HUB, "secretRef": {"name": f"{name}-hub"}})
        tell(plane, SPACE, of(name, "weights"), ended("ModelAuthFailed", said))


def statuses(plane: ControlPlane) -> str:
    items = json.loads(plane.kubectl("get", "llmd", "-n", SPACE, "-o", "json"))["items"]
    return json.dumps([item["status"] for item in items])


def texts(bundle: Path) -> list[str]:
    with tarfile.open(bundle) as opened:
        return [opened.extractfile(entry).read().decode() for entry in opened]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", PLANTED)
def test_a_secret_is_nowhere(written: dict[str, str], kind: str) -> None:
    secret = PLANTED[kind][1]
    assert [place for place, text in written.items() if secret in text] == []


def test_the_words_around_the_secrets_came_through(written: dict[str, str]) -> None:
    """Otherwise there would have been nothing to search."""
    for place in ("status", "events", "bundle"):
        assert written[place].count("***") >= len(PLANTED), place
        assert "RuntimeError" in written[place], place
