"""The ways to a cluster: kind, one built from source, or one that exists already."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hack.cluster import tools
from hack.cluster.existing import Existing
from hack.cluster.fromsource import FromSource
from hack.cluster.kind import Kind

VARIABLE = "LLMOPS_CLUSTER"
STATE_VARIABLE = "LLMOPS_CLUSTER_STATE"


class Provider(Protocol):
    """A cluster to develop and test on."""

    name: str

    @property
    def kubeconfig(self) -> Path:
        """Where its kubeconfig is once it is up."""

    def missing(self) -> list[str]:
        """What this machine lacks for it; empty when it can be used."""

    def up(self) -> Path:
        """Bring it up, or find it up; the kubeconfig."""

    def down(self, *, purge: bool = False) -> None:
        """Take it down; harmless when it is."""

    def running(self) -> bool:
        """Whether it is up."""

    def load_images(self, archives: Sequence[Path]) -> None:
        """Make the images of docker or OCI archives known to its nodes."""


def state_directory() -> Path:
    """Where a cluster keeps its kubeconfig, logs and data, and the images it has loaded: in the cache, unless told."""
    return Path(os.environ.get(STATE_VARIABLE) or tools.cache() / "cluster").absolute()


def providers(*, assume_yes: bool = False) -> list[Provider]:
    """All of them, in the order in which ``auto`` prefers them."""
    state = state_directory()
    return [Kind(state), FromSource(state), Existing(assume_yes=assume_yes)]


def choose(name: str | None, candidates: Sequence[Provider]) -> Provider:
    """The provider of that name, or with ``auto`` (also the environment's, also none) the first that fits.

    Raises:
        RuntimeError: None fits; the message says what each one lacks.
    """
    name = name or os.environ.get(VARIABLE) or "auto"
    wanted = [candidate for candidate in candidates if name in ("auto", candidate.name)]
    if not wanted:
        known = ", ".join(["auto", *(candidate.name for candidate in candidates)])
        raise RuntimeError(f"there is no cluster provider {name!r}; there are: {known}")
    lacking = {candidate.name: candidate.missing() for candidate in wanted}
    for candidate in wanted:
        if not lacking[candidate.name]:
            return candidate
    reasons = "".join(f"\n  {which}: needs {', and '.join(what)}" for which, what in lacking.items())
    raise RuntimeError(f"no cluster can be had on this machine:{reasons}")
