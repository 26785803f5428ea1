"""One training run, told to stop and killed at random steps, beside the same run undisturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 900.0
EVERY = 5  # steps between checkpoints
INTERRUPTED = 43
Json = dict[str, Any]


@dataclass(frozen=True)
class Trainer:
    """What a run needs: the trainer's Python, the base model, the job's volume and the spec."""

    python: Path
    model: Path
    job: Path
    spec: Json

    def start(self) -> Running:
        termination = self.job.with_suffix(".termination")
        termination.unlink(missing_ok=True)
        command = [str(self.python), "-m", "llmops_serving.jobs.finetune", "--spec", json.dumps(self.spec)]
        command += ["--job", str(self.job), "--model", str(self.model), "--termination-log", str(termination)]
        paths = os.pathsep.join(str(ROOT / source) for source in ("operator", "serving"))
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE"}
        log = self.job.with_suffix(".log")
        with log.open("wb") as out:
            return Running(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT), log)


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[Json]:
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def learned(self) -> list[int]:
        """Steps whose loss was told, in order."""
        return [event["step"] for event in self.events() if event["event"] == "progress" and "loss" in event]

    def until(self, step: int) -> bool:
        """Wait until a step is learned; false when the run is over before."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while max(self.learned(), default=0) < step:
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.process.kill()
                raise TimeoutError(self.log.read_text())
            time.sleep(0.02)
        return True

    def ended(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)


def kills(calm: Trainer, disturbed: Trainer, *, told: int, killed: int, seed: int = 1) -> Json:
    """Disturb one run as often as asked; both must have the same checked rows and a checkpoint every `EVERY` steps.

    Returns: Steps lost by each kind, whether curve and digest are those of the calm run, and what was damaged.
    """
    calm_code = calm.start().ended()
    chance = random.Random(seed)
    plan = [signal.SIGTERM] * told + [signal.SIGKILL] * killed
    chance.shuffle(plan)
    lost: dict[str, list[int]] = {"SIGTERM": [], "SIGKILL": []}
    torn, codes, resumed = 0, [], 0
    for number, kind in enumerate(plan):
        run = disturbed.start()
        tears = kind == signal.SIGKILL and signal.SIGKILL not in plan[number + 1 :]
        # A killed run is let come past a checkpoint, of which one more is torn at last: two runs that end before the
        # next checkpoint are the end of a job, and rightly so.
        passed = 0 if kind == signal.SIGTERM else 2 * EVERY if tears else EVERY
        reach = passed + chance.randint(1, EVERY)
        if not run.until(resumed + reach):
            break
        run.process.send_signal(kind)
        codes.append(run.ended())
        last = max(run.learned())
        resumed = _newest(disturbed.job)
        lost[kind.name].append(last - resumed)
        if tears:
            _tear(disturbed.job)
            torn += 1
            resumed -= EVERY
    final = disturbed.start()
    code = final.ended()
    first = min(final.learned(), default=None)
    one, other = (_outcome(trainer) for trainer in (calm, disturbed))
    return {
        "told_to_stop": len(lost["SIGTERM"]),
        "killed": len(lost["SIGKILL"]),
        "steps_lost_when_told": lost["SIGTERM"],
        "steps_lost_when_killed": lost["SIGKILL"],
        "interval": EVERY,
        "interrupted_exit_codes": codes.count(INTERRUPTED),
        "torn_checkpoints_passed_over": torn,
        "last_run_began_at": first,
        "completed": calm_code == code == 0,
        "same_curve": one is not None and curve(calm, one) == curve(disturbed, other),
        "steps": len(curve(calm, one)) if one else 0,
        "same_digest": one is not None and other is not None and one["digest"] == other["digest"],
        "restarts": other["restarts"] if other else None,
    }


def copied(calm: Trainer, job: Path) -> Trainer:
    """The same run on another volume, with the same checked rows."""
    shutil.copytree(calm.job / "data", job / "data")
    return Trainer(calm.python, calm.model, job, calm.spec)


def curve(trainer: Trainer, outcome: Json | None) -> dict[int, float]:
    """Loss by step, from the report."""
    if outcome is None:
        return {}
    said = json.loads((trainer.job / outcome["uri"] / "report.json").read_text())
    return {entry["step"]: entry["loss"] for entry in said["history"] if "loss" in entry}


def _outcome(trainer: Trainer) -> Json | None:
    said: Json = json.loads(trainer.job.with_suffix(".termination").read_text())
    return said if said["outcome"] == "Completed" else None


def _newest(job: Path) -> int:
    return max((int(place.name.removeprefix("step-")) for place in (job / "checkpoints").glob("step-*")), default=0)


def _tear(job: Path) -> None:
    """As a power cut leaves a file: shorter than it was."""
    weights = max((job / "checkpoints").glob("step-*")) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
