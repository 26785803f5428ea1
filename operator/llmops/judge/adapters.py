"""Which adapters of an LLMDeployment may be loaded, which pod provably serves which, and what is wrong with the others.

A pod carries its own record: what its engine loaded, what failed, and by which start of the container that was found.
An engine that started again has nothing loaded, whatever the record of its last life says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops import names
from llmops.api.conditions import ConditionType, Reason
from llmops.api.fine_tune_job import FineTuneJob, LoraSpec
from llmops.api.llm_deployment import AdapterSpec, AdapterStatus, LLMDeployment, ModelStatus
from llmops.judge import outcomes, pods
from llmops.judge.redaction import redacted
from llmops.judge.verdict import MESSAGE_LIMIT, Verdict, shortened

Json = dict[str, Any]

_WORKER = "leaderworkerset.sigs.k8s.io/worker-index"
_FAILURES = {
    reason.value: reason for reason in (Reason.ADAPTER_NO_EFFECT, Reason.ADAPTER_MISMATCH, Reason.ADAPTER_LOAD_FAILED)
}


@dataclass(frozen=True)
class Found:
    """What became of one adapter of the spec. Without a digest it cannot be loaded, and `message` says why.

    `job` is the FineTuneJob on whose volume it lies at `path`; `restored` means beside the model, where its restore
    point has put it; without either only the copy made before is left.
    """

    reason: Reason
    message: str = ""
    digest: str | None = None
    job: str | None = None
    path: str = ""
    restored: bool = False


@dataclass(frozen=True)
class Failed:
    """Why one digest of an adapter is not served by an engine."""

    digest: str
    reason: Reason
    message: str


@dataclass(frozen=True)
class Record:
    """What one start of an engine (`engine`) serves by name and digest, and what failed on it."""

    engine: str = ""
    loaded: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, Failed] = field(default_factory=dict)

    def settles(self, wish: Mapping[str, str]) -> bool:
        """Whether nothing is left to do for these adapters, by name and digest."""
        tried = {name: failure.digest for name, failure in self.failed.items()}
        return all(digest in (self.loaded.get(name), tried.get(name)) for name, digest in wish.items()) and not (
            self.loaded.keys() - wish.keys()
        )

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not self.loaded and not self.failed

    def annotations(self, wish: Mapping[str, str]) -> dict[str, str]:
        """The record as the pod carries it; gateways are told of nothing that is not wished for any more."""
        failed = {name: [each.digest, each.reason, each.message] for name, each in sorted(self.failed.items())}
        record = {"engine": self.engine, "loaded": dict(sorted(self.loaded.items())), "failed": failed}
        return {
            names.ADAPTERS_ANNOTATION: ",".join(sorted(self.loaded.keys() & wish.keys())),
            names.ADAPTERS_RECORD: json.dumps(record, separators=(",", ":"), ensure_ascii=False),
        }


def found(llm: LLMDeployment, adapter: AdapterSpec, job: FineTuneJob | None, max_rank: int) -> Found:
    """The adapter, as far as its FineTuneJob has come."""
    name = adapter.source.partition("://")[2]
    if job is None:
        return _kept(llm, adapter) or Found(
            Reason.ADAPTER_NOT_FOUND, f"FineTuneJob {name} does not exist in this namespace."
        )
    if job.spec.method == "Full":
        return Found(
            Reason.ADAPTER_MISMATCH,
            f"FineTuneJob {name} trains every weight and makes no adapter: use it as model.source.",
        )
    base, model = job.spec.base_model, llm.spec.model
    same = base.deployment == llm.metadata.name or (base.source, base.revision) == (model.source, model.revision)
    same = same or model.source.startswith("backup://")  # whatever that was before: the engine's answers prove it
    if not same:
        return Found(
            Reason.ADAPTER_MISMATCH,
            f"FineTuneJob {name} adapts {base.source or f'LLMDeployment {base.deployment}'}, and this serves "
            f"{model.source}. An adapter fits only the model it was trained on.",
        )
    complete = next((c for c in job.status.conditions if c.type == ConditionType.COMPLETE), None)
    artifact = job.status.artifact
    if complete is None or complete.status != "True" or not artifact.uri or not artifact.digest:
        why = f": {complete.message}" if complete else "."
        # A job that was made anew: what it made before is served until it has made something else.
        return _kept(llm, adapter) or Found(
            Reason.ADAPTER_PENDING, shortened(f"FineTuneJob {name} is not complete{why}", 512)
        )
    rank = (job.spec.lora or LoraSpec()).r
    if rank > max_rank:
        return Found(
            Reason.ADAPTER_TOO_LARGE,
            f"The adapter has rank {rank} and the engines have room for {max_rank}: raise spec.engine.lora.maxRank.",
        )
    path = artifact.uri.partition("://")[2].partition("/")[2]
    return _held(llm, adapter, artifact.digest) or Found(
        Reason.ADAPTER_LOADING, digest=artifact.digest, job=name, path=path
    )


def restored(llm: LLMDeployment, adapter: AdapterSpec, model: ModelStatus | None) -> Found:
    """The adapter that comes with the model from its restore point; `model` is `None` until the files are there."""
    if model is None:
        return Found(Reason.ADAPTER_PENDING, f"It comes with the model from {adapter.source}, which is being fetched.")
    digests = {each.name: each.digest for each in model.adapters}
    digest = digests.get(adapter.name)
    if digest is None:
        has = f"its adapters are {', '.join(digests)}" if digests else "it has no adapters"
        return Found(Reason.ADAPTER_NOT_FOUND, f"{adapter.source} has no adapter {adapter.name}: {has}.")
    return _held(llm, adapter, digest) or Found(Reason.ADAPTER_LOADING, digest=digest, restored=True)


def _held(llm: LLMDeployment, adapter: AdapterSpec, digest: str) -> Found | None:
    """The one that is served, while drift keeps another from taking its place."""
    if not promotion_frozen(llm) or digest == (before := _served(llm, adapter)):
        return None
    held = "Traffic drifts, and spec.drift.actions has FreezePromotion: acknowledge or rebase the drift first."
    return Found(Reason.ADAPTER_HELD, held, digest=before)


def promotion_frozen(llm: LLMDeployment) -> bool:
    """Whether adapters stay as they are: traffic drifts, nobody has acknowledged it, and the owner wants it so."""
    wanted = llm.spec.drift is not None and any(action.type == "FreezePromotion" for action in llm.spec.drift.actions)
    return wanted and any((c.type, c.reason) == (ConditionType.DRIFTED, Reason.DRIFTING) for c in llm.status.conditions)


def _served(llm: LLMDeployment, adapter: AdapterSpec) -> str | None:
    """The digest that was given to engines under this name."""
    return next((before.digest for before in llm.status.adapters if before.name == adapter.name), None)


def _kept(llm: LLMDeployment, adapter: AdapterSpec) -> Found | None:
    """The copy on the deployment's own volume: an adapter that was served outlives its job."""
    for before in llm.status.adapters:
        if (before.name, before.source) == (adapter.name, adapter.source) and before.digest:
            return Found(Reason.ADAPTER_LOADING, digest=before.digest)
    return None


def wish(known: Mapping[str, Found]) -> dict[str, str]:
    """What every engine should have: digests by name."""
    return {name: each.digest for name, each in known.items() if each.digest}


def answering(engines: Sequence[Json]) -> list[Json]:
    """The pods that take requests: ready ones, and of a group over several nodes the leader."""
    return [
        pod for pod in engines if pods.is_ready(pod) and (pod["metadata"].get("labels") or {}).get(_WORKER, "0") == "0"
    ]


def start(pod: Json, container: str) -> str:
    """What tells this start of the pod's engine from any other; empty while it does not run."""
    for each in pod.get("status", {}).get("containerStatuses") or []:
        if each["name"] == container and "running" in each.get("state", {}):
            return str(each.get("containerID") or "")
    return ""


def record(pod: Json, engine: str) -> Record:
    """What the pod says of this start of its engine: nothing, if what it says is about an earlier one."""
    try:
        said = json.loads((pod["metadata"].get("annotations") or {}).get(names.ADAPTERS_RECORD) or "{}")
        if said.get("engine") != engine:
            return Record(engine)
        failed = {
            name: Failed(digest, _FAILURES[reason], message)
            for name, (digest, reason, message) in said["failed"].items()
        }
        return Record(engine, dict(said["loaded"]), failed)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Record(engine)  # somebody else wrote it: what is true is found out again


def after(before: Record, job: Json, job_pods: Sequence[Json], wished: Mapping[str, str]) -> Record | None:
    """The record when the Job that loads `wished` has ended; `None` while it goes on."""
    ends = {entry["type"] for entry in job.get("status", {}).get("conditions") or [] if entry["status"] == "True"}
    if not ends & {"Complete", "Failed"}:
        return None
    outcome = outcomes.newest(job_pods) or {}
    failed = outcome.get("failed")
    if "Complete" in ends and isinstance(failed, dict):
        bad = {
            name: Failed(
                wished[name],
                _FAILURES.get(str(why.get("reason")), Reason.ADAPTER_LOAD_FAILED),
                shortened(redacted(str(why.get("message", ""))), 400),
            )
            for name, why in failed.items()
            if name in wished and isinstance(why, dict)
        }
        # One that failed does not take the place of the one of that name that serves.
        kept = {name: digest for name, digest in before.loaded.items() if name in bad}
        return Record(before.engine, kept | {n: d for n, d in wished.items() if n not in bad}, bad)
    said = outcome.get("message") or "The Job that loads adapters failed without a message."
    missing = {name: digest for name, digest in wished.items() if before.loaded.get(name) != digest}
    message = shortened(redacted(str(said)), 400)
    bad = {name: Failed(digest, Reason.ADAPTER_LOAD_FAILED, message) for name, digest in missing.items()}
    return Record(before.engine, before.loaded, bad)


def verdict(known: Mapping[str, Found], records: Sequence[Record]) -> Verdict:
    """`AdaptersReady`, of the adapters of the spec and the records of the pods that answer."""
    for name, each in known.items():
        if not each.digest:
            return Verdict("False", each.reason, shortened(f"{name}: {each.message}", MESSAGE_LIMIT))
    wished = wish(known)
    for seen in records:
        for name, failure in seen.failed.items():
            if wished.get(name) == failure.digest:
                return Verdict("False", failure.reason, shortened(f"{name}: {failure.message}", MESSAGE_LIMIT))
    if not records:
        return Verdict(
            "Unknown",
            Reason.ADAPTER_LOADING,
            "No pod answers now; each new one gets its adapters before their requests.",
        )
    waiting = sum(not seen.settles(wished) for seen in records)
    if waiting:
        return Verdict(
            "False", Reason.ADAPTER_LOADING, f"{waiting} of {len(records)} pods are being given their adapters."
        )
    return Verdict("True", Reason.ADAPTERS_LOADED, f"Every pod that answers serves {', '.join(wished)}.")


def statuses(llm: LLMDeployment, known: Mapping[str, Found], records: Sequence[Record]) -> list[AdapterStatus]:
    """One entry per adapter of the spec."""
    return [_status(adapter, known[adapter.name], records) for adapter in llm.spec.adapters]


def _status(adapter: AdapterSpec, seen: Found, records: Sequence[Record]) -> AdapterStatus:
    serving = sum(each.loaded.get(adapter.name) == seen.digest for each in records) if seen.digest else 0
    failures = [
        failure.message
        for each in records
        if (failure := each.failed.get(adapter.name)) and failure.digest == seen.digest
    ]
    return AdapterStatus(
        name=adapter.name,
        source=adapter.source if seen.digest else None,
        digest=seen.digest,
        ready_replicas=serving,
        message=seen.message or (shortened(failures[0], 512) if failures else None),
    )
