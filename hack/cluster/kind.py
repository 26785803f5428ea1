"""The cluster in a Docker container, by kind."""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hack.cluster import tools
from hack.cluster.progress import say, step

CLUSTER = "llmops"
CONFIG = Path(__file__).parents[2] / "kind-config.yaml"


class Kind:
    """One node in one container; kind itself is found on PATH or built."""

    name = "kind"

    def __init__(self, state: Path) -> None:
        self.kubeconfig = state / "kubeconfig"

    @cache  # noqa: B019 (there is one of these, for as long as the program runs)
    def missing(self) -> list[str]:
        lacking = []
        if shutil.which("docker") is None:
            lacking.append("docker on PATH")
        elif subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
            lacking.append("a Docker daemon that answers `docker info`")
        if shutil.which("kind") is None and shutil.which("go") is None:
            lacking.append("kind on PATH, or Go to build it")
        return lacking

    def up(self) -> Path:
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if self.running():
            self._kind("export", "kubeconfig", "--name", CLUSTER, "--kubeconfig", self.kubeconfig)
        else:
            with step("kind to create the cluster, its node image pulled the first time"):
                where = ("--config", CONFIG, "--kubeconfig", self.kubeconfig)
                self._kind("create", "cluster", "--name", CLUSTER, *where, "--wait", "180s")
        say(f"the cluster is up: KUBECONFIG={self.kubeconfig}")
        return self.kubeconfig

    def down(self, *, purge: bool = False) -> None:  # noqa: ARG002 (kind keeps nothing that could be purged)
        self._kind("delete", "cluster", "--name", CLUSTER, "--kubeconfig", self.kubeconfig)
        self.kubeconfig.unlink(missing_ok=True)
        say("the cluster is down")

    def running(self) -> bool:
        return CLUSTER in self._kind("get", "clusters").splitlines()

    def load_images(self, archives: Sequence[Path]) -> None:
        for archive in archives:
            with step(f"kind to load {archive.name}"):
                self._kind("load", "image-archive", archive, "--name", CLUSTER)

    def _kind(self, *arguments: str | Path) -> str:
        command = [shutil.which("kind") or tools.program("kind", "kind"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kind {' '.join(map(str, arguments))}:\n{done.stderr.strip()}")
        return done.stdout
