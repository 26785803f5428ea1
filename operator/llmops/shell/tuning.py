"""Bring one FineTuneJob closer to its artifact: read, judge, wish, converge, report."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from llmops import names
from llmops.api.conditions import ConditionType, Reason
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.fine_tune_status import FineTuneJobStatus
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.problem import NeedsUser
from llmops.desired import training
from llmops.judge import budget, fit, outcomes, ownership
from llmops.judge import training as verdict
from llmops.judge.verdict import Verdict, shortened
from llmops.shell import ended, report
from llmops.shell.converge import converge
from llmops.shell.mirror import Key
from llmops.shell.resources import FINE_TUNE_JOB, LLM_DEPLOYMENT
from llmops.shell.world import World

Json = dict[str, Any]
log = structlog.get_logger()

# Steps and losses come out of the trainer's log, which no watch tells of; the status is written at most this often.
SOON = timedelta(seconds=10)


async def fine_tune_job(key: Key, world: World) -> timedelta | None:
    """Bring one FineTuneJob closer to its artifact; returns when to look again."""
    live = await world.cluster.get(FINE_TUNE_JOB, key.namespace, key.name)
    if live is None or live["metadata"].get("deletionTimestamp"):
        return None  # its children carry its owner reference: Kubernetes deletes them
    resync = timedelta(seconds=world.config.resync_seconds)
    try:
        job = FineTuneJob.from_manifest(live)
    except ValidationError as error:
        first = error.errors()[0]
        said = shortened(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 512)
        await _refuse(live, Verdict("False", Reason.INVALID_SPEC, said), world)
        return None
    children = ownership.own(world.mirror.children(key), live)
    if verdict.over(job.status):
        return await _tidied(job, live, children, world)
    seen = await _seen(job, children, world)
    try:
        base, waiting = await _base(job, world)
        good = verdict.checked(job.status, seen)
        bounds = _bounds(job, seen, world)
        train = good and not (waiting or bounds.unfit or bounds.spent)
        wanted = training.objects(
            job,
            world.config,
            deployment=base,
            # What was checked is not checked again while its rows are being read.
            check=not waiting and (not good or seen.check.job is not None),
            train=train,
        )
        done = await converge(world.cluster, world.mirror, live, wanted, children, removable=children)
    except NeedsUser as problem:
        await _refuse(live, Verdict("False", problem.reason, problem.message), world)
        return resync
    if done:
        log.info("converged", key=str(key), done=done)
    claim = training.claim_name(job.metadata.name)
    judged = verdict.of(job, seen, claim=claim, waiting=waiting, now=world.now(), bounds=bounds)
    await _report(live, job.status, judged, world)
    return resync if verdict.over(judged) or job.spec.suspend or (bounds.unfit and good) else SOON


def _bounds(job: FineTuneJob, seen: verdict.Seen, world: World) -> verdict.Bounds:
    """What the run may take. What runs already fits, whatever arithmetic says."""
    spec, before = job.spec, job.status.usage
    size = verdict.model(job.status, seen)
    exact = budget.used(spec, before, seen.training.pods, world.now())
    allowed = seen.training.job is not None or job.metadata.annotations.get(fit.OVERRIDE) == "true"
    return verdict.Bounds(
        model=size,
        usage=budget.shown(spec, before, exact, running=seen.training.running),
        unfit="" if allowed else fit.shortage(spec, size, training.profile(job, world.config)),
        spent=budget.exhausted(spec, exact),
    )


async def _tidied(job: FineTuneJob, live: Json, children: tuple[Json, ...], world: World) -> timedelta | None:
    """After its end a job's children stay as they are, pods for their logs, until spec.ttlSecondsAfterFinished.

    The volume with the artifact stays as long as the job.
    """
    ttl, ended = job.spec.ttl_seconds_after_finished, verdict.ended_at(job.status)
    if ttl is None or ended is None:
        return None
    left = ended + timedelta(seconds=ttl) - world.now()
    if left > timedelta(0):
        return left
    wanted = training.objects(job, world.config, deployment=None, check=False, train=False)
    done = await converge(world.cluster, world.mirror, live, wanted, children, removable=children)
    if done:
        log.info("tidied", key=f"{job.metadata.namespace}/{job.metadata.name}", done=done)
    return None


async def _seen(job: FineTuneJob, children: tuple[Json, ...], world: World) -> verdict.Seen:
    named = {child["metadata"]["name"]: child for child in children if child["kind"] == "Job"}

    async def stage(component: str) -> verdict.Stage:
        pods = tuple(
            child
            for child in children
            if child["kind"] == "Pod" and child["metadata"]["labels"].get(names.LABEL_COMPONENT) == component
        )
        found = verdict.Stage(named.get(training.job_name(job, component)), pods)
        if found.job is None or not found.ended or (component == training.DATASET and verdict.found_good(job.status)):
            return found
        return verdict.Stage(found.job, await ended.pods_of(found.job, world) or pods)

    trainer = await stage(training.TRAINING)
    return verdict.Seen(await stage(training.DATASET), trainer, await _progress(trainer, world))


async def _progress(trainer: verdict.Stage, world: World) -> Json | None:
    for pod in trainer.leading:
        if pod.get("status", {}).get("phase") == "Running":
            meta = pod["metadata"]
            lines = await world.cluster.logs(meta["namespace"], meta["name"], container=training.TRAINING, tail=50)
            return outcomes.latest(lines, "progress")
    return None


async def _base(job: FineTuneJob, world: World) -> tuple[LLMDeployment | None, str]:
    """The LLMDeployment whose weights are used, and what it still waits for.

    Raises:
        NeedsUser: there is none of that name.
    """
    name = job.spec.base_model.deployment
    if name is None:
        return None, ""
    live = await world.cluster.get(LLM_DEPLOYMENT, job.metadata.namespace, name)
    if live is None:
        raise NeedsUser(
            Reason.INVALID_SPEC,
            f"spec.baseModel.deployment names LLMDeployment {name}, which does not exist in this namespace. Create it, "
            "or give spec.baseModel.source.",
        )
    llm = LLMDeployment.from_manifest(live)
    ready = any(entry.type == ConditionType.WEIGHTS_READY and entry.status == "True" for entry in llm.status.conditions)
    return llm, "" if ready else f"The weights of LLMDeployment {name} are not there yet."


async def _refuse(live: Json, refusal: Verdict, world: World) -> None:
    before = FineTuneJobStatus.model_validate(live.get("status") or {}, by_alias=True)
    after = verdict.refused(before, live["metadata"]["generation"], refusal, world.now())
    await _report(live, before, after, world)


async def _report(live: Json, before: FineTuneJobStatus, after: FineTuneJobStatus, world: World) -> None:
    written = await report.apply_status(
        world.cluster, live, after.model_dump(by_alias=True, mode="json", exclude_none=True)
    )
    if written:
        await report.events(world.cluster, live, before.conditions, after.conditions, world.now())
