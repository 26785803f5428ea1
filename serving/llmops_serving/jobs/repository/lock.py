"""S3 Object Lock: retention on everything a point needs, renewed when a new point refers to an old object.

The object-store library cannot set retention, so this signs the one request that does (PutObjectRetention) itself,
after AWS Signature Version 4.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from urllib.parse import quote, urlsplit

import httpx

from llmops_serving.jobs.repository.bases import Index
from llmops_serving.jobs.repository.errors import TargetDenied, TargetUnreachable, Unsafe
from llmops_serving.jobs.repository.format import Manifest
from llmops_serving.jobs.repository.repository import Repository

SLACK: Final = 0.25  # lock this much longer than asked, so that a nightly point does not renew every object each night
PARALLEL: Final = 8
NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True, slots=True)
class Retention:
    """Nobody (COMPLIANCE), or nobody without a special right (GOVERNANCE), deletes an object for `days`."""

    mode: Literal["GOVERNANCE", "COMPLIANCE"]
    days: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """An S3 bucket and who may lock objects in it."""

    endpoint: str
    name: str
    prefix: str
    region: str
    access_key: str
    secret_key: str
    session_token: str = ""

    @classmethod
    def of(cls, url: str, environment: Mapping[str, str]) -> Bucket:
        """The bucket of an s3:// target, from the usual AWS variables.

        Raises:
            Unsafe: not an S3 target. TargetDenied: no credentials.
        """
        parts = urlsplit(url)
        if parts.scheme != "s3":
            raise Unsafe("Object Lock needs an s3:// target")
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoints = (environment.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
        endpoint = next((text for text in endpoints if text), f"https://s3.{region}.amazonaws.com")
        access, secret = environment.get("AWS_ACCESS_KEY_ID", ""), environment.get("AWS_SECRET_ACCESS_KEY", "")
        if not access or not secret:
            raise TargetDenied("Object Lock needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        token = environment.get("AWS_SESSION_TOKEN", "")
        return cls(endpoint.rstrip("/"), parts.netloc, parts.path.strip("/"), region, access, secret, token)


def relocked(
    repository: Repository, retention: Retention, environment: Mapping[str, str]
) -> Callable[[Manifest, Index], Manifest]:
    """A step before the commit that locks what the manifest needs, and notes until when.

    What other points need is locked until the latest time noted by any of them, so that only objects whose lock would
    end before the new point's are touched.
    """
    bucket = Bucket.of(repository.target.url, environment)

    def lock(manifest: Manifest, _: Index) -> Manifest:
        now = datetime.now(UTC)
        needed = now + timedelta(days=retention.days)
        until = needed + timedelta(days=retention.days * SLACK)
        already = {
            blob
            for ref in repository.points()
            if (other := repository.manifest(ref)).locked_until and datetime.fromisoformat(other.locked_until) >= needed
            for blob in other.blobs()
        }
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(PARALLEL) as pool:
            names = sorted({blob.object for blob in manifest.blobs() if blob not in already})
            list(pool.map(lambda name: put_retention(client, bucket, name, retention.mode, until), names))
        return replace(manifest, locked_until=until.isoformat(timespec="seconds"))

    return lock


def lock_records(
    repository: Repository, manifest: Manifest, retention: Retention, environment: Mapping[str, str]
) -> None:
    """Lock the small objects without which the blobs say nothing: manifest, header, wrapped keys, their copies."""
    bucket = Bucket.of(repository.target.url, environment)
    until = datetime.fromisoformat(manifest.locked_until)
    keys = [stored.name for stored in repository.target.list("keys")]
    names = [manifest.ref.object, "repository", *keys]
    with httpx.Client(timeout=60) as client:
        for name in (place + name for name in names for place in ("", "copy/")):
            put_retention(client, bucket, name, retention.mode, until)


def put_retention(client: httpx.Client, bucket: Bucket, name: str, mode: str, until: datetime) -> None:
    """Set the object's retention; it can only be made longer.

    Raises:
        TargetDenied: the server refuses, such as for a bucket without Object Lock. TargetUnreachable.
    """
    stamp = until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = f'<Retention xmlns="{NAMESPACE}"><Mode>{mode}</Mode><RetainUntilDate>{stamp}</RetainUntilDate></Retention>'
    key = "/".join(part for part in (bucket.name, bucket.prefix, name) if part)
    path = quote(f"/{key}", safe="/-_.~")
    headers = signed(bucket, path, "retention=", body.encode(), datetime.now(UTC))
    try:
        answer = client.put(f"{bucket.endpoint}{path}?retention=", content=body.encode(), headers=headers)
    except httpx.HTTPError as problem:
        raise TargetUnreachable(f"{name}: {problem}") from problem
    if answer.status_code >= 500:
        raise TargetUnreachable(f"{name}: the server answered {answer.status_code} to a lock")
    if answer.status_code >= 300:
        raise TargetDenied(f"{name}: not locked: {answer.text[:200]}")


def signed(bucket: Bucket, path: str, query: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers of a PUT, signed (AWS Signature Version 4, single chunk)."""
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    headers = {
        "content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        "host": urlsplit(bucket.endpoint).netloc,
        "x-amz-content-sha256": digest,
        "x-amz-date": moment,
    }
    if bucket.session_token:
        headers["x-amz-security-token"] = bucket.session_token
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"PUT\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{bucket.region}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{bucket.secret_key}".encode()
    for part in (day, bucket.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    credential = f"{bucket.access_key}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": authorization}
