"""What SIGKILL and damaged bytes do to a repository: real processes, real files, every outcome checked.

The children are forked from a server that has imported everything, so that a kill meets the work and not the imports.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llmops.judge.retention import Policy
from llmops_serving.jobs.repository.collect import collect
from llmops_serving.jobs.repository.errors import Expired, RepositoryError
from llmops_serving.jobs.repository.format import PointRef, point_id
from llmops_serving.jobs.repository.read import restore
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.target import Target
from llmops_serving.jobs.repository.verify import verify
from llmops_serving.jobs.repository.write import backup

KEY = b"the key of a repository in trouble"
GRACE_SECONDS = 8.0
KEPT = 6
NAMES = ("support", "search")
VERBS = ("backup", "backup", "backup", "verify", "gc", "restore")
LONGEST_SECONDS = 120.0
CHILD_MODULES = ["bench.backup.faults"]


@dataclass
class World:
    """A repository, the models that go into it, and what each point must hold."""

    folder: Path
    url: str
    seed: int
    random: random.Random = field(init=False)
    holds: dict[PointRef, Path] = field(default_factory=dict)
    day: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.models = [_model(self.folder / f"model-{number}", number) for number in range(5)]

    def open(self) -> Repository:
        return Repository.open_or_create(Target.open(self.url), KEY, grace_seconds=GRACE_SECONDS)

    def next_point(self) -> tuple[PointRef, Path]:
        self.day += 1
        made = PointRef(
            self.random.choice(NAMES), point_id(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=self.day))
        )
        self.holds[made] = self.random.choice(self.models)
        return made, self.holds[made]

    def task(self, verb: str) -> tuple[Callable[..., None], tuple[Any, ...]]:
        if verb == "backup":
            return run_backup, (self.url, *self.next_point(), self.folder / "cache")
        if verb == "restore":
            points = self.open().points()
            chosen = self.random.choice(points) if points else None
            return run_restore, (self.url, chosen, self.folder / "out")
        return {"verify": run_verify, "gc": run_gc}[verb], (self.url,)


def _process(context: ForkServerContext, work: Callable[..., None], arguments: tuple[Any, ...]) -> ForkServerProcess:
    """A process with today's environment: the fork server's is of the day it was started."""
    return context.Process(target=_with_environment, args=(dict(os.environ), work, *arguments))


def _with_environment(environment: dict[str, str], work: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(environment)
    work(*arguments)


def run_backup(url: str, ref: PointRef, model: Path, cache: Path) -> None:
    while True:
        try:
            backup(_opened(url), {"": model}, ref=ref, cache_folder=cache)
        except Expired:
            continue  # on a machine with this much to do the grace period is short: its Job tries again
        else:
            return


def run_restore(url: str, ref: PointRef | None, out: Path) -> None:
    if ref is not None:
        restore(_opened(url), ref, out / str(ref))


def run_verify(url: str) -> None:
    verify(_opened(url), KEY, depth="due")


def run_gc(url: str) -> None:
    collect(_opened(url), policies={"": Policy(keep_last=KEPT)})


def kills(folder: Path, count: int, *, seed: int, url: str = "") -> dict[str, Any]:
    """`count` processes killed at random moments, a second writer beside every third; AssertionError on any loss.

    After each kill the same work is done again by a process that is left alone, which must succeed (no wedge). Then
    every point that is visible is restored and compared (no half point), every one that a finished backup reported is
    there unless retention dropped it (no lost point), and in the end the check is clean and the garbage is gone.
    """
    world = World(folder / "kills", url or f"file://{folder}/kills/repository", seed)
    world.open()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(CHILD_MODULES)
    seen: Counter[str] = Counter()
    finished: list[PointRef] = []
    typical = dict.fromkeys(VERBS, 0.3)
    number = killed = 0
    while killed < count:
        number += 1
        verb = world.random.choice(VERBS)
        work, arguments = world.task(verb)
        victim = _process(context, work, arguments)
        beside = None
        if number % 3 == 0:
            other, other_arguments = world.task("backup")
            beside = _process(context, other, other_arguments)
            beside.start()
        victim.start()
        victim.join(world.random.uniform(0, typical[verb] * 1.2))
        if victim.is_alive():
            os.kill(victim.pid or 0, signal.SIGKILL)
            seen[f"killed {verb}"] += 1
            killed += 1
        else:
            seen[f"{verb} was faster"] += 1
        victim.join()
        if beside:
            beside.join(LONGEST_SECONDS)
            assert beside.exitcode == 0, f"the writer beside a killed {verb} failed"
            finished.append(other_arguments[1])
            seen["two writers at once"] += verb == "backup"
        started = time.monotonic()
        again = _process(context, work, arguments)
        again.start()
        again.join(LONGEST_SECONDS)
        assert again.exitcode == 0, f"{verb} after a killed {verb} failed"
        typical[verb] = 0.7 * typical[verb] + 0.3 * (time.monotonic() - started)
        if verb == "backup":
            finished.append(arguments[1])
        shutil.rmtree(world.folder / "out", ignore_errors=True)
        if number % 10 == 0 or killed == count:
            _check(world, finished)
    return {**dict(seen.most_common()), "points": len(world.open().points()), **_final(world)}


def _check(world: World, finished: list[PointRef]) -> None:
    repository = world.open()
    visible = repository.points()
    for name in NAMES:
        mine = sorted(ref for ref in finished if ref.name == name)[-KEPT:]
        # unfinished points may be visible and take places; what was dropped must have been older than all that stay
        lost = [ref for ref in mine if ref not in visible]
        kept = [ref for ref in visible if ref.name == name]
        assert not lost or (len(kept) >= KEPT and max(lost) < min(kept[-KEPT:])), f"lost {lost}"
    for ref in visible:
        restore(repository, ref, world.folder / "check")
        _assert_equal(world.folder / "check", world.holds[ref])
        shutil.rmtree(world.folder / "check")


def _final(world: World) -> dict[str, Any]:
    """Two collections with the grace period between them leave nothing that no point needs."""
    repository = world.open()
    for _ in range(3):
        collect(repository, policies={"": Policy(keep_last=KEPT)})
        time.sleep(GRACE_SECONDS + 1)
    collect(repository)
    report = verify(repository, KEY, depth="all")
    assert (report.clean, report.bad) == (True, ()), report.findings
    live = {blob for ref in repository.points() for blob in repository.manifest(ref).blobs()}
    garbage = {blob for blob, _ in repository.objects()} - live
    assert not garbage, f"{len(garbage)} objects were never collected"
    return {"lost points": 0, "wedges": 0, "half points": 0, "findings at the end": len(report.findings), "garbage": 0}


def damage(folder: Path, count: int, *, seed: int) -> dict[str, Any]:
    """`count` bit flips, truncations, deletions and swaps, one at a time; each must be named, and none served.

    Raises AssertionError on the first that is not.
    """
    world = World(folder / "damage", f"file://{folder}/damage/repository", seed)
    root = folder / "damage" / "repository"
    repository = world.open()
    for number, model in enumerate(world.models[:4]):
        ref = PointRef(NAMES[number % 2], point_id(datetime(2026, 1, 1 + number, tzinfo=UTC)))
        world.holds[ref] = model
        backup(repository, {"": model}, ref=ref)
    assert verify(repository, KEY, depth="all").clean
    sound = folder / "damage" / "sound"
    shutil.copytree(root, sound)
    victims = sorted(
        at.relative_to(root) for at in root.rglob("*") if at.is_file() and not _of_no_consequence(at.relative_to(root))
    )
    seen: Counter[str] = Counter()
    for _ in range(count):
        victim = world.random.choice(victims)
        kind = world.random.choice(["flip", "truncate", "delete", "swap"])
        hurt = _hurt(world.random, root, victim, kind, victims)
        served = _named_and_not_served(world, hurt)
        seen[f"{kind} of {victim.parts[0]}"] += 1
        seen["points restored right in spite of it"] += served
        for name in (*hurt, Path("verify-state"), Path("clock")):
            if (sound / name).exists():
                shutil.copy2(sound / name, root / name)
        for extra in ("damaged", "verified"):
            shutil.rmtree(root / extra, ignore_errors=True)
        shutil.copytree(sound / "verified", root / "verified")
    return {**dict(seen.most_common()), "detected and named": count, "served": 0}


def _of_no_consequence(name: Path) -> bool:
    """What is rewritten by each check, and holds nothing that a restore needs."""
    return name.parts[0] in ("clock", "verify-state", "verified")


def _hurt(chance: random.Random, root: Path, victim: Path, kind: str, victims: list[Path]) -> list[Path]:
    at = root / victim
    data = bytearray(at.read_bytes())
    if kind == "delete":
        at.unlink()
    elif kind == "truncate":
        at.write_bytes(data[: chance.randrange(len(data))])
    elif kind == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        at.write_bytes(data)
    else:
        alike = [name for name in victims if name.parts[0] == victim.parts[0] and name != victim]
        alike = [name for name in alike if (root / name).read_bytes() != data] or [victims[0]]
        other = chance.choice(alike)
        at.write_bytes((root / other).read_bytes())
        (root / other).write_bytes(data)
        return [victim, other]
    return [victim]


def _named_and_not_served(world: World, hurt: list[Path]) -> int:
    """Check that the damage is named; returns how many points still came back, all of them right."""
    try:
        repository = Repository.open(Target.open(world.url), KEY)
    except RepositoryError as problem:
        named = {str(problem), *getattr(problem, "findings", ())}
        assert any(str(name).split("/")[0] in text for name in hurt for text in named), f"{hurt} not named: {named}"
        return 0
    report = verify(repository, KEY, depth="all")
    named = {finding.object for finding in report.findings}
    assert all(str(name) in named for name in hurt), f"{hurt} not named in {named}"
    served = 0
    for ref, model in world.holds.items():
        out = world.folder / "out" / str(ref)
        try:
            restore(repository, ref, out)
        except RepositoryError:
            assert not out.exists(), "a restore that failed left its destination"
        else:
            _assert_equal(out, model)
            served += 1
        assert ref in report.bad or out.exists(), f"{ref} was called sound and does not restore"
    shutil.rmtree(world.folder / "out", ignore_errors=True)
    return served


def _assert_equal(restored: Path, model: Path) -> None:
    left, right = (
        {at.relative_to(folder): at.read_bytes() for at in folder.rglob("*") if at.is_file()}
        for folder in (restored, model)
    )
    assert left == right, f"{restored} differs from {model}"


def _opened(url: str) -> Repository:
    return Repository.open(Target.open(url), KEY)


def _model(folder: Path, number: int) -> Path:
    """0 is a base, 1 and 2 its fine-tunes, 3 something else, 4 an adapter."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True)
    base, own = np.random.default_rng(3 if number == 3 else 0), np.random.default_rng(number)
    noise = 2e-5 if number in (1, 2) else 0.0
    shape = (16, 256) if number == 4 else (256, 256)
    weights = {
        f"model.layers.{layer}.weight": (
            base.standard_normal(shape) * 0.02 + own.standard_normal(shape) * noise
        ).astype(np.float16)
        for layer in range(6)
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"number": number}))
    (folder / "notes.txt").write_bytes(own.bytes(600_000))
    return folder
