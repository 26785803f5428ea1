"""The volume that engines read adapters from: each under the digest of its files, whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from llmops_serving.jobs.finetune.checkpoints import sealed, sha256_of, verified
from llmops_serving.jobs.weights.marker import Landed, total_digest

FILES = ("adapter_config.json", "adapter_model.safetensors")  # what PEFT writes, and what the digest is over


class Unusable(Exception):
    """The adapter's files are missing, damaged or others than were promised."""


class Store:
    """Adapters by digest, below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def at(self, digest: str) -> Path:
        """Where the adapter of this digest is, or would be."""
        return self._root / digest.removeprefix("sha256:")[:16]

    def kept(self, digest: str, origin: Path | None) -> Path:
        """The adapter's directory, copied from `origin` if it is not there yet.

        Two pods may copy at the same time: each into a directory of its own, and the last rename wins.

        Raises:
            Unusable: there is no whole copy of this digest.
        """
        place = self.at(digest)
        if verified(place):
            return place
        if origin is None:
            raise Unusable("The copy of its files is gone or damaged, and the FineTuneJob that made it is gone too.")
        if not verified(origin):
            raise Unusable("Its files are not as its FineTuneJob has written them.")
        found = total_digest(
            Landed(path=name, size_bytes=(origin / name).stat().st_size, sha256=sha256_of(origin / name))
            for name in FILES
            if (origin / name).is_file()
        )
        if not found.startswith(digest):  # which may be shortened
            raise Unusable(f"Its files have digest {found}, and {digest} was promised.")
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self._root))
        partial.chmod(0o755)
        shutil.copytree(origin, partial, dirs_exist_ok=True)
        return sealed(partial, place)
