"""Brings one file of rows onto the volume: an object of a bucket, or what a web address answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from llmops.api import source as sources
from llmops_serving.jobs.egress import Egress
from llmops_serving.jobs.ending import Stopped
from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights.sources import objects
from llmops_serving.jobs.weights.sources.guarded import Guarded
from llmops_serving.jobs.weights.sources.source import RemoteFile, Source
from llmops_serving.jobs.weights.sources.web import WebSource

# The clients are those of the weights job; what is missing or refused here is the data set.
_WORDS = {Reason.MODEL_NOT_FOUND: "DatasetNotFound", Reason.MODEL_AUTH_FAILED: "DatasetAuthFailed"}


def fetched(
    source: str, folder: Path, environment: Mapping[str, str], *, endpoint: str | None, allow_private: bool
) -> Path:
    """The file of an s3://, gs:// or http(s):// source, whole, in `folder`.

    Raises:
        Failure, Stopped: it cannot be had; `Transient` where time may heal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Egress(allow_private=allow_private) as egress:
            client, file = _remote(source, environment, endpoint=endpoint, proxy=egress.url)
            partial, place = folder / ".partial", folder / Path(file.path).name
            with Guarded(client, egress).open(file, 0) as body, partial.open("wb") as out:
                for chunk in body.chunks:
                    out.write(chunk)
            partial.rename(place)
            return place
    except Failure as failure:
        if failure.reason not in _WORDS:
            raise
        message = str(failure).replace("spec.model.secretRef", "spec.dataset.secretRef")
        raise Stopped(_WORDS[failure.reason], message) from failure
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"The volume is full ({os.strerror(error.errno)}). Use a larger spec.storage.size."
        raise Failure(Reason.DISK_FULL, message) from error


def _remote(
    source: str, environment: Mapping[str, str], *, endpoint: str | None, proxy: str
) -> tuple[Source, RemoteFile]:
    match sources.parse(source):
        case sources.Bucket(store=scheme, bucket=bucket, key=key) if scheme != "az":
            store = (
                objects.s3(bucket, environment, endpoint=endpoint, proxy=proxy)
                if scheme == "s3"
                else objects.gcs(bucket, environment, proxy=proxy)
            )
            return objects.ObjectSource(store, source, "", proxy=proxy), RemoteFile(key, None, "size:", key=key)
        case sources.Web(url=url):
            name = url.rstrip("/").rpartition("/")[2] or "data"
            web = WebSource(url, token=environment.get("HTTP_TOKEN"), proxy=proxy)
            return web, RemoteFile(name, None, "", key=url)
    raise Failure(Reason.SOURCE_INVALID, f"{source} is not a file that can be fetched.")
