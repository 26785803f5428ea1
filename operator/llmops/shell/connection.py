"""How to reach the Kubernetes API: from inside a pod by its service account, elsewhere by a kubeconfig."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Connection:
    """An API server's address and the credentials to show it.

    `token_file` is read again for every request that needs it: a projected service account token is replaced on disk
    every hour, and a process that kept the first one is locked out after a day.
    """

    url: str
    tls: ssl.SSLContext | None = None
    token: str | None = None
    token_file: Path | None = None
    namespace: str = "default"

    def authorization(self) -> dict[str, str]:
        """The headers that carry the credentials; empty where a client certificate does."""
        token = self.token_file.read_text().strip() if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


def in_cluster(host: str, port: str) -> Connection:
    """The connection of a pod, from the files every pod with a service account has."""
    address = f"[{host}]" if ":" in host else host
    return Connection(
        url=f"https://{address}:{port}",
        tls=ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        token_file=SERVICE_ACCOUNT / "token",
        namespace=(SERVICE_ACCOUNT / "namespace").read_text().strip(),
    )


def from_kubeconfig(path: Path, *, context: str | None = None) -> Connection:
    """The connection of a kubeconfig's context (default: its current one): client certificate or token.

    Raises:
        ValueError: the file names no such context, or wants a credential plug-in, which the operator does not run.
    """
    content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    wanted = context or content.get("current-context")
    here = _named(content, "contexts", wanted).get("context", {})
    cluster = _named(content, "clusters", here.get("cluster")).get("cluster", {})
    user = _named(content, "users", here.get("user")).get("user", {})
    if "exec" in user or "auth-provider" in user:
        raise ValueError(f"{path}: context {wanted!r} uses a credential plug-in; give one with a certificate or token")
    tls = None
    if cluster["server"].startswith("https:"):
        tls = _tls(cluster, user, path.parent)
    return Connection(
        url=cluster["server"].rstrip("/"),
        tls=tls,
        token=user.get("token"),
        token_file=path.parent / user["tokenFile"] if "tokenFile" in user else None,
        namespace=here.get("namespace", "default"),
    )


def _named(content: dict[str, Any], section: str, name: str | None) -> dict[str, Any]:
    for entry in content.get(section) or []:
        if entry.get("name") == name:
            return dict(entry)
    raise ValueError(f"the kubeconfig's {section} have no entry named {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _material(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _material(user, "client-certificate", folder), _material(user, "client-key", folder)
    if certificate and key:
        _load_pair(context, certificate, key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Hand the pair to OpenSSL, which takes files only: they exist no longer than the call."""
    import tempfile  # noqa: PLC0415 - laptops only; a pod never comes here

    with tempfile.NamedTemporaryFile() as pair:
        pair.write(certificate + b"\n" + key)
        pair.flush()
        context.load_cert_chain(pair.name)


def _material(entry: dict[str, Any], name: str, folder: Path) -> bytes | None:
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"])
    if name in entry:
        return (folder / str(entry[name])).read_bytes()
    return None
