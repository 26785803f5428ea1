"""Brings one file of rows onto the volume: an object of a bucket, or what a web address answers."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
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


_DATA = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|txt)(\.gz)?$")


def fetched(
    source: str,
    folder: Path,
    environment: Mapping[str, str],
    *,
    endpoint: str | None,
    allow_private: bool,
    name: str | None = None,
) -> Path:
    """The file of an hf://, s3://, gs:// or http(s):// source, whole, in `folder`; `name` is its path on the hub.

    Raises:
        Failure, Stopped: it cannot be had; `Transient` where time may heal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Egress(allow_private=allow_private) as egress:
            os.environ.update(egress.environment())  # the hub's client takes its proxy from there
            client, file = _remote(source, environment, endpoint=endpoint, proxy=egress.url)
            guarded = Guarded(client, egress)
            if file.path == "":
                file = _chosen(source, name, guarded.listing(None).files)
            partial, place = folder / ".partial", folder / Path(file.path).name
            with guarded.open(file, 0) as body, partial.open("wb") as out:
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
        case sources.Hub(repo=repo):
            from llmops_serving.jobs.weights.sources.hub import HubSource  # noqa: PLC0415 - heavy, and seldom needed

            where, token = endpoint or environment.get("HF_ENDPOINT"), environment.get("HF_TOKEN")
            hub = HubSource(repo, "main", endpoint=where, token=token, proxy=proxy, kind="dataset")
            return hub, RemoteFile("", None, "", key="")
        case sources.Web(url=url):
            name = url.rstrip("/").rpartition("/")[2] or "data"
            web = WebSource(url, token=environment.get("HTTP_TOKEN"), proxy=proxy)
            return web, RemoteFile(name, None, "", key=url)
    raise Failure(Reason.SOURCE_INVALID, f"{source} is not a file that can be fetched.")


def _chosen(source: str, name: str | None, files: Sequence[RemoteFile]) -> RemoteFile:
    """The file of a repository that has the rows: the one that is named, the only one, or the only one for training."""
    named = [file for file in files if file.path == name]
    data = [file for file in files if _DATA.search(file.path) and not file.path.startswith("dataset_info")]
    training = [file for file in data if "train" in file.path]
    for found in (named,) if name else (data, training):
        if len(found) == 1:
            return found[0]
    there = ", ".join(file.path for file in data[:8]) or "no JSONL, JSON, CSV, Parquet or text"
    raise Stopped("DatasetNotFound", f"{source} has {there}: name one of its files in spec.dataset.file.")
