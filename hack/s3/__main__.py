"""`python -m hack.s3 --root DIR --bucket NAME`: versitygw over a directory, with one bucket that can lock objects."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

DEADLINE_SECONDS = 60


def main() -> int:
    """Serve until killed; the account comes from ROOT_ACCESS_KEY and ROOT_SECRET_KEY."""
    parser = argparse.ArgumentParser(prog="python -m hack.s3", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="where buckets and versions are kept")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--program", default="versitygw")
    options = parser.parse_args()
    buckets, versions = options.root / "buckets", options.root / "versions"
    for folder in (buckets, versions):
        folder.mkdir(parents=True, exist_ok=True)
    command = [options.program, "--port", f":{options.port}", "--quiet", "--health", "/health"]
    server = subprocess.Popen([*command, "posix", "--versioning-dir", str(versions), str(buckets)])
    try:
        _await(f"http://127.0.0.1:{options.port}/health", server)
        _make(options.bucket, options.port)
        return server.wait()
    finally:
        server.kill()


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"versitygw does not answer at {url}")


def _make(bucket: str, port: int) -> None:
    """The bucket, with Object Lock: a request that no client library at hand makes (AWS Signature Version 4)."""
    now, region = datetime.now(UTC), "us-east-1"
    host = f"127.0.0.1:{port}"
    nothing = hashlib.sha256(b"").hexdigest()
    fields = {
        "host": host,
        "x-amz-bucket-object-lock-enabled": "true",
        "x-amz-content-sha256": nothing,
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
    }
    names = ";".join(fields)
    lines = "".join(f"{name}:{value}\n" for name, value in fields.items())
    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    digest = hashlib.sha256(f"PUT\n/{bucket}\n\n{lines}\n{names}\n{nothing}".encode()).hexdigest()
    key = f"AWS4{os.environ['ROOT_SECRET_KEY']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{fields['x-amz-date']}\n{scope}\n{digest}"
    credential = f"{os.environ['ROOT_ACCESS_KEY']}/{scope}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    request = urllib.request.Request(
        f"http://{host}/{bucket}", method="PUT", headers={**fields, "authorization": authorization}
    )
    try:
        with urllib.request.urlopen(request, timeout=30):
            return
    except urllib.error.HTTPError as refusal:
        if refusal.code != 409:  # a container that starts again finds its bucket
            raise


if __name__ == "__main__":
    sys.exit(main())
