"""Real local servers for tests: an S3 server (versitygw, with Object Lock) and a model hub. All on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import obstore
import pytest
from obstore.store import S3Store

from hack.cluster import tools
from hack.hub import Hub

DEADLINE_SECONDS = 180.0  # what takes a second on a machine with nothing else to do


@dataclass(frozen=True)
class S3:
    """A running S3 server. `root` is its backend: `root/BUCKET/KEY` holds an object's bytes, for tests to damage."""

    endpoint: str
    access_key: str
    secret_key: str
    root: Path
    region: str = "us-east-1"
    buckets: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """As a Secret would give it to a job."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
        }

    @property
    def google_environment(self) -> dict[str, str]:
        """For gs:// at this server: both stores list and read objects by the same XML, here without a signature."""
        key = {"gcs_base_url": self.endpoint, "disable_oauth": True}
        key |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key)}

    def bucket(self, prefix: str = "test", *, object_lock: bool = False) -> str:
        """A new bucket's name; with `object_lock`, versioned and able to lock objects."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if object_lock else {}
        self.request("PUT", f"/{name}", headers=headers).raise_for_status()
        self.buckets.append(name)
        return name

    def open_to_all(self, bucket: str) -> None:
        """Let anybody list and read, signed or not."""
        these = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        may = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": these}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [may]}).encode()
        self.request("PUT", f"/{bucket}", query="policy=", body=policy).raise_for_status()

    def store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=self.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def put(self, bucket: str, key: str, data: bytes | Path) -> None:
        obstore.put(self.store(bucket), key, data)

    def request(
        self, method: str, path: str, *, query: str = "", body: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Any S3 call, signed (AWS Signature Version 4): what object clients do not do, such as making buckets."""
        now = datetime.now(UTC)
        host = urlsplit(self.endpoint).netloc
        payload = hashlib.sha256(body).hexdigest()
        fields = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
        fields |= {name.lower(): value for name, value in (headers or {}).items()}
        names = ";".join(sorted(fields))
        lines = "".join(f"{name}:{fields[name]}\n" for name in sorted(fields))
        canonical = "\n".join([method, quote(path), _canonical(query), lines, names, payload])
        scope = f"{now:%Y%m%d}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{fields['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        fields["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        url = f"{self.endpoint}{quote(path)}{f'?{query}' if query else ''}"
        return httpx.request(method, url, content=body, headers=fields, trust_env=False)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 server for the session; every test takes buckets of its own."""
    folder = tmp_path_factory.mktemp("s3")
    for name in ("objects", "versions"):
        (folder / name).mkdir()
    server = S3(
        f"http://127.0.0.1:{free_port()}",
        "AKIATESTTESTTESTTEST",
        "test-secret-key-of-the-s3-server",
        folder / "objects",
    )
    address = urlsplit(server.endpoint).netloc
    command = [str(tools.program("versitygw", "versitygw")), "--port", address, "--region", server.region]
    command += ["--quiet", "--health", "/health", "--noacl"]
    command += ["posix", "--versioning-dir", str(folder / "versions"), str(server.root)]
    environment = {
        "ROOT_ACCESS_KEY": server.access_key,
        "ROOT_SECRET_KEY": server.secret_key,
        "PATH": os.environ["PATH"],
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        eventually(
            lambda: httpx.get(f"{server.endpoint}/health", trust_env=False).status_code == 200, httpx.TransportError
        )
        yield server
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def hub_root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    root.mkdir()
    return root


@pytest.fixture
def hub(hub_root: Path) -> Iterator[Hub]:
    """A model hub over `hub_root`; `hf_correcttoken` may read private models."""
    with Hub(hub_root, tokens=("hf_correcttoken",)) as server:
        yield server


def eventually(condition: Callable[[], bool], *ignored: type[Exception], seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition; fail when it has not come true within the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with _ignoring(*ignored):
            if condition():
                return
        time.sleep(0.02)
    pytest.fail(f"not true within {seconds} s")


@contextmanager
def _ignoring(*errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors:
        return


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _canonical(query: str) -> str:
    return "&".join(sorted(part if "=" in part else f"{part}=" for part in re.split("&", query) if part))
