"""Restore points: what an LLMDeployment's schedule makes of them, and one look at a ModelBackup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from llmops.api.backup import BackupSpec
from llmops.api.backup_status import BackupStatus, ModelBackupStatus
from llmops.api.conditions import ConditionType, Reason
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.model_backup import ModelBackup
from llmops.api.problem import NeedsUser
from llmops.desired import backups, drift
from llmops.judge import backups as verdict
from llmops.judge import ownership, retention, schedule
from llmops.judge.verdict import Verdict
from llmops.judge.weights import Progress, progress
from llmops.shell import adapters, ended, observe, report
from llmops.shell.backup_series import Standing
from llmops.shell.converge import converge
from llmops.shell.mirror import Key
from llmops.shell.resources import LLM_DEPLOYMENT, MODEL_BACKUP
from llmops.shell.world import World

Json = dict[str, Any]
log = structlog.get_logger()

SOON = timedelta(seconds=5)


@dataclass(frozen=True)
class Kept:
    """How a deployment's points stand.

    Attributes:
        objects: The CronJobs, and a ModelBackup for each scheduled point whose Job is there.
        forgotten: ModelBackups of ours whose points retention has dropped.
        status: What goes into the deployment's status; `None` without spec.backup, like the verdict.
        verdict: `BackedUp`.
        again: When the verdict may be another one.
    """

    objects: tuple[Json, ...] = ()
    forgotten: tuple[Json, ...] = ()
    status: BackupStatus | None = None
    verdict: Verdict | None = None
    again: timedelta | None = None


async def keep(llm: LLMDeployment, looked: observe.Seen, world: World) -> Kept:
    """What an LLMDeployment's backups should be, and how they stand."""
    children = looked.children
    spec, now = llm.spec.backup, world.now()
    key = Key(LLM_DEPLOYMENT.kind, llm.metadata.namespace, llm.metadata.name)
    if spec is None:
        world.backups.see(key, None)
        return Kept()
    seen = verdict.runs(children)
    records = [child for child in children if child["kind"] == MODEL_BACKUP.kind]
    held = verdict.status(llm.status.backup, seen, backups.points_name(llm))
    points = backups.Points(
        any=held.point is not None,
        held=_held(llm, records),
        deployed=_deployed(llm),
        verify_every=schedule.longest_gap(spec.verify.schedule, spec.time_zone, now) or timedelta(days=7),
    )
    gap = schedule.longest_gap(spec.schedule, spec.time_zone, now) if spec.schedule and not spec.suspend else None
    world.backups.see(key, Standing(held, gap, _begun(llm, children)))
    dropped = {ref for run in seen if run.kind == "Collect" for ref in run.outcome.get("dropped", ())}
    beside = backups.Held(adapters.loadable(looked.adapters.known), _learned(llm, children))
    wanted = backups.objects(llm, world.config, points=points, weights_ready=looked.weights.ready, beside=beside)
    wanted += [
        backups.record(llm, due)
        for run in seen
        if (due := backups.due(llm, run.job["metadata"]["name"])) and backups.ref(llm, due) not in dropped
    ]
    progress = await _progress(verdict.running(seen), world)
    return Kept(
        objects=tuple(wanted),
        forgotten=tuple(record for record in records if record.get("status", {}).get("point") in dropped),
        # An empty list is not stored, and a status that never equals what is stored is written for ever.
        status=held if held.runs else None,
        verdict=verdict.verdict(spec, held, seen, progress, now),
        again=verdict.next_look(spec, held, seen, now),
    )


def _learned(llm: LLMDeployment, children: Sequence[Json]) -> bool:
    """Whether there are baselines of ours to keep. A ConfigMap that somebody else made under the name is not read."""
    wanted = ("ConfigMap", drift.memory_name(llm.metadata.name))
    found = (child for child in children if (child["kind"], child["metadata"]["name"]) == wanted)
    return any(llm.metadata.uid in ownership.owner_uids(child) for child in found)


def _begun(llm: LLMDeployment, children: Sequence[Json]) -> datetime | None:
    name = backups.cron_job_name(llm, backups.BACKUP)
    made = [child for child in children if child["kind"] == "CronJob" and child["metadata"]["name"] == name]
    return datetime.fromisoformat(made[0]["metadata"]["creationTimestamp"]) if made else None


def _held(llm: LLMDeployment, records: Sequence[Json]) -> tuple[str, ...]:
    made = [ModelBackup.from_manifest(record) for record in records if record["spec"].get("hold")]
    return tuple(sorted(backups.ref(llm, backup.taken) for backup in made))


def _deployed(llm: LLMDeployment) -> tuple[str, ...]:
    """The point that the served files came from."""
    from_point = llm.spec.model.source.startswith("backup://") and llm.status.model.revision
    return (str(llm.status.model.revision),) if from_point else ()


async def _progress(run: verdict.Run | None, world: World) -> Progress | None:
    for pod in run.pods if run else ():
        if pod.get("status", {}).get("phase") == "Running":
            meta = pod["metadata"]
            lines = await world.cluster.logs(meta["namespace"], meta["name"], container=backups.BACKUP, tail=20)
            if said := progress(lines):
                return said
    return None


async def model_backup(key: Key, world: World) -> timedelta | None:
    """Bring one ModelBackup closer to its restore point; returns when to look again."""
    live = await world.cluster.get(MODEL_BACKUP, key.namespace, key.name)
    if live is None or live["metadata"].get("deletionTimestamp"):
        return None  # its Job carries its owner reference: Kubernetes deletes it; the point stays
    resync = timedelta(seconds=world.config.resync_seconds)
    try:
        backup = ModelBackup.from_manifest(live)
    except ValidationError as error:
        log.warning("not a ModelBackup any more", key=str(key), error=str(error.errors()[0]["msg"]))
        return None
    llm = await _deployment(backup, world)
    siblings = world.mirror.children(Key(LLM_DEPLOYMENT.kind, key.namespace, backup.spec.deployment))
    seen = verdict.runs(siblings)
    if verdict.over(backup.status):
        await _write(live, backup.status, _aged(backup, llm, seen), world)
        return resync
    run = await _last_words(verdict.own(seen, _jobs(backup, llm), live), world)
    try:
        learned = llm is not None and _learned(llm, siblings)
        waiting = await _start(live, backup, llm, run, world, learned=learned)
    except NeedsUser as problem:
        waiting = Verdict("False", problem.reason, problem.message)
    after = verdict.point_status(backup, run, await _progress(run, world), waiting, world.now())
    if verdict.complete(after):
        after = _aged(backup.model_copy(update={"status": after}), llm, seen)
    await _write(live, backup.status, after, world)
    refused = waiting is not None and waiting.status == "False"
    return resync if refused or verdict.over(after) else SOON


async def _deployment(backup: ModelBackup, world: World) -> LLMDeployment | None:
    live = await world.cluster.get(LLM_DEPLOYMENT, backup.metadata.namespace, backup.spec.deployment)
    return LLMDeployment.from_manifest(live) if live else None


def _jobs(backup: ModelBackup, llm: LLMDeployment | None) -> set[str]:
    """The Job that makes the point: its own, or the schedule's."""
    mine = {backups.job_name(backup)}
    if llm is not None and backup.scheduled:
        mine.add(backups.scheduled_job_name(llm, backup.taken))
    return mine


async def _last_words(run: verdict.Run | None, world: World) -> verdict.Run | None:
    """A run that has ended with its pods as they are now."""
    if run is None or not (run.ended("Complete") or run.ended("Failed")):
        return run
    return replace(run, pods=await ended.pods_of(run.job, world) or run.pods)


async def _start(
    live: Json,
    backup: ModelBackup,
    llm: LLMDeployment | None,
    run: verdict.Run | None,
    world: World,
    *,
    learned: bool,
) -> Verdict | None:
    """Create the Job when there is none; what it waits for otherwise.

    Raises:
        NeedsUser: there is nothing that could be backed up.
    """
    if run is not None:
        return None
    if llm is None or llm.spec.backup is None:
        lacks = "does not exist in this namespace" if llm is None else "has no spec.backup"
        raise NeedsUser(Reason.NOT_BACKED_UP, f"LLMDeployment {backup.spec.deployment} {lacks}.")
    if backup.scheduled:
        raise NeedsUser(Reason.BACKUP_FAILED, "The Job is gone and has left no word: `llmops repo list` shows points.")
    ready = [entry for entry in llm.status.conditions if entry.type == ConditionType.WEIGHTS_READY]
    if not ready or ready[0].status != "True":
        said = "The weights of the deployment are not verified yet; the backup begins when they are."
        return Verdict("Unknown", Reason.NOT_BACKED_UP, said)
    loras = adapters.loadable(await adapters.known_of(llm, llm.status.model, world))
    beside = backups.Held(loras, learned)
    wanted = backups.point(backup, llm, llm.spec.backup, world.config, beside)
    done = await converge(world.cluster, world.mirror, live, wanted, [], removable=())
    log.info("converged", key=f"ModelBackup/{backup.metadata.namespace}/{backup.metadata.name}", done=done)
    return None


def _aged(backup: ModelBackup, llm: LLMDeployment | None, seen: Sequence[verdict.Run]) -> ModelBackupStatus:
    """The status of a point that is there, with what has become known of it since."""
    if not verdict.complete(backup.status):
        return backup.status
    at = verdict.verified_at(backup.status, seen)
    return backup.status.model_copy(update={"verified_at": at, "expires": _expires(backup, llm)})


def _expires(backup: ModelBackup, llm: LLMDeployment | None) -> datetime | None:
    spec = llm.spec.backup if llm else None
    if backup.spec.hold or spec is None or spec.retention is None or spec.schedule is None or spec.suspend:
        return None
    return retention.expiry(backup.taken, retention.Policy(**spec.retention.model_dump()), _firings(spec))


def _firings(spec: BackupSpec) -> retention.Following:
    return lambda at: schedule.following(spec.schedule or "", spec.time_zone, at)


async def _write(live: Json, before: ModelBackupStatus, after: ModelBackupStatus, world: World) -> None:
    written = await report.apply_status(
        world.cluster, live, after.model_dump(by_alias=True, mode="json", exclude_none=True)
    )
    if written:
        await report.events(world.cluster, live, before.conditions, after.conditions, world.now())
