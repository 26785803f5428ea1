"""`s3://`, `gs://`, `az://`: an object store's prefix as a model directory, through obstore."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.redaction import redact
from llmops_serving.jobs.weights.names import MAX_FILES
from llmops_serving.jobs.weights.sources.http import TIMEOUT
from llmops_serving.jobs.weights.sources.source import Body, Expected, Listing, RemoteFile

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, ObjectStore

CHUNK_BYTES = 4 << 20
SIGNED_FOR = timedelta(minutes=1)
MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')


class ObjectSource:
    """The objects under `prefix`. The revision is a digest of their names, sizes and ETags."""

    def __init__(self, store: ObjectStore, place: str, prefix: str, *, proxy: str) -> None:
        self._store, self._place, self._proxy = store, place, proxy
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def listing(self, pinned: str | None) -> Listing:  # noqa: ARG002 - an object store has no history to pin
        files: list[RemoteFile] = []
        with self._sorted():
            for page in obstore.list(self._store, self._prefix or None):
                files.extend(self._remote(meta) for meta in page if not str(meta["path"]).endswith("/"))
                if len(files) > MAX_FILES:
                    raise Failure(Reason.UNSAFE_MODEL, f"{self._place} has more than {MAX_FILES} objects.")
        files.sort(key=lambda file: file.path)
        if not files:
            raise Failure(Reason.MODEL_NOT_FOUND, f"{self._place} has no objects. Check bucket and prefix.")
        text = "".join(f"{file.path}\0{file.size_bytes}\0{file.identity}\n" for file in files)
        return Listing(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", tuple(files))

    @contextmanager
    def open(self, file: RemoteFile, offset: int) -> Iterator[Body]:
        with self._sorted():
            etag = file.identity if not file.identity.startswith("size:") else None
            if file.size_bytes in {0, offset}:  # no range of an object starts after its end
                yield Body(offset, iter(()))
                return
            options: GetOptions = {"range": {"offset": offset}}
            if etag:  # obstore takes no None
                options["if_match"] = etag
            result = obstore.get(self._store, file.key, options=options)
            yield Body(offset, (bytes(chunk) for chunk in result.stream(min_chunk_size=CHUNK_BYTES)))

    def vouches(self, file: RemoteFile) -> bool:
        """An S3 ETag is not an MD5 where the bucket encrypts with a key of its own; the object's headers say so."""
        if not isinstance(self._store, S3Store):
            return False
        url = obstore.sign(self._store, "HEAD", file.key, SIGNED_FOR)
        try:
            answer = httpx.head(url, proxy=self._proxy, trust_env=False, timeout=TIMEOUT)
        except httpx.TransportError as error:
            raise Transient(f"{self._place}: {type(error).__name__}") from error
        encryption = answer.headers.get("x-amz-server-side-encryption", "")
        own_key = "x-amz-server-side-encryption-customer-algorithm" in answer.headers
        return not own_key and not encryption.startswith("aws:kms")

    def _remote(self, meta: Mapping[str, Any]) -> RemoteFile:
        key, size, etag = str(meta["path"]), int(meta["size"]), meta.get("e_tag")
        path = key.removeprefix(self._prefix)
        md5 = MD5_ETAG.fullmatch(etag) if etag and isinstance(self._store, S3Store) else None
        expected = Expected("md5", md5[1]) if md5 else None
        return RemoteFile(path, size, str(etag or f"size:{size}:{meta.get('last_modified')}"), expected, key)

    @contextmanager
    def _sorted(self) -> Iterator[None]:
        try:
            yield
        except (UnauthenticatedError, PermissionDeniedError) as error:
            message = f"{self._place}: access refused. Check the keys in spec.model.secretRef and the bucket's policy."
            raise Failure(Reason.MODEL_AUTH_FAILED, message) from error
        except FileNotFoundError as error:
            if REFUSED_KEY.search(str(error)):
                raise _generic(self._place, error) from error
            raise Failure(Reason.MODEL_NOT_FOUND, f"{self._place}: no such bucket or object.") from error
        except PreconditionError as error:
            raise Transient(f"{self._place} changed while it was being read") from error
        except (BaseError, ValueError) as error:
            raise _generic(self._place, error) from error


# Some servers answer 404 to an access key that they do not know, each with a word of its own.
REFUSED_KEY = re.compile("InvalidAccessKeyId|SignatureDoesNotMatch|XAdminUserNotFound")


def _generic(place: str, error: Exception) -> Failure:
    """Sort obstore's catch-all by the status that its text carries."""
    whole = str(error)
    text = redact(whole.split("Debug source", 1)[0])
    status = re.search(r"status code: (\d{3})|Client error with status (\d{3})", text)
    code = int(status[1] or status[2]) if status else 0
    if re.search(r"SlowDown|TooManyRequests|ServerBusy", text) or code == 429:
        return Transient(f"{place}: asked to slow down", throttled=True)
    if REFUSED_KEY.search(whole) or code in (401, 403):
        return Failure(Reason.MODEL_AUTH_FAILED, f"{place}: access refused. Check the keys in spec.model.secretRef.")
    if "NoSuchBucket" in text or code == 404:
        return Failure(Reason.MODEL_NOT_FOUND, f"{place}: no such bucket or object.")
    return Transient(f"{place}: {text}")


def s3(bucket: str, environment: Mapping[str, str], *, endpoint: str | None, proxy: str) -> S3Store:
    """A bucket with path-style addresses, the keys of the environment, unsigned without any."""
    url = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    settings: dict[str, Any] = {
        "region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
        "virtual_hosted_style_request": False,
        "client_options": client_options(proxy),
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},  # waiting is the caller's
    }
    if url:
        settings["endpoint"] = url
    if key and secret:
        settings |= {"access_key_id": key, "secret_access_key": secret}
        if token := environment.get("AWS_SESSION_TOKEN"):
            settings["token"] = token
    else:
        settings["skip_signature"] = True  # never the node's own role: it is not the user's to spend
    return S3Store(bucket, **settings)


def gcs(bucket: str, environment: Mapping[str, str], *, proxy: str) -> GCSStore:
    settings: dict[str, Any] = {"client_options": client_options(proxy)}
    if key := environment.get("GOOGLE_SERVICE_ACCOUNT_KEY"):
        settings["service_account_key"] = key
    else:
        settings["skip_signature"] = True
    return GCSStore(bucket, **settings)


def azure(container: str, environment: Mapping[str, str], *, endpoint: str | None, proxy: str) -> AzureStore:
    settings: dict[str, Any] = {"client_options": client_options(proxy)}
    named = {
        "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
        "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
        "AZURE_STORAGE_SAS_TOKEN": "sas_key",
        "AZURE_STORAGE_CLIENT_ID": "client_id",
        "AZURE_STORAGE_CLIENT_SECRET": "client_secret",
        "AZURE_STORAGE_TENANT_ID": "tenant_id",
    }
    settings |= {setting: environment[name] for name, setting in named.items() if environment.get(name)}
    if endpoint:
        settings["endpoint"] = endpoint
    if not settings.keys() & {"account_key", "sas_key", "client_secret"}:
        settings["skip_signature"] = True
    return AzureStore(container, **settings)


def client_options(proxy: str) -> ClientConfig:
    """No overall time limit: shards are large. The proxy decides which addresses may be reached, and what is idle."""
    return {"proxy_url": proxy, "allow_http": True, "timeout": timedelta(days=7), "read_timeout": timedelta(seconds=90)}
