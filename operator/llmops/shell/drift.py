"""Drift of one deployment: what is remembered and what Prometheus said, judged; actions taken; children wished for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmops import names
from llmops.api import drift as api
from llmops.api.drift_state import Doubt, Remembered
from llmops.api.llm_deployment import LLMDeployment
from llmops.desired import drift as desired
from llmops.judge.drift import history, identity, lifecycle
from llmops.judge.drift.look import Look, Subject, look
from llmops.judge.status import Serving
from llmops.judge.verdict import Verdict
from llmops.shell import report
from llmops.shell.cluster import Conflicting
from llmops.shell.mirror import Key
from llmops.shell.observe import Seen
from llmops.shell.resources import CONFIG_MAP, FINE_TUNE_JOB, PROMETHEUS_RULE
from llmops.shell.traffic import Question
from llmops.shell.world import World

Json = dict[str, Any]


@dataclass(frozen=True)
class Watch:
    """What a look at drift leaves to do: children, and a condition."""

    objects: tuple[Json, ...] = ()
    verdict: Verdict | None = None


async def watch(llm: LLMDeployment, live: Json, key: Key, seen: Seen, world: World) -> Watch:
    """One look; nothing of it waits for Prometheus."""
    spec, now = llm.spec.drift, world.now()
    if spec is None:
        world.traffic.forget(key)
        return Watch()
    before = await _remembered(llm, seen.children, world)
    served = identity.served(llm, seen.weights.model, before.memories.served) if seen.weights.ready else None
    subject = Subject(
        watched=desired.watched(llm),
        spec=spec,
        keys=identity.keys(llm, served, world.config) if served else {},
        served=served,
        inhibited=_inhibited(seen.serving),
        acknowledged=llm.metadata.annotations.get(api.ACKNOWLEDGED_ANNOTATION, ""),
        rebased=llm.metadata.annotations.get(api.REBASED_ANNOTATION, ""),
    )
    found = look(subject, before, world.traffic.evidence(key, _question(subject, before, now)), now)
    await _act(llm, live, found, world, now)
    memories = found.remembered.memories.signals
    bars = tuple(lifecycle.with_bar(each, spec, memories.get(each.signal)) for each in found.remembered.baselines)
    objects = desired.objects(
        llm,
        spec,
        found.remembered,
        bars,
        runbooks=world.config.runbooks,
        prometheus_rules=world.mirror.serves(PROMETHEUS_RULE),
    )
    return Watch(tuple(objects), found.verdict)


async def _remembered(llm: LLMDeployment, children: tuple[Json, ...], world: World) -> Remembered:
    name = desired.memory_name(llm.metadata.name)
    stored = next((each for each in children if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", name)), None)
    if stored is None:
        # Nothing here may be a mirror that is late: learning for a week would begin again.
        stored = await world.cluster.get(CONFIG_MAP, llm.metadata.namespace, name)
        owners = (stored or {}).get("metadata", {}).get("ownerReferences") or []
        if not any(owner["uid"] == llm.metadata.uid for owner in owners):
            stored = None
    return desired.remembered(stored)


def _question(subject: Subject, before: Remembered, now: datetime) -> Question:
    wanted = subject.spec.baseline
    learning = {
        signal: memory.learn_from
        for signal in subject.spec.watches
        if (memory := before.memories.signals.get(signal)) and history.may_learn(memory, wanted, now)
    }
    return Question(subject.watched, subject.spec.window, learning)


def _inhibited(serving: Serving) -> Doubt | None:
    if serving.workload is None or not serving.rolled_out:
        return Doubt.ROLLING_OUT
    return Doubt.SCALED_TO_ZERO if serving.workload["spec"].get("replicas") == 0 else None


async def _act(llm: LLMDeployment, live: Json, found: Look, world: World, now: datetime) -> None:
    """Take the actions that are due, before it is remembered that they were.

    A process that dies in between takes them again: a copy has its name from the moment drift began, and an Event from
    the minute it is told in.
    """
    for action in found.due:
        match action.type:
            case "Alert":
                continue  # the condition's Event and Prometheus' alert are the alert
            case "FreezePromotion":
                told = ("PromotionFrozen", "Adapters stay as they are until the drift is over or acknowledged.")
            case "StartFineTune":
                told = await _copy(llm, action.fine_tune_job or "", found.onset or now, world)
        await report.did(world.cluster, live, action="Drifted", reason=told[0], note=told[1], now=now)


async def _copy(llm: LLMDeployment, name: str, began: datetime, world: World) -> tuple[str, str]:
    """Create the suspended copy of a FineTuneJob; returns reason and note for the Event."""
    job = await world.cluster.get(FINE_TUNE_JOB, llm.metadata.namespace, name)
    if job is None:
        return "FineTuneMissing", f"spec.drift.actions names FineTuneJob {name}, which does not exist."
    copy = desired.suspended_copy(job, llm.metadata.name, began)
    with suppress(Conflicting):  # the same drift, told twice
        await world.cluster.create(copy, manager=names.CHILD_MANAGER)
    made = copy["metadata"]["name"]
    return "FineTuneCreated", f"FineTuneJob {made} is a suspended copy of {name}. Look at it, then set suspend: false."
