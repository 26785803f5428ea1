"""Any source, with the egress proxy's verdict as the reason where the proxy said no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmops_serving.jobs.egress import Egress
from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights.sources.source import Body, Listing, RemoteFile, Source


class Guarded:
    """Clients report a refused proxy connection as an outage or a 403; the proxy remembers what it was."""

    def __init__(self, source: Source, egress: Egress) -> None:
        self._source, self._egress = source, egress

    def listing(self, pinned: str | None) -> Listing:
        with self._verdict():
            return self._source.listing(pinned)

    @contextmanager
    def open(self, file: RemoteFile, offset: int) -> Iterator[Body]:
        with self._verdict(), self._source.open(file, offset) as body:
            yield body

    def vouches(self, file: RemoteFile) -> bool:
        with self._verdict():
            return self._source.vouches(file)

    @contextmanager
    def _verdict(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            if not self._egress.refused:
                raise
            refused = self._egress.refused[0]
            remedy = "" if "metadata" in refused else " An administrator may set sources.allowPrivateNetworks."
            raise Failure(Reason.SOURCE_FORBIDDEN, f"{refused}; no source may be there.{remedy}") from failure
