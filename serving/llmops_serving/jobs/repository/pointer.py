"""Public weights that are pinned to a commit may be kept as a URL with digests instead of bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from llmops_serving.jobs.repository.errors import Unsafe

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
HUB: Final = re.compile(r"hf://([\w.-]+/[\w.-]+)")
LEAST_BYTES: Final = 1 << 20  # small files are kept whole: they cost nothing and make the point readable by itself


class PointerMode(StrEnum):
    """What `spec.backup.weights` says."""

    AUTO = "Auto"
    POINTER = "Pointer"
    FULL = "Full"


def pointers(
    mode: PointerMode, roots: Mapping[str, Path], source: str, revision: str, *, trained_here: bool
) -> dict[str, str]:
    """File path -> URL for the safetensors files of the model's root that are kept as pointers.

    Auto does so for a hub model at a commit that was not trained here. A pointer outlives its backup only as long as
    the hub keeps the commit: whoever cannot rely on that says Full.

    Raises:
        Unsafe: Pointer was asked for and the source is not pinned to a commit, or was trained here.
    """
    hub = HUB.fullmatch(source)
    pinned = hub is not None and COMMIT.fullmatch(revision) is not None and not trained_here
    if mode is PointerMode.POINTER and not pinned:
        raise Unsafe("weights: Pointer needs an hf:// source at a 40-digit commit that was not trained here")
    root = roots.get("")
    if mode is PointerMode.FULL or not pinned or root is None or hub is None:
        return {}
    files = (at for at in root.rglob("*.safetensors") if at.is_file() and at.stat().st_size >= LEAST_BYTES)
    paths = (at.relative_to(root).as_posix() for at in files)
    return {path: f"hf://{hub[1]}@{revision}/{path}" for path in paths}
