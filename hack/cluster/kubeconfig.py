"""Kubeconfig files. They are written as JSON, which is YAML as well."""

import base64
import json
import os
from pathlib import Path

from hack.cluster.certificates import KeyPair


def write(path: Path, *, server: str, authority: Path, user: KeyPair, name: str = "llmops") -> Path:
    """Write a kubeconfig that needs no other file, readable by its owner only."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _base64(authority)}}],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": _base64(user.certificate), "client-key-data": _base64(user.key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
    return partial.rename(path)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
