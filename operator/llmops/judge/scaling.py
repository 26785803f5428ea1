"""How many replicas a model needs now: a pure function of what was asked for, what is asked of it, and the time.

Up is fast and looks at this moment; down is slow and looks back over the whole stabilization window. Between the two
thresholds lies a band in which nothing changes, wide enough for traffic that varies by a third.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from llmops.api.llm_deployment import LLMDeploymentSpec
from llmops.judge import schedule
from llmops.judge.load import STEADY_SECONDS, Load
from llmops.judge.schedule import Schedule

# Shares of the target at which a replica counts as full. The gap between each pair is what keeps noise from moving
# replicas up and down: a level that just called for another replica is 14 % (mean) above the one that lets it go.
SUSTAINED_UP, SUSTAINED_DOWN = 1.10, 0.96
BURST_UP, BURST_DOWN = 1.40, 1.25
RATE_BURST_UP = 1.15  # measured three sigma low already, so that a small margin is enough

UP_PERIOD = timedelta(seconds=15)
UP_FACTOR, UP_STEP = 2, 4
# A queue is no reason for more replicas when those that exist empty it in about the time another takes to load.
DRAIN_SECONDS = 60.0
ASSUMED_SERVICE_SECONDS = 10.0  # until ten requests have been measured
RESTLESS = timedelta(seconds=15)
KNOWN_FOR = timedelta(seconds=STEADY_SECONDS)
# A gateway that starts, or an operator that does, is not heard for a moment: nothing that anybody should be told.
UNHEARD_AFTER = timedelta(seconds=15)


class Reason(StrEnum):
    """Why the number is what it is."""

    FIXED_SIZE = "FixedSize"
    FIRST_START = "FirstStart"
    LOAD_UNKNOWN = "LoadUnknown"
    DEMAND_MET = "DemandMet"
    DEMAND_ROSE = "DemandRose"
    DEMAND_FELL = "DemandFell"
    REQUESTS_WAITING = "RequestsWaiting"
    RATE_LIMITED = "RateLimited"
    STABILIZING = "Stabilizing"
    REPLICAS_LOADING = "ReplicasLoading"
    IDLE = "Idle"
    AT_MAXIMUM = "AtMaximum"
    LIMITS_CHANGED = "LimitsChanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the spec says about size. `fixed` set: nothing else counts."""

    fixed: int | None = None
    minimum: int = 1
    maximum: int = 1
    requests_per_second: float | None = None  # target per replica
    concurrency: float | None = None  # target per replica, in flight and waiting together
    stabilization: timedelta = timedelta(seconds=300)
    idle_after: timedelta = timedelta(seconds=600)
    schedules: tuple[Schedule, ...] = ()

    @classmethod
    def of(cls, spec: LLMDeploymentSpec) -> Limits:
        """The limits in a spec; one that gives neither size nor autoscaling runs one replica.

        Raises:
            NeedsUser: a schedule that nobody can follow.
        """
        auto = spec.autoscaling
        if spec.replicas is not None or auto is None:
            return cls(fixed=1 if spec.replicas is None else spec.replicas)
        rate = auto.target.requests_per_second
        for each in auto.schedules:
            schedule.check(each.cron, each.time_zone)
        return cls(
            minimum=auto.min_replicas,
            maximum=auto.max_replicas,
            requests_per_second=None if rate is None else float(rate),
            concurrency=auto.target.concurrency,
            stabilization=timedelta(seconds=auto.scale_down_stabilization_seconds),
            idle_after=timedelta(seconds=auto.scale_to_zero_after_seconds),
            schedules=tuple(Schedule(each.cron, each.time_zone, each.min_replicas) for each in auto.schedules),
        )

    def floor(self, now: datetime) -> int:
        """The least number of replicas at this time of the week."""
        scheduled = schedule.floor(self.schedules, now)
        return min(self.minimum if scheduled is None else scheduled, self.maximum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The size as it is.

    Attributes:
        wanted: Replicas the workload asks for now; None when there is no workload yet.
        ready: Pods that answer.
        loading: Pods that have a node and a starting engine which has not failed. Neither a pod that waits for a
            node nor one in a crash loop: they would block scaling down for ever.
        ready_since: When the model last became able to answer (its longest-ready pod); None when no pod is ready.
    """

    wanted: int | None = None
    ready: int = 0
    loading: int = 0
    ready_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """The last time the number changed, and why."""

    at: datetime
    before: int
    after: int
    reason: Reason
    message: str

    def __str__(self) -> str:
        """From how many to how many, and why, in words."""
        return f"{self.before} to {self.after}: {self.message}"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next decision needs to know of the earlier ones. The shell keeps it per key, in the process only.

    Empty but for `last` after a restart, which is safe: the stabilization window starts anew, so nothing is scaled
    down early.
    """

    known_since: datetime | None = None  # the load has been known at every decision since
    unknown_since: datetime | None = None  # or has not been
    keeps: tuple[tuple[datetime, int], ...] = ()  # replicas the lasting demand called for; later ones are smaller
    ups: tuple[tuple[datetime, int], ...] = ()  # size before each growth of the last 15 s
    last: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Load as numbers of replicas: `grow` is needed at once, fewer than `keep` would soon be too few."""

    grow: int
    keep: int
    lasting: int  # of `keep`, what will be needed again; the rest empties a queue once
    message: str  # the measurement that decided, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a decision was made of."""

    limits: Limits
    load: Load | None
    scale: Scale
    floor: int
    ceiling: int
    demand: Demand | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The number of replicas, why, from what, and when time alone may change it.

    `message` describes this very decision and may quote moving numbers: for people and logs. What a condition shows
    is `condition`, which only changes when the number or the knowledge of the load does.
    """

    replicas: int
    reason: Reason
    message: str
    inputs: Inputs
    memory: Memory
    again: timedelta | None = None
    unheard: bool = False  # the load has been unknown for so long that somebody should look

    @property
    def changed(self) -> bool:
        """The workload asks for another number than this."""
        return self.replicas != self.inputs.scale.wanted

    @property
    def condition(self) -> tuple[bool, str, str]:
        """`ScalingActive`: status, reason, message. Stable while nothing happens."""
        if self.reason is Reason.FIXED_SIZE:
            return False, self.reason, f"spec.replicas sets the size: {self.replicas}."
        if self.unheard:
            return False, self.reason, self.message
        bounds = f"Replicas follow load between {self.inputs.floor} and {self.inputs.ceiling}."
        last = self.memory.last
        if last is None:
            return True, "FollowingLoad", bounds
        return True, "FollowingLoad", f"{bounds} Last change: {last} ({last.reason}, {_clock(last.at)})."


def decide(limits: Limits, load: Load | None, scale: Scale, now: datetime, memory: Memory | None = None) -> Decision:
    """The number of replicas for now.

    `load` None means that nobody knows: the size is held, never lowered. Give the `memory` of the previous decision
    of the same key, or none after a restart. `now` is timezone-aware.
    """
    memory = memory or Memory()
    known = load is not None and not load.partial
    floor, ceiling = limits.floor(now), limits.maximum
    demand = None if load is None or limits.fixed is not None else _demand(limits, load, scale.wanted or 0)
    inputs = Inputs(limits=limits, load=load, scale=scale, floor=floor, ceiling=ceiling, demand=demand)
    if limits.fixed is not None:
        message = f"spec.replicas asks for {limits.fixed}"
        return Decision(
            replicas=limits.fixed, reason=Reason.FIXED_SIZE, message=message, inputs=inputs, memory=Memory()
        )
    memory = _remembered(memory, demand if known else None, limits, now)
    replicas, reason, message, again = _size(inputs, memory, now, known=known)
    if replicas != scale.wanted:
        memory = _changed(memory, scale.wanted, Change(now, scale.wanted or 0, replicas, reason, message))
    unheard = False
    if reason is Reason.LOAD_UNKNOWN and memory.unknown_since is not None:
        patience = memory.unknown_since + UNHEARD_AFTER - now
        unheard = patience <= timedelta(0)
        again = None if unheard else patience
    soonest = schedule.next_change(limits.schedules, now)
    again = _soonest(again, None if soonest is None else soonest - now)
    return Decision(
        replicas=replicas, reason=reason, message=message, inputs=inputs, memory=memory, again=again, unheard=unheard
    )


def _changed(memory: Memory, wanted: int | None, change: Change) -> Memory:
    """The memory with this change in it. A first start that still waits for its weights began when it was decided."""
    if wanted is None and memory.last is not None and memory.last.reason is change.reason:
        return memory
    if change.after > change.before:
        memory = replace(memory, ups=(*memory.ups, (change.at, change.before)))
    return replace(memory, last=change)


_Verdict = tuple[int, Reason, str, timedelta | None]


def _size(inputs: Inputs, memory: Memory, now: datetime, *, known: bool) -> _Verdict:
    """The ladder: the user's limits, then growth, then patience, then shrinking."""
    scale, floor, ceiling, demand, load = inputs.scale, inputs.floor, inputs.ceiling, inputs.demand, inputs.load
    wanted = scale.wanted
    if wanted is None:
        return max(floor, 1), Reason.FIRST_START, "a new model is started once, to show that it works", None
    if not floor <= wanted <= ceiling:
        bound = min(max(wanted, floor), ceiling)
        if demand is None or demand.grow <= bound or wanted > ceiling:
            return bound, Reason.LIMITS_CHANGED, f"between {floor} and {ceiling} replicas are allowed now", None
    # What was asked of a model within the last minute is in the means still, and does not wake it again.
    asleep = wanted == 0 and load is not None and not load.active
    if demand is not None and demand.grow > wanted and not asleep:
        return _growth(inputs, demand, wanted, memory, now)
    if load is None or not known:
        heard = "is not" if load is None else "is only partly"
        return wanted, Reason.LOAD_UNKNOWN, f"the load {heard} known (a gateway cannot be heard); size is held", None
    return _shrinking(inputs, load, wanted, memory, now)


def _growth(inputs: Inputs, demand: Demand, wanted: int, memory: Memory, now: datetime) -> _Verdict:
    floor, ceiling = inputs.floor, inputs.ceiling
    base = min((before for _, before in memory.ups), default=wanted)
    allowed = max(base * UP_FACTOR, base + UP_STEP, floor)
    replicas = min(demand.grow, allowed, ceiling)
    if replicas <= wanted:
        if wanted >= ceiling:
            return wanted, Reason.AT_MAXIMUM, f"{demand.message}; maxReplicas is {ceiling}", None
        freed = min(at for at, _ in memory.ups) + UP_PERIOD - now
        return wanted, Reason.RATE_LIMITED, f"{demand.message}; grew from {base} less than 15 s ago", freed
    again = UP_PERIOD if replicas < min(demand.grow, ceiling) else None
    reason = Reason.REQUESTS_WAITING if wanted == 0 else Reason.DEMAND_ROSE
    return replicas, reason, demand.message, again


def _shrinking(inputs: Inputs, load: Load, wanted: int, memory: Memory, now: datetime) -> _Verdict:
    limits, scale, demand = inputs.limits, inputs.scale, inputs.demand
    if demand is None or wanted == inputs.floor:
        return wanted, Reason.DEMAND_MET, demand.message if demand else "", _restless(load)
    idle_in = _idle_in(limits, load, scale, now) if inputs.floor == 0 else None
    if idle_in is not None and idle_in <= timedelta(0) and not scale.loading:
        return 0, Reason.IDLE, f"no request for {_seconds(limits.idle_after)}", None
    again = _soonest(idle_in, _restless(load))
    least = max(demand.keep, inputs.floor, 1)
    if least >= wanted:
        return wanted, Reason.DEMAND_MET, demand.message, again
    if scale.loading:
        message = f"{scale.loading} of {wanted} replicas still load and are not removed; {least} would do"
        return wanted, Reason.REPLICAS_LOADING, message, again
    patience = max(limits.stabilization - (now - (memory.known_since or now)), KNOWN_FOR - (now - load.since))
    if patience > timedelta(0):
        message = f"{least} would do, but the load has been known for less than {_seconds(limits.stabilization)}"
        return wanted, Reason.STABILIZING, message, _soonest(patience, again)
    at, peak = max(memory.keeps, key=lambda each: each[1])
    if peak >= wanted:
        message = f"{least} would do, but {peak} were needed within the last {_seconds(limits.stabilization)}"
        return wanted, Reason.STABILIZING, message, _soonest(at + limits.stabilization - now, again)
    least = max(least, peak)
    return least, Reason.DEMAND_FELL, f"{least} carried the demand of the last {_seconds(limits.stabilization)}", again


def _idle_in(limits: Limits, load: Load, scale: Scale, now: datetime) -> timedelta | None:
    """How long until the model has been idle long enough; None while the idle clock does not run."""
    if load.active or scale.ready_since is None:
        return None
    return max(load.last_end or load.since, scale.ready_since) + limits.idle_after - now


def _restless(load: Load) -> timedelta | None:
    """Means move by themselves until the windows have emptied, without any gateway saying something new."""
    quiet = not load.active and load.mean_in_flight + load.mean_waiting < 0.01 and load.requests_per_second == 0
    return None if quiet else RESTLESS


def _soonest(*times: timedelta | None) -> timedelta | None:
    return min((max(each, timedelta(0)) for each in times if each is not None), default=None)


def _remembered(memory: Memory, demand: Demand | None, limits: Limits, now: datetime) -> Memory:
    """The memory with this moment in it and the past dropped. A gap in what is known starts the window anew."""
    ups = tuple((at, before) for at, before in memory.ups if now - at < UP_PERIOD)
    if demand is None:
        return Memory(unknown_since=memory.unknown_since or now, ups=ups, last=memory.last)
    recent = (each for each in memory.keeps if now - each[0] < limits.stabilization and each[1] > demand.lasting)
    keeps = (*recent, (now, demand.lasting))
    return Memory(known_since=memory.known_since or now, keeps=keeps, ups=ups, last=memory.last)


def _demand(limits: Limits, load: Load, wanted: int) -> Demand:
    """The larger of what concurrency and rate call for; with neither target, one replica while there is work."""
    candidates = []
    if limits.concurrency is not None:
        candidates.append(_by_concurrency(limits.concurrency, load, wanted))
    if limits.requests_per_second is not None:
        candidates.append(_by_rate(limits.requests_per_second, load, wanted))
    active = int(load.active)
    message = f"{load.in_flight} in flight, {load.waiting} waiting"
    busy = Demand(grow=active, keep=active, lasting=active, message=message)
    larger = max(candidates, key=lambda each: (each.grow, each.keep), default=busy)
    every = (*candidates, busy)
    return Demand(
        grow=max(larger.grow, busy.grow),
        keep=max(each.keep for each in every),
        lasting=max(each.lasting for each in every),
        message=larger.message,
    )


def _by_concurrency(target: float, load: Load, wanted: int) -> Demand:
    service = load.service_seconds or ASSUMED_SERVICE_SECONDS
    offered, recently = load.requests_per_second * service, load.recent_requests_per_second * service
    level = _work(load.in_flight, load.waiting, recently, service)
    mean = _work(load.mean_in_flight, load.mean_waiting, offered, service)
    # What empties a queue is busy with the past: nobody will ask for that much again.
    queued = load.mean_waiting > 0.01
    steady, crest = (min(mean, offered), min(level, recently)) if queued else (mean, level)
    burst = level > BURST_UP * target * wanted
    message = (
        f"{load.in_flight} requests in flight and {load.waiting} waiting "
        f"(means of 60 s: {load.mean_in_flight:.1f} and {load.mean_waiting:.1f}), target {target:g} per replica"
    )
    return Demand(
        grow=_ceil(max(mean, level if burst else 0) / (SUSTAINED_UP * target)),
        keep=max(_ceil(mean / (SUSTAINED_DOWN * target)), _ceil(level / (BURST_DOWN * target))),
        lasting=max(_ceil(steady / (SUSTAINED_DOWN * target)), _ceil(crest / (BURST_DOWN * target))),
        message=message,
    )


def _work(in_flight: float, waiting: float, offered: float, service_seconds: float) -> float:
    """The concurrency to provide for: what is in flight, and of the queue what more replicas would help.

    While a replica loads, a trickle of requests piles up into what looks like heavy traffic, but replicas that start
    now would be ready when the queue is gone. So no more is provided than the arrivals explain (`offered`, rate times
    service time, Little's law) and what empties the queue within DRAIN_SECONDS.
    """
    return max(in_flight, min(in_flight + waiting, offered + waiting * service_seconds / DRAIN_SECONDS))


def _by_rate(target: float, load: Load, wanted: int) -> Demand:
    burst = load.burst_requests_per_second / RATE_BURST_UP
    rate = max(load.requests_per_second, burst if burst > target * wanted else 0)
    message = (
        f"{load.requests_per_second:.2f} requests/s (mean of 60 s; certainly {load.burst_requests_per_second:.2f} at "
        f"the last peak), target {target:g} per replica"
    )
    keep = _ceil(max(load.requests_per_second / SUSTAINED_DOWN, burst) / target)
    return Demand(grow=_ceil(rate / (SUSTAINED_UP * target)), keep=keep, lasting=keep, message=message)


def _ceil(replicas: float) -> int:
    """Rounded up, but not by what floating point adds to a whole number."""
    return math.ceil(replicas - 1e-9)


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g} s"


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
