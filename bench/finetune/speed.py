"""Trained tokens per second beside transformers' Trainer and TRL's packing, at an equal loss curve."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.finetune import data
from bench.finetune.kills import ROOT, Trainer

# Threads that wait for work leave the processor to whoever has some: else a busy machine measures their waiting.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
LEGS = ("ours", "hf", "trl")
Json = dict[str, Any]


def speed(python: Path, model: Path, scratch: Path, *, rows: int, rounds: int) -> Json:
    """Each leg trains one epoch of the same rows, in turns; the figures are medians over the rounds.

    Ratios are taken within a round, whose legs ran next to each other: what else runs comes and goes.

    Seconds of CPU are compared, too: on a machine that has other work they mean more than those of the clock.
    """
    folder = scratch / "data"
    folder.mkdir(parents=True, exist_ok=True)
    data.write(folder / "train.jsonl", rows)
    data.write(folder / "eval.jsonl", 24, seed=2)
    found: dict[str, list[Json]] = {leg: [] for leg in LEGS}
    for number in range(rounds):
        for leg in LEGS[number % len(LEGS) :] + LEGS[: number % len(LEGS)]:
            made = _leg(python, model, scratch, leg, steps=rows // 8)
            found[leg].append(made)
            speeds = f"{made['tokens'] / made['wall_seconds']:.0f} by clock, {made['tokens'] / made['cpu_seconds']:.0f}"
            print(f"{leg}, tokens per second: {speeds} of processor", file=sys.stderr, flush=True)
    legs = {leg: _summary(results) for leg, results in found.items()}
    apart = max(abs(a - b) for a, b in zip(legs["ours"]["losses"], legs["hf"]["losses"], strict=True))
    return {
        "model": model.name,
        "rows": rows,
        "legs": {name: {key: value for key, value in leg.items() if key != "losses"} for name, leg in legs.items()},
        "times_hf": _ratio(found["ours"], found["hf"]),
        "times_trl_packing": _ratio(found["ours"], found["trl"]),
        "losses_apart_from_hf_at_most": round(apart, 5),
        "held_out_loss": {name: round(leg["held_out_loss"], 4) for name, leg in legs.items()},
        "goals": {"times_hf": 3.0, "times_trl_packing": 1.2},
    }


def overhead(trainer: Trainer) -> Json:
    """Seconds of a whole job, and of them those outside the training loop."""
    began = time.perf_counter()
    run = trainer.start()
    code = run.ended()
    whole = time.perf_counter() - began
    events = run.events()
    loop = _seconds(events, "training", "checkpoint")
    judged = _seconds(events, "evaluating", "ended")
    return {
        "completed": code == 0,
        "job_seconds": round(whole, 1),
        "loop_seconds": round(loop, 1),
        "evaluation_seconds": round(judged, 1),
        "outside_seconds": round(whole - loop - judged, 1),
        "goal_outside_seconds": 10.0,
    }


def profile(python: Path, model: Path, scratch: Path, leg: str) -> str:
    """Where the time of one leg goes, as torch's profiler prints it."""
    return _run(python, model, scratch, leg, "--steps", "4", "--profile")


def _seconds(events: list[Json], first: str, last: str) -> float:
    from datetime import datetime  # noqa: PLC0415

    moments = [(event["event"], datetime.fromisoformat(event["timestamp"])) for event in events]
    begin = next(moment for name, moment in moments if name == first)
    end = next(moment for name, moment in reversed(moments) if name == last)
    return (end - begin).total_seconds()


def _leg(python: Path, model: Path, scratch: Path, leg: str, *, steps: int) -> Json:
    lines = _run(python, model, scratch, leg, "--steps", str(steps)).splitlines()
    found: Json = json.loads(next(line for line in reversed(lines) if line.startswith('{"leg"')))
    return found


def _run(python: Path, model: Path, scratch: Path, leg: str, *arguments: str) -> str:
    work = scratch / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    paths = os.pathsep.join(str(ROOT / source) for source in ("operator", "serving", "."))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": paths,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work),
    } | PASSIVE
    command = [str(python), "-m", "bench.finetune.leg", leg, "--model", str(model)]
    command += ["--data", str(scratch / "data"), "--work", str(work), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def _speed(result: Json, seconds: str) -> float:
    return float(result["tokens"] / result[seconds])


def _summary(results: list[Json]) -> Json:
    return {
        "bf16": results[0]["bf16"],
        "tokens": results[0]["tokens"],
        "tokens_per_second": round(statistics.median(_speed(one, "wall_seconds") for one in results)),
        "tokens_per_cpu_second": round(statistics.median(_speed(one, "cpu_seconds") for one in results)),
        "losses": results[0]["losses"],
        "held_out_loss": results[0]["held_out_loss"],
    }


def _ratio(ours: list[Json], others: list[Json]) -> dict[str, float]:
    rounds = list(zip(ours, others, strict=True))
    return {
        name: round(statistics.median(_speed(one, seconds) / _speed(other, seconds) for one, other in rounds), 2)
        for name, seconds in (("by_clock", "wall_seconds"), ("by_cpu", "cpu_seconds"))
    }
