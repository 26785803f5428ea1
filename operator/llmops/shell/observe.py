"""One look at what an LLMDeployment has: from the mirror, and from the cluster only what no watch tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from llmops import names
from llmops.api import source as sources
from llmops.api.conditions import Reason
from llmops.api.llm_deployment import LLMDeployment, ModelStatus
from llmops.desired import engine, serving, training, weights
from llmops.desired.weights import Made
from llmops.judge import ownership, pods
from llmops.judge import weights as weights_verdict
from llmops.judge.status import Serving
from llmops.judge.verdict import Verdict
from llmops.shell import adapters, capacity, finetunes
from llmops.shell.mirror import Key
from llmops.shell.world import World

Json = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What one look at the children showed."""

    children: tuple[Json, ...]
    serving: Serving
    job: Json | None
    weights: weights_verdict.Weights
    outdated: bool
    adapters: adapters.Given
    copied: bool
    made: Made | None

    @property
    def kept(self) -> tuple[Json, ...]:
        """The Job that has copied a model whose FineTuneJob is gone by now: it still says that the files are whole."""
        return (self.job,) if self.job and self.made is None and self.copied else ()


async def children(llm: LLMDeployment, live: Json, key: Key, world: World, now: datetime) -> Seen:
    """One look at the children; asks the cluster only for what no watch tells."""
    found = ownership.own(world.mirror.children(key), live)
    named = {(child["kind"], child["metadata"]["name"]): child for child in found}
    job = named.get(("Job", weights.job_name(llm)))
    claim = named.get(("PersistentVolumeClaim", weights.claim_name(llm)))
    shared = _pods(world.mirror.children(Key(names.LABEL_WEIGHTS, key.namespace, weights.digest(llm))))
    job_pods = ownership.of(shared, job)
    engines = tuple(pod for pod in _pods(found) if _component(pod) == engine.COMPONENT)
    outdated = weights_verdict.outdated(job, claim, now)
    source = sources.parse(llm.spec.model.source)
    made = await _made(source, llm, world) if isinstance(source, sources.FineTune) else None
    found_out = await _weights(llm, None if outdated else job, [] if outdated else job_pods, world)
    return Seen(
        children=found,
        serving=Serving(_workload(llm, found), engines, await _free(llm, engines, world)),
        job=job,
        weights=replace(found_out, verdict=made) if isinstance(made, Verdict) and job is None else found_out,
        outdated=outdated,
        adapters=await adapters.given(llm, found, found_out, world),
        copied=isinstance(source, sources.FineTune),
        made=made if isinstance(made, Made) else None,
    )


def written(seen: Seen, llm: LLMDeployment, live: Json, key: Key, world: World) -> Seen:
    """The same look, at the workload that was just written.

    Judged by the one before, the old rollout's end would be told of the new spec.
    """
    found = ownership.own(world.mirror.children(key), live)
    return replace(seen, serving=replace(seen.serving, workload=_workload(llm, found)))


def _workload(llm: LLMDeployment, found: Sequence[Json]) -> Json | None:
    kinds = ("Deployment", "LeaderWorkerSet")
    return next((c for c in found if c["kind"] in kinds and c["metadata"]["name"] == serving.name(llm)), None)


async def _made(source: sources.FineTune, llm: LLMDeployment, world: World) -> Made | Verdict:
    """The model that a FineTuneJob has finished, or why there is nothing to copy yet."""
    job = await finetunes.named(llm.metadata.namespace, source.job, world)
    found = weights_verdict.artifact(source.job, job)
    if isinstance(found, Verdict):
        return found
    return Made(training.claim_name(source.job), found.path, found.digest)


async def _weights(
    llm: LLMDeployment, job: Json | None, job_pods: Sequence[Json], world: World
) -> weights_verdict.Weights:
    if isinstance(sources.parse(llm.spec.model.source), sources.Image):
        return weights_verdict.mounted_image()
    same = llm.status.weights.claim == weights.mounted_claim(llm)
    known = llm.status.model if same else ModelStatus()
    return weights_verdict.of(job, job_pods, await _progress(job_pods, world), known)


async def _progress(job_pods: Sequence[Json], world: World) -> weights_verdict.Progress | None:
    for pod in job_pods:
        if pod.get("status", {}).get("phase") == "Running":
            meta = pod["metadata"]
            log_lines = await world.cluster.logs(meta["namespace"], meta["name"], container="fetch", tail=20)
            return weights_verdict.progress(log_lines)
    return None


async def _free(llm: LLMDeployment, engines: Sequence[Json], world: World) -> str:
    if world.config.namespaces:
        return ""  # nodes, and whose pods are on them, are not for an operator of some namespaces to see
    resource = engine.profile(llm, world.config).resource
    problem = pods.trouble(engines)
    if problem is None or problem.reason != Reason.WAITING_FOR_GPU or resource is None:
        return ""
    return await capacity.sentence(world.cluster, resource, llm.spec.accelerator.count)


def _pods(children: Sequence[Json]) -> list[Json]:
    return [child for child in children if child["kind"] == "Pod"]


def _component(pod: Json) -> str:
    return str(pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT, ""))
