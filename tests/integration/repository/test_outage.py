"""An S3 server that goes away in the middle of a backup and comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from hack.cluster import tools
from tests.integration.conftest import S3, eventually, free_port
from tests.integration.repository.models import KEY, model


class Server:
    """An S3 server of this test's own, which it may stop."""

    def __init__(self, s3: S3, folder: Path) -> None:
        self.s3 = replace(s3, endpoint=f"http://127.0.0.1:{free_port()}", root=folder / "objects", buckets=[])
        self.s3.root.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = tools.program("versitygw", "versitygw")
        environment = {"ROOT_ACCESS_KEY": self.s3.access_key, "ROOT_SECRET_KEY": self.s3.secret_key}
        command = [binary, "--port", self.s3.endpoint.removeprefix("http://"), "--quiet", "--health", "/health"]
        self.process = subprocess.Popen([*command, "posix", self.s3.root], env=environment, stdout=subprocess.DEVNULL)
        eventually(lambda: httpx.get(f"{self.s3.endpoint}/health", trust_env=False).is_success, httpx.TransportError)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server(s3: S3, tmp_path: Path) -> Iterator[Server]:
    made = Server(s3, tmp_path)
    made.start()
    yield made
    made.kill()


def test_a_backup_waits_for_the_server_and_uploads_nothing_twice(server: Server, tmp_path: Path) -> None:
    base = model(tmp_path / "base", layers=150)
    bucket = server.s3.bucket()
    log = tmp_path / "termination-log"
    command = [sys.executable, "-m", "llmops_serving.jobs.backup", "--target", f"s3://{bucket}/r", "--allow-private"]
    environment = {
        **server.s3.environment,
        "LLMOPS_REPOSITORY_KEY": KEY.decode(),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    job = subprocess.Popen(
        [*command, "--threads", "1", "--name", "m", "--termination-log", log, base],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    blobs = server.s3.root / bucket / "r" / "blobs"
    eventually(lambda: any(blobs.glob("*/*")))
    server.kill()
    before = {at.name for at in blobs.glob("*/*")}
    assert job.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(3)  # it does not give up
    server.start()
    assert job.wait(120) == 0
    keys = [at.name.split(".")[0] for at in blobs.glob("*/*")]
    assert before < {at.name for at in blobs.glob("*/*")}
    assert len(keys) == len(set(keys))
    assert json.loads(log.read_text())["outcome"] == "Complete"
