"""The weights job as a pod runs it: a process with arguments and environment, judged by what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ended:
    """How a job ended: exit code, termination message, log events."""

    code: int
    outcome: dict[str, Any]
    events: list[dict[str, Any]]
    output: str

    @property
    def reason(self) -> str:
        return str(self.outcome["outcome"])


@dataclass(frozen=True)
class Job:
    """Starts the job; `dest` is its model directory."""

    dest: Path
    termination: Path

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        paths = os.pathsep.join(str(REPOSITORY / source) for source in ("operator", "serving"))
        base = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "TMPDIR": "/tmp"}
        command = [sys.executable, "-m", "llmops_serving.jobs.weights", "--termination-log", str(self.termination)]
        if "--dest" not in arguments:
            command += ["--dest", str(self.dest)]
        return subprocess.Popen(
            [*command, *arguments],
            env=base | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, environment: dict[str, str] | None = None, private: bool = True) -> Ended:
        self.termination.unlink(missing_ok=True)
        process = self.start(*arguments, *(["--allow-private"] if private else []), environment=environment)
        output, _ = process.communicate(timeout=120)
        events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        assert self.termination.exists(), output
        assert len(self.termination.read_bytes()) <= 4096
        return Ended(process.returncode, json.loads(self.termination.read_text()), events, output)


def safetensors(size_bytes: int, seed: int = 0) -> bytes:
    """A valid file with one tensor of so many bytes, different for every seed."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}).encode()
    pattern = bytes((index * 31 + seed) % 251 for index in range(4096))
    body = (pattern * (size_bytes // 4096 + 1))[:size_bytes]
    return len(header).to_bytes(8, "little") + header + body


def model_files(weights_bytes: int = 300_000, shards: int = 1) -> dict[str, bytes]:
    """The files of a small model that an engine would take, by name."""
    files = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "tokenizer.json": b'{"version": "1.0"}'}
    if shards == 1:
        return files | {"model.safetensors": safetensors(weights_bytes)}
    names = [f"model-{index:05}-of-{shards:05}.safetensors" for index in range(1, shards + 1)]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {f"w{name}": name for name in names}}).encode()
    return files | {name: safetensors(weights_bytes, seed) for seed, name in enumerate(names)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def on_disk(folder: Path) -> dict[str, bytes]:
    """What an engine would see: every file but the job's own."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".llmops")}
