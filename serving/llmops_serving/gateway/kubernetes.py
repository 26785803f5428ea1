"""Read-only access to the Kubernetes API: where it is, who we are, and how to read one answer or a long one."""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS = 30
_MAX_OBJECT_BYTES = 16 * 1024 * 1024


class Access:
    """A connection to one API server. The token is read again for every request, because the kubelet rotates it."""

    def __init__(
        self, server: str, tls: ssl.SSLContext | None, token_file: Path | None = None, token: str = ""
    ) -> None:
        """`token` is a fixed token, `token_file` one that changes; neither with a client certificate in `tls`."""
        self.server = server.rstrip("/")
        self._tls = tls
        self._token_file = token_file
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """One object or page."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with self._open(path, parameters, timeout) as response:
            response.raise_for_status()
            document: dict[str, Any] = orjson.loads(await response.read())
            return document

    @asynccontextmanager
    async def stream(
        self, path: str, parameters: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A long answer; a `TimeoutError` when it is silent for longer."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=silence_seconds)
        async with self._open(path, parameters, timeout) as response:
            yield response

    @asynccontextmanager
    async def _open(
        self, path: str, parameters: Mapping[str, str], limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=_MAX_OBJECT_BYTES, trust_env=False)
        token = self._token_file.read_text().strip() if self._token_file is not None else self._token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self.server + path
        async with self._session.get(url, params=parameters, headers=headers, timeout=limits) as response:
            yield response

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


def in_cluster(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Access:
    """Access with the pod's service account.

    Raises:
        ValueError: this is not a pod.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ValueError("not in a cluster: give --routes FILE or --kubeconfig FILE")
    host = f"[{host}]" if ":" in host else host
    tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    return Access(f"https://{host}:{port}", tls, token_file=directory / "token")


def from_kubeconfig(path: Path) -> Access:
    """Access with a kubeconfig's current context: token or client certificate, inline or in files.

    Raises:
        ValueError: it lacks what is needed.
    """
    document = yaml.safe_load(path.read_text())
    try:
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        server: str = cluster["server"]
    except (KeyError, TypeError) as problem:
        raise ValueError(f"{path}: incomplete kubeconfig: {problem}") from problem
    if not server.startswith("https:"):
        return Access(server, None, token=user.get("token", ""))
    authority = _content(cluster, "certificate-authority", path.parent)
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    certificate, key = (_content(user, field, path.parent) for field in ("client-certificate", "client-key"))
    if certificate and key:
        with tempfile.NamedTemporaryFile() as pair:  # the ssl module reads certificates from files only
            pair.write(certificate + b"\n" + key)
            pair.flush()
            tls.load_cert_chain(pair.name)
    return Access(server, tls, token=user.get("token", ""))


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _content(entry: Mapping[str, str], field: str, base: Path) -> bytes | None:
    if data := entry.get(f"{field}-data"):
        return base64.b64decode(data)
    return (base / entry[field]).read_bytes() if field in entry else None
