"""Bring one object closer to what it asks for: read, judge, wish, converge, report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import structlog
from pydantic import ValidationError

from llmops import names
from llmops.api.conditions import Reason
from llmops.api.llm_deployment import LLMDeployment, LLMDeploymentStatus
from llmops.api.problem import NeedsUser
from llmops.config import Config
from llmops.desired import engine, metadata, serving, weights
from llmops.judge import adapters, cost, pods, scaling, status
from llmops.judge.status import Serving
from llmops.judge.verdict import Verdict, shortened
from llmops.shell import backups, drift, observe, report
from llmops.shell.converge import converge
from llmops.shell.mirror import Key
from llmops.shell.resources import LEADER_WORKER_SET, LLM_DEPLOYMENT, MODEL_BACKUP
from llmops.shell.world import World

Json = dict[str, Any]
log = structlog.get_logger()

# While something moves that no watch tells us of (a download's bytes, a stuck pod's age), look again this soon.
SOON = timedelta(seconds=5)


async def llm_deployment(key: Key, world: World) -> timedelta | None:
    """Bring one LLMDeployment closer to its spec; returns when to look again."""
    live = await world.cluster.get(LLM_DEPLOYMENT, key.namespace, key.name)
    if live is None or live["metadata"].get("deletionTimestamp"):
        world.sizes.forget(key)
        world.costs.forget(key)
        world.traffic.forget(key)
        world.backups.see(key, None)
        world.troubles.forget(key)
        return None  # its children carry its owner reference: Kubernetes deletes them
    try:
        llm = LLMDeployment.from_manifest(live)
    except ValidationError as error:
        await _refuse(key, live, Verdict("False", Reason.INVALID_SPEC, _explained(error)), world)
        return None
    now = world.now()
    try:
        seen = await observe.children(llm, live, key, world, now)
        decision = world.sizes.decide(
            key, scaling.Limits.of(llm.spec), _scale(seen.serving), report.last_change(llm.status)
        )
        watch = await drift.watch(llm, live, key, seen, world)
        kept = await backups.keep(llm, seen, world)
        wanted = serving.objects(
            llm,
            world.config,
            replicas=decision.replicas,
            weights_ready=seen.weights.ready,
            surge=status.may_surge(seen.serving, now),
            made=seen.made,
        )
        wanted += seen.kept
        wanted += watch.objects
        wanted += seen.adapters.loading
        wanted += kept.objects
        await _require(wanted, world)
        done = await _converge(live, wanted, seen, world, forgotten=kept.forgotten, replicas=decision.replicas)
    except NeedsUser as problem:
        await _refuse(key, live, Verdict("False", problem.reason, problem.message), world)
        return timedelta(seconds=world.config.resync_seconds)
    if done:
        log.info("converged", key=str(key), done=done, replicas=decision.replicas, reason=str(decision.reason))
        seen = observe.written(seen, llm, live, key, world)
    if decision.changed and decision.memory.last and (seen.serving.workload or seen.weights.ready):
        await report.scaled(world.cluster, live, decision.memory.last)
    judged = status.of(
        llm,
        serving=seen.serving,
        weights=seen.weights,
        scaling=_scaling_verdict(decision),
        drifted=watch.verdict,
        backed_up=kept.verdict,
        adapters=adapters.verdict(seen.adapters.known, seen.adapters.records) if llm.spec.adapters else None,
        desired=decision.replicas,
        claim=weights.mounted_claim(llm),
        selector=names.selector(metadata.selector(llm, engine.COMPONENT)),
        endpoint=f"http://{world.config.gateway.service}.{world.config.gateway.namespace}.svc/v1",
        now=now,
    )
    judged = judged.model_copy(
        update={
            "adapters": adapters.statuses(llm, seen.adapters.known, seen.adapters.records),
            "backup": kept.status,
            "last_scale": report.last_scale(decision.memory.last),
            "cost_per_hour": _paid(llm, key, seen.serving, decision.replicas, world),
        }
    )
    world.troubles.see(key, judged.conditions)
    await _report(live, llm.status, judged, world)
    return _next_look(seen, decision, kept, world.config)


def _paid(llm: LLMDeployment, key: Key, seen: Serving, replicas: int, world: World) -> str | None:
    """Account for what the engines occupy; the cost of an hour of it where the profile has a price."""
    accelerator = llm.spec.accelerator
    price = engine.profile(llm, world.config).price_per_hour
    use = cost.Use(
        pods=seen.replicas,
        ready=seen.ready,
        in_flight=world.sizes.in_flight(key),
        accelerators=accelerator.count,
        asleep=replicas == 0 and llm.spec.autoscaling is not None,
    )
    world.costs.see(key, profile=accelerator.profile, price_per_hour=price, use=use)
    if price is None:
        return None
    return str(cost.per_hour(use.pods, use.accelerators, Decimal(price)).quantize(cost.CENT))


async def _converge(
    live: Json,
    wanted: list[Json],
    seen: observe.Seen,
    world: World,
    *,
    forgotten: Sequence[Json],
    replicas: int,
) -> list[str]:
    """Converge on the whole wish; while the weights of a changed spec are fetched, what serves is only resized."""
    workload = seen.serving.workload
    # A record of a restore point stays as long as the point does, whoever asked for it.
    removable = (*(child for child in seen.children if child["kind"] != MODEL_BACKUP.kind), *forgotten)
    keep = workload is not None and not seen.weights.ready
    if keep:
        removable = ()
    if seen.outdated and seen.job:
        removable = (*removable, seen.job)
        wanted = [wish for wish in wanted if wish["metadata"]["name"] != seen.job["metadata"]["name"]]
    done = await converge(world.cluster, world.mirror, live, wanted, seen.children, removable=removable)
    if keep and workload is not None and workload["spec"].get("replicas") != replicas:
        scale = await world.cluster.scale(workload, replicas, manager=names.CHILD_MANAGER)
        meta = {**workload["metadata"], "resourceVersion": scale["metadata"]["resourceVersion"]}
        world.mirror.put({**workload, "metadata": meta, "spec": {**workload["spec"], "replicas": replicas}})
        done.append(f"scaled {workload['kind']}/{workload['metadata']['name']} to {replicas}")
    return done


async def _require(wanted: Sequence[Json], world: World) -> None:
    """Say what the cluster lacks instead of failing at it."""
    if any(wish["kind"] == LEADER_WORKER_SET.kind for wish in wanted) and not await world.cluster.serves(
        LEADER_WORKER_SET
    ):
        raise NeedsUser(
            Reason.MISSING_CRD,
            "The model is spread over several nodes, which needs LeaderWorkerSet, and this cluster does not serve it. "
            "Install it, or lower spec.engine.tensorParallel or pipelineParallel to spec.accelerator.count.",
        )


async def _refuse(key: Key, live: Json, verdict: Verdict, world: World) -> None:
    world.sizes.hold(key)
    before = LLMDeploymentStatus.model_validate(live.get("status") or {}, by_alias=True)
    after = status.refused(before, live["metadata"]["generation"], verdict, world.now())
    await _report(live, before, after, world)


async def _report(live: Json, before: LLMDeploymentStatus, after: LLMDeploymentStatus, world: World) -> None:
    written = await report.apply_status(
        world.cluster, live, after.model_dump(by_alias=True, mode="json", exclude_none=True)
    )
    if written:
        await report.events(world.cluster, live, before.conditions, after.conditions, world.now())


def _scaling_verdict(decision: scaling.Decision) -> Verdict:
    active, reason, message = decision.condition
    return Verdict("True" if active else "False", Reason(reason), message)


def _scale(seen: Serving) -> scaling.Scale:
    loading = [pod for pod in seen.pods if not pods.is_ready(pod) and (problem := pods.of(pod)) and not problem.stuck]
    return scaling.Scale(
        wanted=None if seen.workload is None else seen.workload["spec"].get("replicas", 1),
        ready=seen.ready,
        loading=len(loading),
        ready_since=pods.ready_since(seen.pods),
    )


def _next_look(seen: observe.Seen, decision: scaling.Decision, kept: backups.Kept, config: Config) -> timedelta:
    moving = not seen.weights.ready or seen.adapters.moving or pods.trouble(seen.serving.pods) is not None
    looks = [
        timedelta(seconds=config.resync_seconds),
        *([SOON] if moving else []),
        *([decision.again] if decision.again else []),
        *([kept.again] if kept.again else []),
    ]
    return max(min(looks), timedelta(milliseconds=100))


def _explained(error: ValidationError) -> str:
    """The first problems of a stored object that no longer parses, by field."""
    lines = [f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()[:3]]
    return shortened("; ".join(lines), 512)
