"""What befalls a backup on its way to S3: a server that goes away, withdrawn rights, a full bucket, a wrong clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from hack.cluster import tools
from tests.integration.conftest import S3, eventually, free_port
from tests.integration.repository.models import KEY, model

# Long enough to show that a job waits; docs/backup.md has the run of five minutes.
OUTAGE_SECONDS = int(os.environ.get("LLMOPS_TEST_OUTAGE_SECONDS", "3"))


class Server:
    """An S3 server of this test's own, which it may stop."""

    def __init__(self, s3: S3, folder: Path) -> None:
        self.s3 = replace(s3, endpoint=f"http://127.0.0.1:{free_port()}", root=folder / "objects", buckets=[])
        self.s3.root.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, secret: str = "") -> None:
        """Serve; with another `secret`, nobody who had rights has them any more."""
        binary = tools.program("versitygw", "versitygw")
        environment = {"ROOT_ACCESS_KEY": self.s3.access_key, "ROOT_SECRET_KEY": secret or self.s3.secret_key}
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


class Job:
    """The backup job of a model, as its pod runs it."""

    def __init__(self, server: Server, bucket: str, model: Path, folder: Path, *, patience_seconds: int) -> None:
        self.log = folder / "termination-log"
        self.command = [
            *(sys.executable, "-m", "llmops_serving.jobs.backup", "--target", f"s3://{bucket}/r", "--allow-private"),
            *("--threads", "1", "--name", "m", "--retry", f"{patience_seconds}s"),
            *("--termination-log", str(self.log), str(model)),
        ]
        self.environment = {
            **server.s3.environment,
            "LLMOPS_REPOSITORY_KEY": KEY.decode(),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.blobs = server.s3.root / bucket / "r" / "blobs"

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, env={**self.environment, **environment}, stdout=subprocess.DEVNULL)

    def run(self, **environment: str) -> tuple[int, dict[str, Any]]:
        """Exit code and outcome."""
        return self.start(**environment).wait(180), json.loads(self.log.read_text())

    @property
    def stored(self) -> set[str]:
        return {at.name for at in self.blobs.glob("*/*") if at.stat().st_size}

    def nothing_twice(self, before: set[str]) -> bool:
        """Whether what was stored before is there still, and no content was stored again."""
        keys = [name.split(".")[0] for name in self.stored]
        return before <= self.stored and len(keys) == len(set(keys))


@pytest.fixture
def job(server: Server, tmp_path: Path) -> Job:
    weights = model(tmp_path / "base", layers=150)
    return Job(server, server.s3.bucket(), weights, tmp_path, patience_seconds=OUTAGE_SECONDS + 60)


@pytest.mark.timeout(OUTAGE_SECONDS + 300)
def test_a_backup_waits_for_the_server_and_uploads_nothing_twice(server: Server, job: Job) -> None:
    running = job.start()
    eventually(lambda: bool(job.stored), seconds=60)
    server.kill()
    before = job.stored
    assert running.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(OUTAGE_SECONDS)  # it does not give up
    server.start()
    assert running.wait(180) == 0
    assert job.nothing_twice(before)
    assert json.loads(job.log.read_text())["outcome"] == "Complete"


def test_rights_that_are_withdrawn_half_way_are_named_and_given_back_it_goes_on(server: Server, job: Job) -> None:
    running = job.start()
    eventually(lambda: bool(job.stored), seconds=60)
    server.kill()
    server.start(secret="the administrator has changed the key")
    assert running.wait(180) == 40  # no use in trying again
    assert json.loads(job.log.read_text())["outcome"] == "TargetAccessDenied"
    before = job.stored
    server.kill()
    server.start()
    assert job.run()[1]["outcome"] == "Complete"
    assert job.nothing_twice(before)


def test_a_full_bucket_is_named_and_with_more_room_it_goes_on(s3: S3, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", small], check=True)
    server = Server(s3, small)
    try:
        server.start()
        weights = model(tmp_path / "base", layers=50)
        job = Job(server, server.s3.bucket(), weights, tmp_path, patience_seconds=5)
        code, outcome = job.run()
        assert (code, outcome["outcome"]) == (40, "TargetFull")
        before = job.stored
        assert before
        subprocess.run(["mount", "-o", "remount,size=256m", small], check=True)
        assert job.run()[1]["outcome"] == "Complete"
        assert job.nothing_twice(before)
    finally:
        server.kill()
        subprocess.run(["umount", small], check=True)


def test_a_clock_an_hour_off_is_named(job: Job) -> None:
    library = next((tools.unpacked("libfaketime") / "usr/lib").glob("*/faketime/libfaketime.so.1"))
    code, outcome = job.run(LD_PRELOAD=str(library), FAKETIME="-1h")
    assert (code, outcome["outcome"]) == (75, "ClockSkewed")
    assert "set the node's clock" in outcome["message"]
    assert job.run()[1]["outcome"] == "Complete"
