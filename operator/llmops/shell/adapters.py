"""Give adapters to engines: read what the Jobs that load them found, write it on the pods, wish for what is left to do.

The pod is where a gateway learns what it serves, so its annotation is written only after the Job has proven it, and
before anything else once it is no longer true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops import names
from llmops.api.llm_deployment import LLMDeployment, ModelStatus
from llmops.desired import adapters as desired
from llmops.desired import engine
from llmops.judge import adapters as judge
from llmops.judge.adapters import Found, Record
from llmops.judge.weights import Weights
from llmops.shell import finetunes
from llmops.shell.cluster import Conflicting, exact
from llmops.shell.world import World

Json = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """The adapters of the spec as far as they are, the records of the pods that answer, and the Jobs wished for."""

    known: dict[str, Found]
    records: tuple[Record, ...]
    loading: tuple[Json, ...]

    @property
    def moving(self) -> bool:
        """Whether something goes on that no watch tells of: a FineTuneJob that is not complete yet."""
        return any(not each.digest for each in self.known.values())


async def given(llm: LLMDeployment, children: Sequence[Json], files: Weights, world: World) -> Given:
    """One look at the adapters; writes the annotations of pods that changed."""
    engines = [child for child in children if _component(child) == engine.COMPONENT and child["kind"] == "Pod"]
    known = await known_of(llm, files.model if files.ready else None, world)
    wished = judge.wish(known)
    loras = loadable(known)
    answering = {pod["metadata"]["name"] for pod in judge.answering(engines)}
    records, loading = [], []
    for pod in engines:
        if pod["metadata"].get("deletionTimestamp"):
            continue
        identity = judge.start(pod, engine.CONTAINER)
        record = judge.record(pod, identity)
        if pod["metadata"]["name"] in answering and not record.settles(wished):
            start = desired.Engine(
                node=pod["spec"]["nodeName"],
                address=pod["status"]["podIP"],
                identity=f"{pod['metadata']['uid']}/{identity}",
            )
            job, job_pods = _job(children, desired.job_name(llm, start, loras))
            ended = judge.after(record, job, job_pods, wished) if job else None
            record = ended or record
            if ended is None:
                loading.append(engine.loading(llm, world.config, start, loras))
        if not record.empty or names.ADAPTERS_RECORD in (pod["metadata"].get("annotations") or {}):
            await _annotate(pod, record.annotations(wished), world)
        if pod["metadata"]["name"] in answering:
            records.append(record)
    return Given(known, tuple(records), tuple(loading))


def loadable(known: Mapping[str, Found]) -> list[desired.Adapter]:
    """The adapters that are there, in the order of the spec."""
    return [
        desired.Adapter(name, each.digest, each.job, each.path, restored=each.restored)
        for name, each in known.items()
        if each.digest
    ]


async def known_of(llm: LLMDeployment, model: ModelStatus | None, world: World) -> dict[str, Found]:
    """Each adapter of the spec, as far as its FineTuneJob has come, or the files of the model (`None` until then)."""
    known: dict[str, Found] = {}
    room = desired.room(llm)
    for adapter in llm.spec.adapters:
        scheme, _, name = adapter.source.partition("://")
        if scheme == "backup":
            known[adapter.name] = judge.restored(llm, adapter, model)
            continue
        job = await finetunes.named(llm.metadata.namespace, name, world)
        known[adapter.name] = judge.found(llm, adapter, job, room.max_rank if room else 0)
    return known


async def _annotate(pod: Json, wanted: dict[str, str], world: World) -> None:
    """Write what gateways may believe of this pod, if it is not written yet."""
    written = pod["metadata"].get("annotations") or {}
    if all(written.get(name) == value for name, value in wanted.items()):
        return
    patch = {"apiVersion": "v1", "kind": "Pod", "metadata": {**exact(pod), "annotations": wanted}}
    try:
        world.mirror.put(await world.cluster.apply(patch, manager=names.CHILD_MANAGER))
    except Conflicting:
        return  # it changed, or another pod has the name by now: that wakes us


def _job(children: Sequence[Json], name: str) -> tuple[Json | None, list[Json]]:
    job = next((each for each in children if each["kind"] == "Job" and each["metadata"]["name"] == name), None)
    label = "batch.kubernetes.io/job-name"
    its = [pod for pod in children if pod["kind"] == "Pod" and (pod["metadata"].get("labels") or {}).get(label) == name]
    return job, its


def _component(child: Json) -> str:
    return str((child["metadata"].get("labels") or {}).get(names.LABEL_COMPONENT, ""))
