"""Where things lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "hack" / "locks"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmops"
IMAGES = CACHE / "images"
UV_CACHE = Path(os.environ.get("UV_CACHE_DIR") or CACHE.parent / "uv")
