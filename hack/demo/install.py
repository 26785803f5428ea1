"""A cluster with the platform installed: what the demo shows and what the end-to-end tests test."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import tools
from hack.cluster.progress import environment, step
from hack.cluster.provider import Provider, choose, providers
from hack.images.places import CACHE
from hack.locked import locked

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "llmops-system"
HUB = "llmops-demo"
MONITORING = "monitoring"  # the namespace that the chart lets scrape
RELEASE = "llmops"
IMAGES = ("operator", "serving", "engine-cpu", "demo-hub")
# vLLM on CPUs computes in a process of its own, bound to cores, that imports all of it once more: half as long again
# until a model serves, for nothing where the model is small and one core is enough for it.
ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Platform:
    """An installed platform and how to talk to its cluster."""

    provider: Provider
    images: dict[str, str]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` says why.
        """
        return run(_kubectl(), *arguments, stdin=stdin, kubeconfig=self.provider.kubeconfig)


def installed(
    profiles: dict[str, object] | None = None, *, more: tuple[str, ...] = (), prometheus: str = ""
) -> Platform:
    """Bring up whatever is missing, in the order it is needed; what is there already costs a look.

    `profiles` are accelerator profiles beside the chart's own; `IMAGE` in one stands for the CPU engine's image.
    `more` are images that the demo does without: `trainer`, `demo-model`, `demo-s3`, `demo-monitoring`. `prometheus` is
    the address of one, there or not: it is asked only about deployments that watch for drift.
    """
    provider = choose(None, providers())
    images = _built(more)
    platform = Platform(provider, {name: reference for name, (reference, _) in images.items()})
    with locked(CACHE / "installation.lock", waiting_for="another installation to end"):
        with step("the cluster boots"):
            provider.up()
        with step("the nodes get the images"):
            provider.load_images([archive for _, archive in images.values()])
        with step("the demo's model hub starts"):
            _install_hub(platform)
        if "demo-s3" in platform.images:
            with step("the demo's S3 server starts"):
                _install_s3(platform)
        with step("the chart is installed"):
            _install_chart(platform, values(platform.images, profiles or {}, prometheus))
    return platform


def run(*command: str | Path, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
    """Run a program to its end; what it printed."""
    variables = {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})}
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, check=False, env=variables
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
    return done.stdout


def _built(more: tuple[str, ...]) -> dict[str, tuple[str, Path]]:
    """Reference and archive of every image, by its short name."""
    with step("the images are built (the first time takes some minutes: vLLM and its libraries are fetched)"):
        listed = subprocess.run(
            [sys.executable, "-m", "hack.images", "build", *IMAGES, *more],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {name.removeprefix("llmops-"): (reference, Path(archive)) for name, reference, archive in rows}


def _install_hub(platform: Platform) -> None:
    manifest = (ROOT / "hack" / "demo" / "hub.yaml").read_text().replace("IMAGE", platform.images["demo-hub"])
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HUB}}
    platform.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    platform.kubectl("apply", "-f", "-", stdin=manifest)
    platform.kubectl("rollout", "status", "deployment/demo-hub", "-n", HUB, "--timeout=120s")


def _install_s3(platform: Platform) -> None:
    manifest = (ROOT / "hack" / "demo" / "s3.yaml").read_text().replace("IMAGE", platform.images["demo-s3"])
    platform.kubectl("apply", "-f", "-", stdin=manifest)
    platform.kubectl("rollout", "status", "deployment/demo-s3", "-n", HUB, "--timeout=120s")


def values(images: dict[str, str], profiles: dict[str, object], prometheus: str) -> dict[str, object]:
    """The chart's values for locally built images, the demo's hub and a Prometheus (empty: none)."""
    more = json.loads(json.dumps(profiles).replace("IMAGE", images["engine-cpu"]))
    operator, serving = (_split(images[name]) for name in ("operator", "serving"))
    trainer = images.get("trainer")
    # Small requests: the node may have two cores, for engines and jobs that are all equal.
    requests = {"requests": {"cpu": "100m"}}
    cpu = {"image": images["engine-cpu"], "env": ONE_PROCESS, "pricePerHour": "0.36", "resources": requests}
    return {
        **({"trainer": {"image": _split(trainer)}} if trainer else {}),
        "operator": {"image": operator},
        "serving": {"image": serving},
        "profiles": {"cpu": cpu, **more},
        "sources": {"huggingFaceEndpoint": f"http://demo-hub.{HUB}.svc", "allowPrivateNetworks": True},
        "metrics": {"prometheus": {"url": prometheus}},
    }


def _split(reference: str) -> dict[str, str]:
    return dict(zip(("repository", "tag"), reference.rsplit(":", 1), strict=True))


def _install_chart(platform: Platform, wanted: dict[str, object]) -> None:
    """helm upgrade --install, unless exactly this was installed before and still stands."""
    mark = _fingerprint(wanted)
    if _installed_mark(platform) == mark:
        return
    run(
        tools.program("helm", "helm"),
        *("upgrade", "--install", RELEASE, str(ROOT / "helm" / "llmops"), "--namespace", SYSTEM, "--create-namespace"),
        *("--values", "-", "--wait", "--timeout", "180s", "--description", mark, "--server-side=true"),
        stdin=json.dumps(wanted),
        kubeconfig=platform.provider.kubeconfig,
    )


def _installed_mark(platform: Platform) -> str:
    command = (tools.program("helm", "helm"), "status", RELEASE, "--namespace", SYSTEM, "--output", "json")
    try:
        info = json.loads(run(*command, kubeconfig=platform.provider.kubeconfig))["info"]
        return str(info["description"]) if info["status"] == "deployed" else ""
    except subprocess.CalledProcessError:
        return ""


def _fingerprint(wanted: dict[str, object]) -> str:
    content = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    for file in sorted((ROOT / "helm" / "llmops").rglob("*")):
        if file.is_file():
            content.update(file.read_bytes())
    return f"content {content.hexdigest()[:16]}"


def _kubectl() -> Path:
    return tools.program("kubernetes", "kubectl")
