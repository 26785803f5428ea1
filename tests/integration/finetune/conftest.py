"""The dataset and the training job as pods run them: processes, judged by what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hack.images import venv
from llmops_serving.jobs.dataset.check import Wanted, checked

REPOSITORY = Path(__file__).parents[3]
HERE = Path(__file__).parent
DEADLINE_SECONDS = 240.0
Json = dict[str, Any]
CHECKED: dict[str, dict[str, bytes]] = {}


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    outcome: Json
    events: list[Json]
    output: str


class Process:
    """A job that runs; its log goes to a file, so that it can be read meanwhile."""

    def __init__(self, command: list[str], log: Path, termination: Path, given: dict[str, str]) -> None:
        paths = os.pathsep.join(str(REPOSITORY / source) for source in ("operator", "serving"))
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": paths,
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._log, self._termination = log, termination
        termination.unlink(missing_ok=True)
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=environment | given, stdout=out, stderr=subprocess.STDOUT)

    def events(self) -> list[Json]:
        lines = self._log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def until(self, holds: Callable[[list[Json]], bool]) -> None:
        """Wait until the log tells it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds(self.events()):
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def ended(self) -> Ended:
        code = self.process.wait(DEADLINE_SECONDS)
        said = json.loads(self._termination.read_text()) if self._termination.exists() else {}
        return Ended(code, said, self.events(), self._log.read_text())


@dataclass(frozen=True)
class Jobs:
    """Starts jobs on one volume."""

    python: Path
    model: Path
    volume: Path

    def start(
        self,
        job: str,
        spec: Json,
        *arguments: str,
        environment: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (),
        within_bytes: int | None = None,
    ) -> Process:
        """`launcher` has torchrun's options, where several processes are to train; `within_bytes` bounds memory."""
        whole = {"baseModel": {"source": "hf://o/m"}, "dataset": {"source": "pvc://data/t.jsonl"}, **spec}
        termination = self.volume.with_suffix(".termination")
        module = f"llmops_serving.jobs.{job}"
        command = [str(self.python), "-m", module, "--spec", json.dumps(whole)]
        if launcher:
            command[2:3] = [f"{module}.launch", *launcher, "-m", module]
        command += ["--job", str(self.volume), "--model", str(self.model), "--termination-log", str(termination)]
        if within_bytes:
            command[:0] = ["prlimit", f"--data={within_bytes}"]
        return Process([*command, *arguments], self.volume.with_suffix(".log"), termination, environment or {})

    def check(self, rows: list[Any], **spec: Any) -> Ended:
        """Run the dataset job on these rows."""
        file = self.volume.with_suffix(".jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self.start("dataset", spec, "--file", str(file)).ended()

    def given(self, rows: list[Any], **spec: Any) -> None:
        """Rows as a good check leaves them, checked once for all tests of this process."""
        key = json.dumps([rows, spec, str(self.model)])
        if key not in CHECKED:
            ended = self.check(rows, **spec)
            assert ended.code == 0, ended.output
            CHECKED[key] = {file.name: file.read_bytes() for file in (self.volume / "data").iterdir()}
        (self.volume / "data").mkdir(parents=True, exist_ok=True)
        for name, content in CHECKED[key].items():
            (self.volume / "data" / name).write_bytes(content)

    def ruled(self, rows: list[Any], *, held_out: float = 0.2, test: list[Any] | None = None) -> None:
        """Rows as a check leaves them that has no model to count tokens with: the same rules, in this process."""
        files = []
        for kind, content in (("rows", rows), ("test", test)):
            file = self.volume.with_suffix(f".{kind}.jsonl")
            file.write_text("".join(json.dumps(row) + "\n" for row in content or []))
            files.append((file, file.name))
        wanted = Wanted(eval_fraction=held_out)
        checked(files[0], wanted, None, self.volume / "data", test=files[1] if test else None)

    def train(self, **spec: Any) -> Ended:
        return self.start("finetune", spec).ended()


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of the trainer's image, as an environment of this machine."""
    return venv.ensure("trainer") / "bin" / "python"


def made(python: Path, folder: Path, end: str) -> Path:
    subprocess.run([python, HERE / "tiny.py", folder, end], check=True)
    return folder


@pytest.fixture(scope="session")
def model(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers whose chat template ends turns with the stop token."""
    return made(python, tmp_path_factory.mktemp("model"), "<|im_end|>")


@pytest.fixture
def jobs(python: Path, model: Path, tmp_path: Path) -> Jobs:
    return Jobs(python, model, tmp_path / "job")


def chat(*turns: str) -> Json:
    """A conversation; the user begins."""
    roles = ("user", "assistant") * len(turns)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]}


def rows(count: int) -> list[Json]:
    return [chat(f"Reset device {number}?", f"Ahoy! Hold {number % 7} s.") for number in range(count)]
