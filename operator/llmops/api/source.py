"""Where a model, an adapter or a data set comes from: `scheme://...`, one grammar for CRDs, operator and jobs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Every pattern is plain ASCII without look-around, so that Go's RE2 (CEL in the API server) and Python agree on it.
_NAME = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_REPO = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_KEY = '[!"$->@-~]+'  # printable ASCII without space, '?' and '#': a signed URL's secret has no place in a spec
_BUCKET = "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_HOST = "([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\\[[0-9a-fA-F:.]+\\])(:[0-9]{1,5})?"
_IMAGE = f"{_HOST}(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?"


@dataclass(frozen=True)
class Hub:
    """A repository of a model hub that speaks Hugging Face's API: `organisation/name`, or an old-style bare `name`."""

    repo: str


@dataclass(frozen=True)
class Bucket:
    """Objects below `key` (no slash at either end; empty: the whole bucket) of an object store."""

    store: Literal["s3", "gs", "az"]
    bucket: str
    key: str


@dataclass(frozen=True)
class Web:
    """Files below a web address."""

    url: str


@dataclass(frozen=True)
class Claim:
    """A directory (`path` without slashes at its ends; empty: the root) of a volume claim in the same namespace."""

    claim: str
    path: str


@dataclass(frozen=True)
class Image:
    """The files of an OCI image or artifact."""

    reference: str


@dataclass(frozen=True)
class FineTune:
    """What a FineTuneJob of the same namespace produced."""

    job: str


@dataclass(frozen=True)
class Backup:
    """A restore point of the backup `name`; without `point`, the newest verified one."""

    name: str
    point: str | None


@dataclass(frozen=True)
class ConfigData:
    """A key of a ConfigMap of the same namespace (small data sets only)."""

    name: str
    key: str


Source = Hub | Bucket | Web | Claim | Image | FineTune | Backup | ConfigData


@dataclass(frozen=True)
class Scheme:
    """One way to name a source.

    Attributes:
        pattern: What follows `scheme://`, as a regular expression for the whole rest.
        example: A whole source as a user may write it.
        build: From scheme and rest (which matched) to the parsed source.
        takes_secret: Whether credentials of the user's are used: not where Kubernetes itself mounts or pulls.
    """

    pattern: str
    example: str
    build: Callable[[str, str], Source]
    takes_secret: bool = True


def _store(scheme: str, rest: str) -> Source:
    bucket, _, key = rest.partition("/")
    return Bucket(scheme, bucket, key.strip("/"))  # type: ignore[arg-type]  # the table below has only these schemes


def _claim(_: str, rest: str) -> Source:
    claim, _, path = rest.partition("/")
    return Claim(claim, path.strip("/"))


def _backup(_: str, rest: str) -> Source:
    name, _, point = rest.partition("@")
    return Backup(name, point or None)


def _config(_: str, rest: str) -> Source:
    name, _, key = rest.partition("/")
    return ConfigData(name, key)


def _web(scheme: str, rest: str) -> Source:
    return Web(f"{scheme}://{rest}")


_OBJECTS = f"{_BUCKET}(/({_KEY})?)?"
SCHEMES: dict[str, Scheme] = {
    "hf": Scheme(f"({_REPO}/)?{_REPO}", "hf://meta-llama/Llama-3.1-8B-Instruct", lambda _, rest: Hub(rest)),
    "s3": Scheme(_OBJECTS, "s3://models/llama-3.1-8b", _store),
    "gs": Scheme(_OBJECTS, "gs://models/llama-3.1-8b", _store),
    "az": Scheme(_OBJECTS, "az://container/llama-3.1-8b", _store),
    "https": Scheme(f"{_HOST}(/({_KEY})?)?", "https://models.example.com/llama-3.1-8b/", _web),
    "http": Scheme(f"{_HOST}(/({_KEY})?)?", "http://models.internal:8080/llama-3.1-8b/", _web),
    "pvc": Scheme(f"{_SUBDOMAIN}(/({_KEY})?)?", "pvc://shared-models/llama-3.1-8b", _claim, takes_secret=False),
    "oci": Scheme(
        _IMAGE, "oci://registry.example.com/models/llama:3.1-8b", lambda _, rest: Image(rest), takes_secret=False
    ),
    "finetune": Scheme(_NAME, "finetune://tickets-lora", lambda _, rest: FineTune(rest), takes_secret=False),
    "backup": Scheme(
        f"{_NAME}(@[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}Z)?",
        "backup://support@2026-11-20T03:00:00Z",
        _backup,
        takes_secret=False,
    ),
    "configMap": Scheme(
        f"{_SUBDOMAIN}/[-._A-Za-z0-9]{{1,253}}", "configMap://tickets/data.jsonl", _config, takes_secret=False
    ),
}
DOT_SEGMENT = "(^|/)[.][.]?(/|$)"


def parse(source: str) -> Source:
    """What a source means.

    Raises:
        ValueError: With a text that says what is wrong and shows a source that would be right.
    """
    scheme, separator, rest = source.partition("://")
    known = SCHEMES.get(scheme)
    if not separator or known is None:
        raise ValueError(f"'{source}' names no known source: begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
    if not re.fullmatch(known.pattern, rest):
        raise ValueError(f"'{source}' is not a {scheme}:// source: write it like {known.example}")
    if re.search(DOT_SEGMENT, rest):
        raise ValueError(f"'{source}' has '.' or '..' as a part of its path: write the path out")
    return known.build(scheme, rest)
