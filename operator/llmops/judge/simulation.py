"""What the autoscaler would have done: a recorded trace, replicas that take time to load, and a queue.

The policy is `scaling.decide` itself, fed by the same `Meter` as in the operator. Its peer is a clairvoyant who knows
the whole trace beforehand.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from llmops.judge.load import Load, Meter
from llmops.judge.scaling import UP_FACTOR, UP_PERIOD, UP_STEP, Limits, Memory, Scale, decide

PREFILL_TOKENS_PER_SECOND = 4000.0
DECODE_TOKENS_PER_SECOND = 33.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace: when it comes, in seconds from the trace's beginning, and how long a replica takes."""

    at: float
    service_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What replicas are like."""

    slots: int  # requests a replica works on at once; the others wait
    load_seconds: float = 60.0  # from the wish for a replica until it answers; it is paid for meanwhile
    first: int = 1  # replicas that are ready when the trace begins


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. Waits are seconds from arrival until a replica took the request."""

    replica_seconds: float  # loading and draining replicas count
    waits: tuple[float, ...]  # sorted
    changes: tuple[tuple[float, int], ...]  # when, and how many replicas were wished for from then on

    def wait(self, quantile: float) -> float:
        """The wait that this share of the requests did not exceed."""
        return self.waits[max(0, math.ceil(quantile * len(self.waits)) - 1)] if self.waits else 0.0

    @property
    def peak(self) -> int:
        """The largest number of replicas."""
        return max(replicas for _, replicas in self.changes)

    @property
    def reversals(self) -> int:
        """How often the size grew again after it had shrunk: what flapping looks like."""
        sizes = [replicas for _, replicas in self.changes]
        steps = [after - before for before, after in pairwise(sizes)]
        return sum(1 for before, after in pairwise(steps) if before < 0 < after)


def requests(rows: Iterable[tuple[datetime, int, int]]) -> list[Request]:
    """Requests from rows of (time, prompt tokens, generated tokens), at the speed of one stream of a busy GPU."""
    ordered = sorted(rows)
    return [
        Request(
            (at - ordered[0][0]).total_seconds(), prompt / PREFILL_TOKENS_PER_SECOND + out / DECODE_TOKENS_PER_SECOND
        )
        for at, prompt, out in ordered
    ]


Policy = Callable[[float, Meter, Scale], int]  # time in seconds, what was metered, the size -> replicas


def autoscaler(limits: Limits) -> Policy:
    """`scaling.decide` with its memory."""
    memory = Memory()

    def policy(now: float, meter: Meter, scale: Scale) -> int:
        nonlocal memory
        load: Load = meter.load(now)
        decision = decide(limits, load, scale, datetime.fromtimestamp(now, UTC), memory)
        memory = decision.memory
        return decision.replicas

    return policy


def planned(plan: Sequence[int], tick_seconds: float) -> Policy:
    """A size for every tick, whatever happens."""
    return lambda now, _meter, _scale: plan[min(int(now / tick_seconds + 1e-6), len(plan) - 1)]


def simulate(trace: Sequence[Request], policy: Policy, fleet: Fleet, *, tick_seconds: float = 1.0) -> Outcome:
    """Replay the trace; the policy is asked every tick, until the trace is over and its requests have ended."""
    world = _World(fleet)
    arrivals = deque(trace)
    tick = 0
    while arrivals or world.busy:
        now = tick * tick_seconds
        world.resize(policy(now, world.meter, world.scale(now)), now)
        tick += 1
        world.play(arrivals, tick * tick_seconds)
    return world.outcome(tick * tick_seconds)


@dataclass(slots=True, eq=False)
class _Replica:
    born: float
    ready: float
    in_flight: int = 0
    leaving: bool = False


@dataclass(slots=True)
class _World:
    fleet: Fleet
    meter: Meter = field(default_factory=lambda: Meter(0.0))
    replicas: list[_Replica] = field(default_factory=list)
    queue: deque[Request] = field(default_factory=deque)
    endings: list[tuple[float, int, _Replica]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)
    at: float = 0.0
    paid: float = 0.0
    in_flight: int = 0
    started: int = 0

    def __post_init__(self) -> None:
        self.replicas = [_Replica(0.0, 0.0) for _ in range(self.fleet.first)]

    @property
    def busy(self) -> bool:
        return bool(self.queue or self.endings)

    @property
    def staying(self) -> list[_Replica]:
        return [replica for replica in self.replicas if not replica.leaving]

    def scale(self, now: float) -> Scale:
        ready = [replica.ready for replica in self.staying if replica.ready <= now]
        return Scale(
            wanted=len(self.staying),
            ready=len(ready),
            loading=len(self.staying) - len(ready),
            ready_since=datetime.fromtimestamp(min(ready), UTC) if ready else None,
        )

    def resize(self, size: int, now: float) -> None:
        staying = self.staying
        if not self.changes or size != len(staying):
            self.changes.append((now, size))
        self.replicas += [_Replica(now, now + self.fleet.load_seconds) for _ in range(size - len(staying))]
        # the order of a ReplicaSet: what is not ready goes first, then whatever has the least to finish
        staying.sort(key=lambda replica: (replica.ready <= now, replica.in_flight))
        for replica in staying[: max(0, len(staying) - size)]:
            replica.leaving = True
            self._leave_when_empty(replica, now)
        self._dispatch(now)

    def play(self, arrivals: deque[Request], until: float) -> None:
        """Everything that happens before `until`, in order of time."""
        while True:
            arrival = arrivals[0].at if arrivals else math.inf
            ending = self.endings[0][0] if self.endings else math.inf
            now = min(arrival, ending, self._next_loaded())
            if now >= until:
                self.at = until
                return
            self.at = now
            if now == arrival:
                self.queue.append(arrivals.popleft())
            elif now == ending:
                self._end(heapq.heappop(self.endings)[2], now)
            self._dispatch(now)
            self.meter.observe(
                now,
                arrivals=int(now == arrival),
                in_flight=self.in_flight,
                waiting=len(self.queue),
                last_end=now if now == ending else None,
            )

    def outcome(self, now: float) -> Outcome:
        """The account, with what still runs paid until `now`."""
        running = sum(now - replica.born for replica in self.replicas)
        return Outcome(self.paid + running, tuple(sorted(self.waits)), tuple(self.changes))

    def _next_loaded(self) -> float:
        """When the next replica begins to answer, if anybody waits for it."""
        if not self.queue:
            return math.inf
        return min((each.ready for each in self.staying if each.ready > self.at), default=math.inf)

    def _dispatch(self, now: float) -> None:
        """Hand what waits to the replicas with the fewest requests, in order of arrival."""
        open_to = [each for each in self.staying if each.ready <= now and each.in_flight < self.fleet.slots]
        while self.queue and open_to:
            replica = min(open_to, key=lambda each: each.in_flight)
            request = self.queue.popleft()
            self.waits.append(now - request.at)
            self.started += 1
            heapq.heappush(self.endings, (now + request.service_seconds, self.started, replica))
            replica.in_flight += 1
            self.in_flight += 1
            if replica.in_flight == self.fleet.slots:
                open_to.remove(replica)

    def _end(self, replica: _Replica, now: float) -> None:
        replica.in_flight -= 1
        self.in_flight -= 1
        self._leave_when_empty(replica, now)

    def _leave_when_empty(self, replica: _Replica, now: float) -> None:
        if replica.leaving and not replica.in_flight:
            self.replicas.remove(replica)
            self.paid += now - replica.born


def clairvoyant(
    trace: Sequence[Request],
    limits: Limits,
    fleet: Fleet,
    *,
    wait_seconds: float,
    obeying: bool = False,
    tick_seconds: float = 1.0,
    windows_seconds: Sequence[float] = (1, 10, 30, 60, 180, 600),
) -> Outcome:
    """The cheapest plan found that knows the trace beforehand and keeps the p95 wait at or below `wait_seconds`.

    Candidates: the concurrency that unlimited replicas would have, averaged over a window and divided by a degree of
    use; every replica is started `load_seconds` before it is needed, and kept over a gap that is shorter than loading
    another one. All combinations of windows and degrees are replayed in the same world. It has the same minimum,
    maximum and first size as the autoscaler. `obeying`, it also keeps what the user asked of the autoscaler: growth by
    doubling or 4 per 15 s, and no replica removed before the plan has called for fewer for the stabilization time.
    What it then is cheaper by is the price of not knowing; the rest is the price of these rules.
    """
    offered = _offered(trace, tick_seconds)
    best: Outcome | None = None
    for window_seconds in windows_seconds:
        smooth = _smooth(offered, int(window_seconds / tick_seconds))
        for percent in range(60, 136, 5):
            plan = _plan(smooth, limits, fleet, percent / 100, tick_seconds)
            if obeying:
                plan = _obeying(plan, limits, fleet, tick_seconds)
            if best is not None and sum(plan) * tick_seconds > best.replica_seconds * 1.02:
                continue  # dearer before it starts
            outcome = simulate(trace, planned(plan, tick_seconds), fleet, tick_seconds=tick_seconds)
            if outcome.wait(0.95) <= wait_seconds and (best is None or outcome.replica_seconds < best.replica_seconds):
                best = outcome
    if best is None:  # even the most generous plan waits longer, as when every request comes before a replica can load
        best = simulate(trace, planned([limits.maximum], tick_seconds), fleet, tick_seconds=tick_seconds)
    return best


def _offered(trace: Sequence[Request], tick_seconds: float) -> list[float]:
    """Mean number of requests in service per tick, if none had to wait."""
    ticks = int(max(request.at + request.service_seconds for request in trace) / tick_seconds) + 1
    slope = [0.0] * (ticks + 2)
    for request in trace:
        for at, sign in ((request.at, 1.0), (request.at + request.service_seconds, -1.0)):
            tick, part = divmod(at / tick_seconds, 1.0)
            slope[int(tick)] += sign * (1 - part)
            slope[int(tick) + 1] += sign * part
    level, levels = 0.0, []
    for change in slope[:ticks]:
        level += change
        levels.append(level)
    return levels


def _smooth(levels: Sequence[float], window: int) -> list[float]:
    """Centred moving mean: somebody who knows the future may look into it."""
    sums = [0.0]
    for level in levels:
        sums.append(sums[-1] + level)
    half = window // 2
    bounds = ((max(0, i - half), min(len(levels), i + half + 1)) for i in range(len(levels)))
    return [(sums[end] - sums[begin]) / (end - begin) for begin, end in bounds]


def _plan(levels: Sequence[float], limits: Limits, fleet: Fleet, use: float, tick_seconds: float) -> list[int]:
    """Replicas per tick: level by level, needed stretches prolonged to the front by loading and joined over gaps."""
    load = math.ceil(fleet.load_seconds / tick_seconds)
    plan = [limits.minimum] * len(levels)
    for size in range(plan[0] + 1, limits.maximum + 1):
        free_from = 0  # the tick after the last one in which this replica is wished for
        for tick, level in enumerate(levels):
            if level > (size - 1) * fleet.slots * use + 1e-9:
                begin = max(0, tick - load)
                begin = free_from if free_from and begin - free_from <= load else begin
                for each in range(max(begin, free_from), tick + 1):
                    plan[each] = max(plan[each], size)
                free_from = tick + 1
    return plan


def _obeying(plan: Sequence[int], limits: Limits, fleet: Fleet, tick_seconds: float) -> list[int]:
    """The plan as the rules let it be followed: sizes kept over the stabilization time, growth by steps."""
    kept_for = int(limits.stabilization.total_seconds() / tick_seconds)
    period = int(UP_PERIOD.total_seconds() / tick_seconds)
    sizes = [fleet.first] * period
    for tick in range(len(plan)):
        wanted = max(plan[max(0, tick - kept_for) : tick + 1])
        base = min(sizes[-period:])
        sizes.append(min(wanted, max(base * UP_FACTOR, base + UP_STEP, limits.minimum)))
    return sizes[period:]
