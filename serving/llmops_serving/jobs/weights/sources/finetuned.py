"""`finetune://`: the whole model that a FineTuneJob left on its volume, which is mounted beside the model's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights.sources.source import Body, Expected, Listing, RemoteFile

MANIFEST, REPORT = "manifest.json", "report.json"  # as the trainer leaves them
CHUNK_BYTES = 1 << 20


class FineTunedSource:
    """The artifact in `folder`. Its revision is the digest that the job's status promises."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest

    def listing(self, pinned: str | None) -> Listing:  # noqa: ARG002 - an artifact never changes
        try:
            manifest: dict[str, str] = json.loads((self._folder / MANIFEST).read_text(encoding="utf-8"))
            report = json.loads((self._folder / REPORT).read_text(encoding="utf-8"))
            files = tuple(self._file(path, sha256) for path, sha256 in sorted(manifest.items()))
        except (OSError, ValueError, AttributeError) as error:
            raise Failure(Reason.MODEL_NOT_FOUND, "The FineTuneJob's volume has no whole artifact there.") from error
        if report.get("digest") != self._digest:
            message = f"The artifact's digest is {report.get('digest')}, and the FineTuneJob promised {self._digest}."
            raise Failure(Reason.CHECKSUM_MISMATCH, message)
        return Listing(self._digest, files)

    @contextmanager
    def open(self, file: RemoteFile, offset: int) -> Iterator[Body]:
        with (self._folder / file.path).open("rb") as stream:
            stream.seek(offset)
            yield Body(offset, iter(lambda: stream.read(CHUNK_BYTES), b""))

    def vouches(self, file: RemoteFile) -> bool:  # noqa: ARG002 - the trainer has hashed what it wrote
        return True

    def _file(self, path: str, sha256: str) -> RemoteFile:
        size = (self._folder / path).stat().st_size
        return RemoteFile(path=path, size_bytes=size, identity=sha256, expected=Expected("sha256", sha256))
