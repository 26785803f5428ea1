"""One request to the Kubernetes API, taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

Json = dict[str, Any]
WRITES = ("create", "update", "patch", "delete")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass
class Call:
    """A request, and what became of it.

    `source` is what its client is called, and `process` which process of that name it is. `number` counts the writes of
    one namespace, from 1; it is 0 for a read. `status` is what the API server answered: `None` while it has not, or was
    not asked. `late` says what is wrong with a write by a process that did not hold the Lease when it came.
    """

    source: str
    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    number: int = 0
    status: int | None = None
    fault: str = ""
    late: str = ""
    version: str = ""
    process: str = ""

    @property
    def writes(self) -> bool:
        return self.verb in WRITES

    @property
    def is_lease(self) -> bool:
        return self.resource == "leases"

    @property
    def wish(self) -> Json:
        """The body as JSON; empty where there is none."""
        return orjson.loads(self.body) if self.body else {}

    def __str__(self) -> str:
        name = self.name
        if self.resource == "events":
            name = name.rpartition("-")[0] or name  # without the digest of what it says
        return f"{self.verb} " + "/".join(filter(None, (self.resource, name, self.subresource)))


def parsed(process: str, method: str, target: str, body: bytes = b"") -> Call:
    """The request `method target` of one process, `SOURCE#NUMBER`; `target` is a path with its query."""
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    parts = [part for part in url.path.split("/") if part]
    group = ""
    if parts[:1] == ["apis"]:
        group, parts = (parts[1] if len(parts) > 1 else ""), parts[3:]
    else:
        parts = parts[2:]
    namespace = ""
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = [*parts, "", "", ""][:3]
    if method == "GET":
        verb = "watch" if query.get("watch") in ("true", "1") else "get" if name else "list"
    else:
        verb = _VERBS[method]
    source = process.partition("#")[0]
    call = Call(source, verb, group, resource, namespace, name, subresource, query, body, process=process)
    if verb == "create" and not name:
        call.name = call.wish.get("metadata", {}).get("name", "")
    return call
