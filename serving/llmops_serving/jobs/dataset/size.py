"""How large a model is, read from its configuration and the headers of its weights: no tensor is loaded."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

HEADER_LIMIT = 100 << 20  # bytes, as the safetensors library has it


def of(model: Path) -> dict[str, int]:
    """`parameters`, `hidden_size`, `layers` and `vocabulary_size`; what cannot be read is left out."""
    found = {"parameters": sum(_weights(file) for file in sorted(model.glob("*.safetensors")))}
    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    text = config.get("text_config") or config
    keys = {"hidden_size": "hidden_size", "layers": "num_hidden_layers", "vocabulary_size": "vocab_size"}
    return found | {name: text[key] for name, key in keys.items() if isinstance(text.get(key), int)}


def _weights(file: Path) -> int:
    """How many numbers a safetensors file holds: its header is JSON after its own length."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > HEADER_LIMIT:
            return 0
        header = json.loads(stream.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
