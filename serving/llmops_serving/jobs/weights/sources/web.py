"""`http(s)://`: one tar archive, one safetensors file, or a base URL under which a model's usual files lie.

A web server has no listing that can be trusted, so a base URL is explored by names: config.json must be there, the
index names the shards, tokenizer files are asked for one by one. Digests in a `SHA256SUMS` beside them are checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

import httpx

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.weights import names
from llmops_serving.jobs.weights.sources import http
from llmops_serving.jobs.weights.sources.source import Body, Expected, Listing, RemoteFile

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
USUAL = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json", "params.json", "tekken.json", "LICENSE",
)  # fmt: skip
MAX_INDEX_BYTES = 64 << 20


class WebSource:
    """Files under a URL. The revision is a digest of their names, sizes and ETags."""

    def __init__(self, url: str, *, token: str | None, proxy: str) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise Failure(Reason.SOURCE_INVALID, f"The URL cannot be read: {error}.") from error
        if self._url.userinfo:
            raise Failure(Reason.SOURCE_INVALID, "A URL must not carry a user or password: use spec.model.secretRef.")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = http.client(proxy)

    def listing(self, pinned: str | None) -> Listing:  # noqa: ARG002 - a web server has no history to pin
        name = self._url.path.rsplit("/", 1)[-1]
        archive = name.endswith(ARCHIVES)
        files = (self._one(name),) if archive or name.endswith(names.WEIGHTS) else self._explored()
        text = "".join(f"{file.path}\0{file.size_bytes}\0{file.identity}\n" for file in files)
        return Listing(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", files, archive=archive)

    def open(self, file: RemoteFile, offset: int) -> AbstractContextManager[Body]:
        strong = file.identity if file.identity.startswith('"') else None
        # Without a strong ETag nothing proves that the rest belongs to the beginning, so it begins again.
        at = offset if strong else 0
        return http.opened(
            self._http, file.key, offset=at, size_bytes=file.size_bytes, headers=self._headers, validator=strong
        )

    def vouches(self, file: RemoteFile) -> bool:  # noqa: ARG002 - SHA256SUMS was put there to be checked
        return True

    def _one(self, name: str) -> RemoteFile:
        file = self._asked(name, str(self._url))
        if file is None:
            raise Failure(Reason.MODEL_NOT_FOUND, f"{self._url.host} has no {name}.")
        return file

    def _explored(self) -> tuple[RemoteFile, ...]:
        sums = self._sums()
        config = self._asked("config.json", sums=sums)
        adapter = self._asked(ADAPTER, sums=sums)
        if config is None and adapter is None:
            message = f"{self._url.host}{self._url.path} has neither config.json nor {ADAPTER}."
            raise Failure(Reason.MODEL_NOT_FOUND, message)
        found = [config, adapter, *(self._asked(name, sums=sums) for name in USUAL)]
        if adapter:
            found.append(self._asked("adapter_model.safetensors", sums=sums))
        if index := self._asked(INDEX, sums=sums):
            shards = self._shards(index)
            found += [index, *(self._asked(shard, sums=sums) for shard in shards)]
        else:
            found.append(self._asked("model.safetensors", sums=sums))
        return tuple(file for file in found if file)

    def _shards(self, index: RemoteFile) -> list[str]:
        try:
            shards = set(json.loads(self._read(index.key, MAX_INDEX_BYTES))["weight_map"].values())
            paths = sorted(str(shard) for shard in shards)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Failure(Reason.UNSAFE_MODEL, f"{INDEX} is not an index of weights.") from error
        names.checked(paths)
        return paths

    def _sums(self) -> dict[str, str]:
        if self._asked("SHA256SUMS") is None:
            return {}
        text = self._read(self._at("SHA256SUMS"), 1 << 20).decode("utf-8", "replace")
        lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](.+)$", text, re.MULTILINE)
        return {path.removeprefix("./"): digest.lower() for digest, path in lines}

    def _at(self, path: str) -> str:
        base = str(self._url.copy_with(query=None, fragment=None)).rstrip("/")
        query = f"?{self._url.query.decode()}" if self._url.query else ""
        return f"{base}/{quote(path)}{query}"

    def _asked(self, path: str, url: str = "", *, sums: dict[str, str] | None = None) -> RemoteFile | None:
        """The file if it is there. Asked with a GET that is not read: signed URLs and small servers refuse HEAD."""
        address = url or self._at(path)
        wanted = self._headers | {"Accept-Encoding": "identity"}
        try:
            with self._http.stream("GET", address, headers=wanted) as answer:
                if answer.status_code in (404, 410):
                    return None
                http.raise_for(answer, f"{self._url.host}/{path}")
                return _remote(path, address, answer.headers, (sums or {}).get(path))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise Failure(Reason.SOURCE_FORBIDDEN, f"{self._url.host}: {error}") from error
        except httpx.TransportError as error:
            raise Transient(f"{self._url.host}: {type(error).__name__}: {error}") from error

    def _read(self, url: str, limit_bytes: int) -> bytes:
        data = bytearray()
        with http.opened(self._http, url, offset=0, size_bytes=None, headers=self._headers, validator=None) as body:
            for chunk in body.chunks:
                data += chunk
                if len(data) > limit_bytes:
                    raise Failure(Reason.UNSAFE_MODEL, f"{self._url.host}: an index of more than {limit_bytes} bytes.")
        return bytes(data)


def _remote(path: str, url: str, headers: Any, sha256: str | None) -> RemoteFile:
    length = headers.get("Content-Length")
    size = int(length) if length and length.isdigit() and "Content-Encoding" not in headers else None
    identity = headers.get("ETag") or f"{size}:{headers.get('Last-Modified')}"
    return RemoteFile(path, size, identity, Expected("sha256", sha256) if sha256 else None, url)
