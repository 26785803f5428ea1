"""What can be served where: an immutable picture of models, their pods and their names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops import names
from llmops.api.conditions import ConditionType, Reason

HOLD_SECONDS = 600
MAX_HELD = 100
REQUEST_TIMEOUT_SECONDS = 600

# Reasons that time does not heal: someone has to change something, so waiting requests are answered at once.
TERMINAL_REASONS = frozenset({
    Reason.INVALID_SPEC, Reason.UNKNOWN_PROFILE, Reason.MISSING_CRD, Reason.NAME_TAKEN, Reason.CONFLICT,
    Reason.FORBIDDEN, Reason.MODEL_NOT_FOUND, Reason.MODEL_AUTH_FAILED, Reason.SECRET_NOT_FOUND,
    Reason.SOURCE_FORBIDDEN, Reason.SOURCE_INVALID, Reason.DISK_FULL, Reason.CHECKSUM_MISMATCH, Reason.UNSAFE_MODEL,
    Reason.IMAGE_PULL_FAILED, Reason.ENGINE_ARGS_INVALID,
})  # fmt: skip
_TELLING_CONDITIONS = frozenset({ConditionType.ACCEPTED, ConditionType.WEIGHTS_READY, ConditionType.READY})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine pod's address. One that is not `ready` has an IP but its readiness probe has not passed yet.

    `adapters` are those it provably serves; None where nobody says, and then it is asked for any.
    """

    host: str
    port: int
    pod: str = ""
    ready: bool = True
    adapters: frozenset[str] | None = None

    @property
    def address(self) -> str:
        """`host:port`, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Model:
    """One deployment as the gateway sees it. `failure` says why it cannot come up until someone changes something."""

    namespace: str
    name: str
    served: str
    adapters: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    hold_seconds: float = HOLD_SECONDS
    max_held: int = MAX_HELD
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    concurrency: int | None = None
    prefix_affinity: bool = True
    text_sample: float = 0.0
    failure: str | None = None

    @property
    def key(self) -> str:
        """`namespace/name`, the name that is unique in the cluster."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a name means: a model, perhaps one of its adapters, and the name that its engine knows."""

    key: str
    engine_name: str
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A bare name that several namespaces serve; `choices` are the names that tell them apart."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """All models by key, and every name a request may use."""

    models: Mapping[str, Model] = field(default_factory=dict)
    names: Mapping[str, Target | Ambiguous] = field(default_factory=dict)


def table(models: Iterable[Model]) -> Table:
    """The table of these models; a later model with the same key wins."""
    by_key = {model.key: model for model in models}
    bare: dict[str, dict[str, Target]] = {}
    qualified: dict[str, Target] = {}
    for key, model in sorted(by_key.items()):
        own = Target(key, model.served)
        bare.setdefault(model.served, {})[key] = own
        qualified[f"{model.namespace}/{model.served}"] = own
        for adapter in model.adapters:
            target = Target(key, adapter, adapter)
            bare.setdefault(adapter, {})[f"{model.namespace}/{adapter}"] = target
            qualified.setdefault(f"{model.namespace}/{adapter}", target)
    for key, model in by_key.items():
        qualified[key] = Target(key, model.served)  # metadata.name is unique, so it beats a neighbour's served name
    known: dict[str, Target | Ambiguous] = dict(qualified)
    for name, targets in bare.items():
        known[name] = next(iter(targets.values())) if len(targets) == 1 else Ambiguous(tuple(sorted(targets)))
    return Table(by_key, known)


def from_routes(document: Any) -> list[Model]:
    """Models of a `routes.yaml`.

    Raises:
        ValueError: the document has another shape; the message names the entry.
    """
    entries = document.get("models") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("routes: expected a mapping with a list `models`")  # noqa: TRY004 - the shape of a file
    return [_static_model(entry, f"routes: models[{index}]") for index, entry in enumerate(entries)]


_STATIC_FIELDS = {
    "name", "namespace", "servedName", "adapters", "endpoints", "holdSeconds", "maxHeld", "requestTimeoutSeconds",
    "concurrency", "prefixAffinity", "textSample",
}  # fmt: skip


def _static_model(entry: Any, where: str) -> Model:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(f"{where}: needs a `name`")  # noqa: TRY004 - the shape of a file
    if unknown := sorted(entry.keys() - _STATIC_FIELDS):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(_STATIC_FIELDS))}")
    return Model(
        namespace=str(entry.get("namespace", "default")),
        name=entry["name"],
        served=str(entry.get("servedName", entry["name"])),
        adapters=tuple(str(adapter) for adapter in entry.get("adapters") or ()),
        endpoints=tuple(_static_endpoint(text, where) for text in entry.get("endpoints") or ()),
        hold_seconds=float(entry.get("holdSeconds", HOLD_SECONDS)),
        max_held=int(entry.get("maxHeld", MAX_HELD)),
        timeout_seconds=float(entry.get("requestTimeoutSeconds", REQUEST_TIMEOUT_SECONDS)),
        concurrency=entry.get("concurrency"),
        prefix_affinity=entry.get("prefixAffinity", True) is not False,
        text_sample=float(entry.get("textSample", 0)),
    )


def _static_endpoint(text: Any, where: str) -> Endpoint:
    host, colon, port = str(text).rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise ValueError(f"{where}: endpoint {text!r} is not host:port")
    return Endpoint(host.strip("[]"), int(port))


def from_cluster(deployments: Iterable[dict[str, Any]], pods: Iterable[tuple[str, Endpoint]]) -> list[Model]:
    """Models of `LLMDeployment` objects as the API server returns them, with what `located` says of their pods.

    A deployment without pods is a model at zero, not an unknown one. Pods of deployments that do not exist (any more)
    are ignored: they are going away.
    """
    endpoints: dict[str, dict[str, Endpoint]] = {}
    for owner, endpoint in pods:
        endpoints.setdefault(owner, {})[endpoint.address] = endpoint
    return [
        _cluster_model(deployment, tuple(endpoints.get(_key(deployment), {}).values())) for deployment in deployments
    ]


def _key(found: dict[str, Any]) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


def located(pod: dict[str, Any]) -> tuple[str, Endpoint] | None:
    """Whose pod it is (`namespace/name`) and where it answers, as the pod itself says.

    None for one that has no address, is on its way out, has ended, or has no port `http`, as the workers of a replica
    over several nodes. Pods and not EndpointSlices, because those are made of pods later: their controller waits 1,
    2, 4 and more seconds before it tries again after it has found its own copy out of date, which is what happens
    when a model sleeps and wakes. So long a woken model would not answer, and a pod on its way out get requests.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    owner = (metadata.get("labels") or {}).get(names.LABEL_DEPLOYMENT)
    host, port = status.get("podIP"), _http_port(pod)
    over = metadata.get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed")
    if not owner or not host or not port or over:
        return None
    said = (metadata.get("annotations") or {}).get(names.ADAPTERS_ANNOTATION, "")
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
    adapters = frozenset(filter(None, said.split(",")))
    return f"{metadata['namespace']}/{owner}", Endpoint(host, port, metadata["name"], ready=ready, adapters=adapters)


def _http_port(pod: dict[str, Any]) -> int | None:
    ports = (port for each in pod["spec"]["containers"] for port in each.get("ports") or ())
    return next((port["containerPort"] for port in ports if port.get("name") == "http"), None)


def _cluster_model(found: dict[str, Any], endpoints: tuple[Endpoint, ...]) -> Model:
    metadata, spec = found["metadata"], found.get("spec") or {}
    gateway = spec.get("gateway") or {}
    target = (spec.get("autoscaling") or {}).get("target") or {}
    return Model(
        namespace=metadata["namespace"],
        name=metadata["name"],
        served=(spec.get("model") or {}).get("servedName") or metadata["name"],
        adapters=tuple(adapter["name"] for adapter in spec.get("adapters") or ()),
        endpoints=endpoints,
        hold_seconds=gateway.get("holdSeconds", HOLD_SECONDS),
        max_held=gateway.get("maxHeld", MAX_HELD),
        timeout_seconds=gateway.get("requestTimeoutSeconds", REQUEST_TIMEOUT_SECONDS),
        concurrency=target.get("concurrency"),
        prefix_affinity=gateway.get("prefixAffinity", True),
        text_sample=float(gateway.get("textSample", 0)),
        failure=_failure(found),
    )


def _failure(found: dict[str, Any]) -> str | None:
    """The terminal reason and its message, where a condition of the current generation has one."""
    generation = found["metadata"].get("generation")
    for condition in (found.get("status") or {}).get("conditions") or ():
        stale = condition.get("observedGeneration", generation) != generation
        terminal = condition.get("status") == "False" and condition.get("reason") in TERMINAL_REASONS
        if condition.get("type") in _TELLING_CONDITIONS and terminal and not stale:
            return f"{condition['reason']}: {condition.get('message', '')}".rstrip(": ")
    return None
