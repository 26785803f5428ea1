"""What a job leaves behind: weights in safetensors under the digest of their content, and where they come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.adapters.proof import RECORD as PROBE
from llmops_serving.jobs.adapters.store import FILES as ADAPTER_FILES
from llmops_serving.jobs.finetune import plot, report
from llmops_serving.jobs.finetune.checkpoints import sealed, sha256_of, verified
from llmops_serving.jobs.weights.marker import Landed, total_digest

PROVENANCE, REPORT, REPORT_FOR_PEOPLE, CARD = "provenance.json", "report.json", "report.md", "README.md"
Json = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its directory's name below the job's volume, and the digest over its weights."""

    path: str
    digest: str
    facts: Json


class Artifacts:
    """The artifact of one job, below `root`/artifact."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / "artifact"

    def finished(self) -> Artifact | None:
        """The artifact, when an earlier run has left it and it is as it was written."""
        for place in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            if verified(place):
                said = json.loads((place / REPORT).read_text(encoding="utf-8"))
                return Artifact(place.relative_to(self._root).as_posix(), said["digest"], said["facts"])
        return None

    def leave(
        self, spec: FineTuneJobSpec, checkpoint: Path, model: Path, *, said: Json, probe: Json | None
    ) -> Artifact:
        """Write the artifact of a checkpoint: whole or not there.

        `said` is the report, whose facts it takes over; `probe` is what an engine must answer before it may serve an
        adapter.
        """
        partial = self._root / "artifact.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if spec.method == "Full":
            _whole_model(checkpoint, model, partial)
        else:
            _adapter(spec, checkpoint, partial)
        digest = _digest(partial)
        facts = dict(said["facts"])
        record = {**said["provenance"], "digest": digest, "step": facts["step"], "metrics": facts["metrics"]}
        _json(partial / PROVENANCE, record)
        _json(partial / REPORT, {**said, "digest": digest})
        (partial / REPORT_FOR_PEOPLE).write_text(report.as_markdown(said, digest), encoding="utf-8")
        plot.loss_curve(said["history"], f"{spec.method} of {_base(spec)}", partial / report.CURVE)
        if probe is not None:
            _json(partial / PROBE, probe)
        (partial / CARD).write_text(_card(spec, facts, digest), encoding="utf-8")
        place = sealed(partial, self._folder / digest.removeprefix("sha256:")[:16])
        return Artifact(place.relative_to(self._root).as_posix(), digest, facts)


def _adapter(spec: FineTuneJobSpec, checkpoint: Path, folder: Path) -> None:
    """The adapter's two files. Its configuration names the model by its source: a path of this pod means nothing."""
    config, weights = (checkpoint / name for name in ADAPTER_FILES)
    said = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(said.get("target_modules"), list):
        said["target_modules"] = sorted(said["target_modules"])  # a set, which every process orders differently
    said["base_model_name_or_path"] = _base(spec)
    _json(folder / config.name, said)
    shutil.copyfile(weights, folder / weights.name)


def _whole_model(checkpoint: Path, model: Path, folder: Path) -> None:
    """The model in the number format it came in, with its tokenizer."""
    kept = json.loads((model / "config.json").read_text(encoding="utf-8"))
    kind = getattr(torch, str(kept.get("dtype") or kept.get("torch_dtype") or "float32"))
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=kind, local_files_only=True).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model, local_files_only=True).save_pretrained(folder)


def _digest(folder: Path) -> str:
    """Over every file's name and hash, as the weights job takes it of a model."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return total_digest(
        Landed(path=path.relative_to(folder).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in files
    )


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _base(spec: FineTuneJobSpec) -> str:
    return spec.base_model.source or f"deployment://{spec.base_model.deployment}"


def _card(spec: FineTuneJobSpec, facts: Json, digest: str) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts["metrics"].items())
    return (
        f"# {spec.method} of {_base(spec)}\n\nTrained on {spec.dataset.source}; digest {digest}.\n"
        f"`{REPORT_FOR_PEOPLE}` says how it went, `{PROVENANCE}` has every input.\n\n"
        f"| metric | value |\n|---|---|\n{rows}\n"
    )
