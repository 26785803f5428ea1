"""The cluster that the current kubeconfig points at. Nothing is installed into it unasked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.cluster.progress import say


class Existing:
    """Somebody's cluster: it is used, never made or removed."""

    name = "existing"

    def __init__(self, *, assume_yes: bool) -> None:
        self._assume_yes = assume_yes

    @property
    def kubeconfig(self) -> Path:
        first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
        return Path(first) if first else Path.home() / ".kube" / "config"

    def missing(self) -> list[str]:
        lacking = []
        if not self.kubeconfig.exists():
            lacking.append(f"a kubeconfig ($KUBECONFIG or {self.kubeconfig})")
        if shutil.which("kubectl") is None:
            lacking.append("kubectl on PATH")
        return lacking

    def up(self) -> Path:
        """Ask whether this is the cluster that is meant.

        Raises:
            RuntimeError: The answer was no, or there was nobody to ask.
        """
        context, server = self._context()
        if not self.running():
            raise RuntimeError(f"the cluster of context {context!r} ({server}) does not answer")
        if not self._assume_yes:
            if not sys.stdin.isatty():
                raise RuntimeError(f"say --yes to install into the cluster of context {context!r} ({server})")
            if input(f"Install into the cluster of context {context!r} ({server})? [y/N] ").strip().lower() != "y":
                raise RuntimeError("nothing was installed")
        return self.kubeconfig

    def down(self, *, purge: bool = False) -> None:  # noqa: ARG002 (it is not ours)
        say("the cluster is not ours: it stays as it is")

    def running(self) -> bool:
        return self._kubectl("get", "--raw", "/readyz").returncode == 0

    def load_images(self, archives: Sequence[Path]) -> None:
        """Its nodes pull from a registry: there is nothing to load into.

        Raises:
            RuntimeError: Always, with what to do instead.
        """
        names = ", ".join(archive.name for archive in archives)
        raise RuntimeError(
            f"images cannot be loaded into a cluster that is not ours ({names}): push them to a registry its nodes "
            "can pull from, and set that registry in the chart's values"
        )

    def _context(self) -> tuple[str, str]:
        path = "{.current-context} {.clusters[0].cluster.server}"
        done = self._kubectl("config", "view", "--minify", "-o", f"jsonpath={path}")
        if done.returncode:
            raise RuntimeError(f"{self.kubeconfig} has no current context: {done.stderr.strip()}")
        context, _, server = done.stdout.rpartition(" ")
        return context, server

    def _kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "--request-timeout=10s", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)
