"""Who may ask for what: API keys, as Secrets hold them. Pure; a key itself is known to its owner only.

A Secret labelled `llmops.dev/api-key` in the gateway's namespace has the fields `hash` (hexadecimal sha256 of the key),
`tenant`, `models`, and optionally `requestsPerMinute`, `tokensPerMinute`, `concurrency`, `monthlyTokens`. Keys are
random and long, so one round of sha256 is as good as a slow hash.

`models` is `*` (also when absent), or a comma-separated list of `namespace/name`, `namespace/*` and bare names. A bare
name means what it means in the cluster, for as long as that is unambiguous.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmops_serving.gateway.route import Refuse
from llmops_serving.gateway.table import Ambiguous, Table, Target

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MAX_KEY_BYTES: Final = 512

NO_KEY: Final = Refuse(401, "invalid_api_key", "This gateway needs an API key: `Authorization: Bearer KEY`.")
BAD_KEY: Final = Refuse(401, "invalid_api_key", "The API key is not valid.")


@dataclass(frozen=True, slots=True)
class Key:
    """One key's rights. A limit of None does not limit."""

    name: str
    digest: bytes
    tenant: str
    models: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    monthly_tokens: int | None = None

    def allows(self, name: str, target: Target, table: Table) -> bool:
        """Whether the key may use `name`, which means `target`."""
        if "*" in self.models:
            return True
        namespace = target.key.partition("/")[0]
        own = f"{namespace}/{target.adapter}" if target.adapter else target.key
        if own in self.models or f"{namespace}/*" in self.models:
            return True
        bare = name.rpartition("/")[2]
        return bare in self.models and table.names.get(bare) == target


@dataclass(frozen=True, slots=True)
class Keyring:
    """All valid keys by digest."""

    keys: Mapping[bytes, Key] = field(default_factory=dict)

    def identify(self, credential: bytes | None) -> Key | Refuse:
        """The key that a request carries. Only digests are compared, and in constant time."""
        if not credential:
            return NO_KEY
        if len(credential) > MAX_KEY_BYTES:
            return BAD_KEY
        digest = hashlib.sha256(credential).digest()
        key = self.keys.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            return BAD_KEY
        return key


class Owner:
    """Whose credential came last on a connection: it is known again for as long as the keyring is the same."""

    __slots__ = ("_credential", "_key", "_keyring")

    def __init__(self) -> None:
        """Nobody's yet."""
        self._keyring: Keyring | None = None
        self._credential: bytes | None = None
        self._key: Key | None = None

    def identify(self, keyring: Keyring, credential: bytes | None) -> Key | Refuse:
        """As `Keyring.identify`; only the very same object is taken for the same credential, nothing is compared."""
        if self._key is not None and self._keyring is keyring and self._credential is credential:
            return self._key
        found = keyring.identify(credential)
        self._key = found if isinstance(found, Key) else None
        self._keyring, self._credential = keyring, credential
        return found


def keyring(keys: Iterable[Key]) -> Keyring:
    """The keyring of these keys."""
    return Keyring({key.digest: key for key in keys})


def resolve(table: Table, name: str, key: Key | None) -> Target | Refuse | None:
    """What `name` means to the owner of `key`; None where the answer does not depend on the key.

    A model that the key may not use is answered like one that does not exist, so that names are not given away. A
    bare name that several namespaces serve means the only one that the key may use.
    """
    if key is None:
        return None
    found = table.names.get(name)
    if isinstance(found, Ambiguous):
        allowed = [
            target
            for choice in found.choices
            if isinstance(target := table.names.get(choice), Target) and key.allows(choice, target, table)
        ]
        if len(allowed) == 1:
            return allowed[0]
        if len(allowed) > 1:
            return None
        found = None
    if isinstance(found, Target) and key.allows(name, found, table):
        return found
    message = "The model does not exist, or your key may not use it. `GET /v1/models` lists those that you may."
    return Refuse(404, "model_not_found", message, param="model")


def visible(table: Table, key: Key | None) -> list[str]:
    """The names that `GET /v1/models` lists: bare ones, and qualified ones where the bare name is ambiguous to all."""
    names: list[str] = []
    for name, found in table.names.items():
        if "/" in name:
            continue
        choices = found.choices if isinstance(found, Ambiguous) else (name,)
        for choice in choices:
            target = table.names.get(choice)
            if isinstance(target, Target) and (key is None or key.allows(choice, target, table)):
                names.append(choice)
    return sorted(names)


def from_secret(secret: Mapping[str, Any]) -> Key:
    """The key in a Secret as the API server returns it.

    Raises:
        ValueError: a field is missing or malformed; the message names the field and never quotes its value.
    """
    raw = secret.get("data") or {}
    try:
        fields = {name: base64.b64decode(value, validate=True).decode().strip() for name, value in raw.items()}
    except ValueError as problem:
        raise ValueError("a field is not text") from problem
    return from_fields(secret["metadata"]["name"], fields)


def from_fields(name: str, fields: Mapping[str, str]) -> Key:
    """The key with these fields; errors as `from_secret`."""
    if _HASH.fullmatch(fields.get("hash", "")) is None:
        raise ValueError("`hash` is not a hexadecimal sha256")
    if _TENANT.fullmatch(fields.get("tenant", "")) is None:
        raise ValueError("`tenant` is missing or not a plain name")
    return Key(
        name=name,
        digest=bytes.fromhex(fields["hash"]),
        tenant=fields["tenant"],
        models=frozenset(part.strip() for part in fields.get("models", "*").split(",") if part.strip()),
        requests_per_minute=_limit(fields, "requestsPerMinute"),
        tokens_per_minute=_limit(fields, "tokensPerMinute"),
        concurrency=_limit(fields, "concurrency"),
        monthly_tokens=_limit(fields, "monthlyTokens"),
    )


def _limit(fields: Mapping[str, str], name: str) -> int | None:
    text = fields.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 15:
        raise ValueError(f"`{name}` is not a whole number")
    return int(text)
