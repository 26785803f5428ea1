"""`pvc://`, `oci://`: weights that a volume brings; they are proven where they are, nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights import content, names
from llmops_serving.jobs.weights.directory import sha256_of
from llmops_serving.jobs.weights.download import Order, Progress, Tell
from llmops_serving.jobs.weights.marker import Intent, Landed, Marker, marker


def verified(order: Order, root: Path, tell: Tell) -> Marker:
    """Check and hash the model below `root`. The revision is the digest of its content, which is what a volume has."""
    if not root.is_dir():
        raise Failure(Reason.MODEL_NOT_FOUND, f"{order.source}: there is no such directory in the volume.")
    paths = sorted(_files(root))
    names.checked(paths)
    wanted = names.selected(paths, allow_pickle=order.allow_pickle, trust_remote_code=order.trust_remote_code)
    sizes = {path: (root / path).stat().st_size for path in wanted}
    tell("resolved", files=len(wanted), bytes=sum(sizes.values()))
    progress = Progress(sum(sizes.values()), tell)

    def proven(path: str) -> Landed:
        content.check(path, root / path, trust_remote_code=order.trust_remote_code, listed=frozenset(wanted))
        landed = Landed(path=path, size_bytes=sizes[path], sha256=sha256_of(root / path))
        progress.add(sizes[path])
        return landed

    with ThreadPoolExecutor(order.parallel) as pool:
        landed = list(pool.map(proven, wanted))
    whole = marker(Intent(source=order.source, requested=order.revision, revision=""), landed)
    return whole.model_copy(update={"revision": whole.digest})


def _files(root: Path) -> Iterator[str]:
    top = root.resolve()
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            place = Path(folder, name)
            if place.is_symlink() and not place.resolve().is_relative_to(top):
                raise Failure(Reason.UNSAFE_MODEL, f"{name[:60]!a} is a symbolic link out of the model's directory.")
        folders[:] = [name for name in folders if name not in (names.WORK, ".git", ".cache", "lost+found")]
        for name in files:
            place = Path(folder, name)
            if not place.is_file():
                raise Failure(Reason.UNSAFE_MODEL, f"{name[:60]!a} is not a regular file.")
            if name != names.MARKER:
                yield place.relative_to(root).as_posix()
