"""Models to back up: trained ones, given ones, or synthetic ones, which every report calls synthetic."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hack.images import venv
from hack.model.once import made

ROOT = Path(__file__).parents[2]

HIDDEN, INNER = 2048, 5632
NOISES = (1e-5, 2e-5, 2e-5, 4e-5, 8e-5)  # how far the five fine-tunes move; weights have a deviation of 0.02
ADAPTERS = 3
Change = Callable[[str, NDArray[np.float32], np.random.Generator], NDArray[np.float32]]


def synthetic(folder: Path, mebibytes: int) -> list[Path]:
    """A base, five full fine-tunes and three adapters in bf16; generated once, kept for later runs.

    The base is normal noise with a deviation of 0.02, as initialised transformers have; a fine-tune adds normal noise
    of 1e-5 to 8e-5 in float32 before rounding to bf16, as the float32 master weights of a trainer would, which leaves
    84 % to 40 % of the bf16 values as they were. The third moves the upper half of the layers only.
    """
    names = [
        "base",
        *(f"finetune-{number}" for number in range(5)),
        *(f"adapter-{number}" for number in range(ADAPTERS)),
    ]
    models = [folder / name for name in names]
    for number, model in enumerate(models):
        if (model / "config.json").exists():
            continue
        model.mkdir(parents=True, exist_ok=True)
        if model.name.startswith("adapter"):
            _write(model / "adapter_model.safetensors", _adapter(), _same, number)
        else:
            noise = NOISES[number - 1] if number else 0.0
            _write(model / "model.safetensors", _base(mebibytes), _moved(noise, upper_half=number == 3), number)
        (model / "tokenizer.json").write_text(json.dumps({"vocab": {f"token{word}": word for word in range(60_000)}}))
        (model / "config.json").write_text(json.dumps({"hidden_size": HIDDEN, "synthetic": True}))
    return models


def trained(folder: Path) -> list[Path]:
    """A base of 1.07 GB, five whole fine-tunes and three adapters, trained here by optimizer steps; once, and kept."""
    return given(made(folder, _train))


def _train(folder: Path) -> None:
    python = venv.ensure("trainer") / "bin" / "python"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [python, "-m", "bench.backup.training", folder], check=True, cwd=ROOT, env=environment, stdout=sys.stderr
    )


def given(folder: Path) -> list[Path]:
    """The models below `folder`, one directory each, `base` first and the rest by name."""
    found = sorted(at for at in folder.iterdir() if at.is_dir() and any(at.glob("*.safetensors")))
    return sorted(found, key=lambda at: at.name != "base")


def _base(mebibytes: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (16_000, HIDDEN)}
    total, layer = 16_000 * HIDDEN * 2, 0
    while total < mebibytes << 20:
        before = f"model.layers.{layer}"
        block = {
            **{f"{before}.self_attn.{part}_proj.weight": (HIDDEN, HIDDEN) for part in "qkvo"},
            **{f"{before}.mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")},
            f"{before}.mlp.down_proj.weight": (HIDDEN, INNER),
            f"{before}.input_layernorm.weight": (HIDDEN,),
        }
        shapes |= block
        total += sum(2 * int(np.prod(shape)) for shape in block.values())
        layer += 1
    return shapes


def _adapter() -> dict[str, tuple[int, ...]]:
    sides = {"lora_A.weight": (16, HIDDEN), "lora_B.weight": (HIDDEN, 16)}
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.{side}": shape
        for layer in range(16)
        for part in "qkvo"
        for side, shape in sides.items()
    }


def _same(_: str, weights: NDArray[np.float32], __: np.random.Generator) -> NDArray[np.float32]:
    return weights


def _moved(noise: float, *, upper_half: bool) -> Change:
    def change(name: str, weights: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        if not noise or (upper_half and layer < 6):
            return weights
        return weights + random.standard_normal(weights.size, dtype=np.float32) * np.float32(noise)

    return change


def _write(at: Path, shapes: dict[str, tuple[int, ...]], change: Change, seed: int) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with at.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for body in _bodies(shapes, change, seed, shared=at.name == "model.safetensors"):
            file.write(body.data)


def _bodies(
    shapes: dict[str, tuple[int, ...]], change: Change, seed: int, *, shared: bool
) -> Iterator[NDArray[np.uint16]]:
    base, own = np.random.default_rng(0 if shared else seed), np.random.default_rng(1000 + seed)
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        weights = base.standard_normal(size, dtype=np.float32) * np.float32(0.02)
        bits = change(name, weights, own).view(np.uint32)
        yield ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
