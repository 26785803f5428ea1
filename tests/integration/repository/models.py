"""Small models and repositories for the tests of the weights repository."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from llmops_serving.jobs.repository.format import PointRef, point_id
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.target import Target

KEY = b"a key of more than sixteen bytes"
DAY = datetime(2026, 11, 1, 3, tzinfo=UTC)


def ref(name: str = "support", day: int = 0) -> PointRef:
    return PointRef(name, point_id(DAY + timedelta(days=day)))


def repository(folder: Path, *, key: bytes = KEY, grace_seconds: float = 3600) -> Repository:
    return Repository.open_or_create(Target.open(f"file://{folder}"), key, grace_seconds=grace_seconds)


def model(folder: Path, *, noise: float = 0.0, seed: int = 0, layers: int = 4) -> Path:
    """Float16 weights; with `noise`, a fine-tune of the one with the same seed."""
    folder.mkdir(parents=True)
    base, own = np.random.default_rng(seed), np.random.default_rng(1000 + seed)
    weights = {
        f"model.layers.{layer}.mlp.weight": (
            base.standard_normal((256, 1024)) * 0.02 + own.standard_normal((256, 1024)) * noise
        ).astype(np.float16)
        for layer in range(layers)
    }
    weights["model.embed_tokens.weight"] = (base.standard_normal((2048, 256)) * 0.02).astype(np.float16)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(f'{{"hidden_size": 256, "vocab_size": 2048, "num_hidden_layers": {layers}}}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {at.relative_to(folder).as_posix(): at.read_bytes() for at in folder.rglob("*") if at.is_file()}


def blob_files(root: Path) -> list[Path]:
    return sorted(at for at in (root / "blobs").rglob("*") if at.is_file())
