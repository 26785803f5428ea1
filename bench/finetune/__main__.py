"""`python -m bench.finetune [speed|kills|pods|profile]`: figures beside transformers and TRL, and what kills cost."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.finetune import data, kills, pods, speed
from hack.demo.install import installed
from hack.images import venv
from hack.images.places import CACHE, ROOT
from hack.model import place
from hack.model.__main__ import build
from hack.model.once import made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.finetune", description=__doc__)
    parser.add_argument("verb", nargs="?", default="speed", choices=["speed", "kills", "pods", "profile"])
    parser.add_argument(
        "--model",
        type=Path,
        help="a folder (default: 24 million parameters; of kills, the small one)",
    )
    parser.add_argument("--rows", type=int, default=96, help="rows of an epoch, of speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--told", type=int, default=10, help="how often SIGTERM is sent, of kills")
    parser.add_argument("--killed", type=int, default=10, help="how often SIGKILL is sent")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.verb == "pods":
        print(json.dumps(pods.Cluster(installed(more=("trainer",))).figures(), indent=1))
        return
    python = venv.ensure("trainer") / "bin" / "python"
    if options.model is None:
        build()
        options.model = place.path() if options.verb == "kills" else _larger(python)
    scratch = Path(tempfile.mkdtemp(prefix="bench-finetune-"))
    try:
        print(json.dumps(_figures(options, python, scratch), indent=1))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _larger(python: Path) -> Path:
    def make(folder: Path) -> None:
        command = [str(python), "-m", "bench.finetune.model", str(place.path()), str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)

    return made(CACHE / "bench" / "finetune" / "llama-24m", make)


def _figures(options: argparse.Namespace, python: Path, scratch: Path) -> object:
    if options.verb == "profile":
        (scratch / "data").mkdir()
        data.write(scratch / "data" / "train.jsonl", 64)
        return {leg: speed.profile(python, options.model, scratch, leg).splitlines() for leg in speed.LEGS}
    job = scratch / "job"
    (job / "data").mkdir(parents=True)
    data.write(job / "data" / "train.jsonl", 160)
    data.write(job / "data" / "eval.jsonl", 8, seed=2)
    steps = 30 + options.told * kills.EVERY + options.killed * 2 * kills.EVERY
    numbers = {"max_steps": steps, "learning_rate": "1e-3", "per_device_train_batch_size": 2, "logging_steps": 1}
    spec = {
        "baseModel": {"source": "hf://o/m"},
        "dataset": {"source": "pvc://d/t.jsonl"},
        "hyperparameters": numbers,
        "checkpoint": {"everySteps": kills.EVERY},
        "evaluation": {"maxRows": 4, "maxNewTokens": 16},
    }
    calm = kills.Trainer(python, options.model, job, spec)
    if options.verb == "kills":
        disturbed = kills.copied(calm, scratch / "disturbed")
        return kills.kills(calm, disturbed, told=options.told, killed=options.killed, seed=options.seed)
    figures = speed.speed(python, options.model, scratch / "speed", rows=options.rows, rounds=options.rounds)
    spec["hyperparameters"] = numbers | {"max_steps": 50}
    return {**figures, "overhead": speed.overhead(kills.Trainer(python, options.model, job, spec))}


if __name__ == "__main__":
    main()
