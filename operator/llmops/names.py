"""Every name that two processes must agree on: labels, ports, paths, metric names, bounded object names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

GROUP = "llmops.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

# Field managers: children and status are two writers, so that neither can take a field from the other.
CHILD_MANAGER = "llmops-operator"
STATUS_MANAGER = "llmops-operator-status"

MANAGED_BY = {"app.kubernetes.io/managed-by": "llmops-operator"}
LABEL_DEPLOYMENT = f"{GROUP}/deployment"
LABEL_JOB = f"{GROUP}/finetunejob"
LABEL_WEIGHTS = f"{GROUP}/weights"
LABEL_BACKUP = f"{GROUP}/backup"  # on what makes, checks and drops restore points: the deployment they are of
LABEL_COMPONENT = "app.kubernetes.io/component"
ENGINE_COMPONENT = "engine"
LABEL_API_KEY = f"{GROUP}/api-key"
DIGEST_ANNOTATION = f"{GROUP}/applied"
# On an engine pod: the adapters it provably serves, by comma, for the gateway; and what that was found by.
ADAPTERS_ANNOTATION = f"{GROUP}/adapters"
ADAPTERS_RECORD = f"{GROUP}/adapters-record"

ENGINE_PORT = 8000
GATEWAY_PORT = 8080
GATEWAY_INTERNAL_PORT = 9090
OPERATOR_HEALTH_PORT = 8081
TRAINER_METRICS_PORT = 9400
LOAD_STREAM = "/loadstream"
# Tokens by month and API key, `MONTH.KEY`, in the gateway's namespace: the operator writes, gateways read.
USAGE_CONFIG_MAP = "llmops-usage"

WEIGHTS_MOUNT = "/models"
ADAPTERS_MOUNT = "/adapters"
TERMINATION_LOG = "/dev/termination-log"


def _token_buckets(*, ratio: float = 1.25, below: int = 1_000_000) -> tuple[int, ...]:
    bounds = [1]
    while (following := max(bounds[-1] + 1, round(bounds[-1] * ratio))) < below:
        bounds.append(following)
    return tuple(bounds)


# Upper bounds (inclusive) of the gateway's token histograms. Neighbours differ by a quarter, because with the usual
# 1-2-5 steps prompts that grow by a fifth stay in their buckets. Whole numbers below a million are spelled in only two
# ways by exposition libraries and Prometheus versions ("200", "200.0"), never as "1e+06".
TOKEN_BUCKETS = _token_buckets()
# Of what requests allow: people write powers of two, and round numbers between them.
LIMIT_BUCKETS = tuple(2**power for power in range(4, 18))

NAME_LIMIT = 63  # the shortest limit any of our children has: Service and Pod names as DNS labels


def digest(value: Any, *, length: int = 10) -> str:
    """Hexadecimal sha256 prefix of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def bounded(name: str, *suffixes: str, limit: int = NAME_LIMIT) -> str:
    """`name-suffix-...` within `limit` characters; a name that had to be cut carries its own hash.

    The same arguments give the same name for ever, and different ones never meet: that is what makes a retry find
    its own work.
    """
    tail = "".join(f"-{suffix}" for suffix in suffixes)
    if len(name) + len(tail) <= limit:
        return name + tail
    mark = digest(name, length=8)
    room = limit - len(tail) - len(mark) - 1
    return f"{name[:room].rstrip('-.')}-{mark}{tail}"


def selector(labels: Mapping[str, str]) -> str:
    """The labels as a `labelSelector` query value."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def gateway_internal(service: str) -> str:
    """The headless Service of the gateway's internal port, by which the operator finds every gateway pod."""
    return bounded(service, "internal")
