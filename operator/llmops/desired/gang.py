"""Several processes that train together: torchrun in one pod, or in the pods of an indexed Job that find each other.

The pods of a Job with an index have names of their own behind a headless Service; the first one is where the others
meet. They start together or wait for each other: with Kueue they are admitted together, too.
"""

from __future__ import annotations

from typing import Any

from llmops.api.fine_tune_job import FineTuneJob
from llmops.names import TRAINER_METRICS_PORT

Json = dict[str, Any]

PORT = 29500  # torchrun's
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
LAUNCHER = "llmops_serving.jobs.finetune.launch"


def size(job: FineTuneJob) -> int:
    """How many processes train: one for each accelerator of each pod."""
    return job.spec.nodes * job.spec.accelerator.count


def command(job: FineTuneJob, name: str, module: str) -> list[str]:
    """How a training pod starts: the module itself, or torchrun that starts it once for each accelerator.

    Args:
        job: The object as the user wrote it.
        name: Of the Job and of the Service in front of it.
        module: What every process runs.
    """
    if size(job) == 1:
        return ["python3", "-m", module]
    launch = ["python3", "-m", LAUNCHER, f"--nproc-per-node={job.spec.accelerator.count}"]
    if job.spec.nodes == 1:
        return [*launch, "--standalone", "-m", module]
    meet = [
        f"--nnodes={job.spec.nodes}",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={name}-0.{name}",
        f"--master-port={PORT}",
    ]
    return [*launch, *meet, "-m", module]


def indexed(job: FineTuneJob, manifest: Json) -> None:
    """Make a Job's manifest one of as many pods as spec.nodes says."""
    if job.spec.nodes == 1:
        return
    spec = manifest["spec"]
    # A lost pod takes the others with it: each loss is as many failures as there are pods.
    spec["backoffLimit"] *= job.spec.nodes
    spec |= {"completions": job.spec.nodes, "parallelism": job.spec.nodes, "completionMode": "Indexed"}
    spec["template"]["spec"]["subdomain"] = manifest["metadata"]["name"]


def queued(job: FineTuneJob, manifest: Json) -> None:
    """Hand the queue that the user put on the FineTuneJob to the Job, which is what Kueue admits."""
    if queue := job.metadata.labels.get(QUEUE_LABEL):
        manifest["metadata"]["labels"][QUEUE_LABEL] = queue


def service(job: FineTuneJob, metadata: Json, selector: dict[str, str]) -> list[Json]:
    """The headless Service by which the pods find the first of them, before any is ready."""
    if job.spec.nodes == 1:
        return []
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": dict(selector)}
    spec["ports"] = [{"name": "torchrun", "port": PORT, "targetPort": PORT, "protocol": "TCP"}]
    return [{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}]


def traffic(job: FineTuneJob, selector: dict[str, str], scrapers: list[Json]) -> Json:
    """Whom the pods may talk to: each other and the name server; alone, nobody. `scrapers` may read their metrics."""
    ports = [{"port": TRAINER_METRICS_PORT, "protocol": "TCP"}]
    watched: list[Json] = [{"from": scrapers, "ports": ports}] if scrapers else []
    if job.spec.nodes == 1:
        return {"ingress": watched} if watched else {}

    def peers() -> list[Json]:
        return [{"podSelector": {"matchLabels": dict(selector)}}]

    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return {"ingress": [{"from": peers()}, *watched], "egress": [{"to": peers()}, {"ports": names}]}
