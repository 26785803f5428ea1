"""Where the small model lies: a folder whose name changes with everything that decides its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hack.images.places import CACHE, LOCKS

INGREDIENTS = (Path(__file__).with_name("corpus.py"), Path(__file__).with_name("train.py"), LOCKS / "engine.txt")


def path() -> Path:
    """The model's folder, made or not yet made; complete as soon as it exists."""
    recipe = hashlib.sha256(b"".join(ingredient.read_bytes() for ingredient in INGREDIENTS))
    return CACHE / "models" / f"tiny-llama-{recipe.hexdigest()[:12]}"
