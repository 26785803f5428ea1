"""`llmops doctor`: is everything there that a deployment needs?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Literal

import typer

from llmops import names
from llmops.cli import gateway
from llmops.cli.cluster import NO, Cluster, Context, Json, Refused
from llmops.cli.output import Form, Output, now, print_json
from llmops.shell import resources
from llmops.shell.resources import Resource

CRD = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
STORAGE_CLASS = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses")
POLICY = Resource("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
OURS = (resources.LLM_DEPLOYMENT, resources.FINE_TUNE_JOB, resources.MODEL_BACKUP)
SHOWN = 5
OPERATOR = "app.kubernetes.io/name=llmops,app.kubernetes.io/component=operator"
ACCELERATORS = ("nvidia.com/", "amd.com/", "gpu.intel.com/", "habana.ai/", "google.com/tpu", "aws.amazon.com/neuron")
OLDEST_KUBERNETES = (1, 30)  # CEL's fieldPath and ValidatingAdmissionPolicy v1
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

Where = Annotated[str | None, typer.Option("--namespace", "-n", help="Where the chart is installed. Default: found.")]


@dataclass(frozen=True)
class Finding:
    """The answer to one question. `unknown`: the reader may not look."""

    check: str
    verdict: Literal["ok", "warning", "problem", "unknown"]
    message: str


def doctor(*, namespace: Where = None, context: Context = None, output: Output = Form.TEXT) -> None:
    """Check the installation. Exit code 1: something is missing or broken."""
    found = findings(Cluster(context), namespace)
    if output is Form.JSON:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            typer.echo(f"{finding.verdict:8} {finding.check:12} {finding.message}")
    if any(finding.verdict == "problem" for finding in found):
        raise typer.Exit(NO)


def findings(cluster: Cluster, namespace: str | None) -> list[Finding]:
    """The answer to every question, in the order in which one would ask them."""
    checks: dict[str, Callable[[], Finding]] = {
        "versions": lambda: _versions(cluster),
        "kinds": lambda: _kinds(cluster),
        "operator": lambda: _operator(cluster, namespace),
        "lease": lambda: _lease(cluster, namespace),
        "gateway": lambda: _gateway(cluster, namespace),
        "policy": lambda: _policy(cluster),
        "storage": lambda: _storage(cluster),
        "accelerators": lambda: _accelerators(cluster),
        "objects": lambda: _objects(cluster),
    }
    return [_asked(name, check) for name, check in checks.items()]


def _asked(name: str, check: Callable[[], Finding]) -> Finding:
    """The finding; a refusal by the API server is one as well, so that read-only users get the rest."""
    try:
        return check()
    except Refused as refusal:
        if refusal.status == 403:
            return Finding(name, "unknown", f"you may not look: {refusal.message}")
        return Finding(name, "problem", refusal.message)


def _versions(cluster: Cluster) -> Finding:
    from importlib.metadata import version  # noqa: PLC0415 - a fifth of the start-up time

    server = cluster.page("/version")
    number = (int(server["major"]), int(server["minor"].rstrip("+")))
    text = f"llmops {version('llmops-operator')}, Kubernetes {server['gitVersion']}"
    if number < OLDEST_KUBERNETES:
        return Finding("versions", "problem", f"{text}: at least 1.30 is needed")
    return Finding("versions", "ok", text)


def _kinds(cluster: Cluster) -> Finding:
    try:
        served = {each["name"] for each in cluster.page(f"/apis/{names.API_VERSION}")["resources"]}
    except Refused as refusal:
        if refusal.status != NOT_SERVED:
            raise
        return Finding("kinds", "problem", f"{names.API_VERSION} is not served: install the chart (its crds.enabled)")
    plurals = sorted(plural for plural in served if "/" not in plural)
    missing = sorted({resource.plural for resource in OURS} - served)
    if resources.LLM_DEPLOYMENT.plural in missing:
        return Finding("kinds", "problem", f"llmdeployments is missing; served: {', '.join(plurals)}")
    if missing:
        text = f"{', '.join(missing)} not served: the CRDs are older than this program; upgrade the chart"
        return Finding("kinds", "warning", text)
    return Finding("kinds", "ok", ", ".join(plurals))


NOT_SERVED = 404


def _operator(cluster: Cluster, namespace: str | None) -> Finding:
    pods = cluster.list(resources.POD, namespace, labelSelector=OPERATOR)
    return _running("operator", pods, "nothing acts on deployments")


def _gateway(cluster: Cluster, namespace: str | None) -> Finding:
    pods = cluster.list(resources.POD, namespace, labelSelector=gateway.SELECTOR)
    return _running("gateway", pods, "nobody answers requests")


def _running(check: str, pods: list[Json], consequence: str) -> Finding:
    if not pods:
        return Finding(check, "problem", f"no pod: {consequence}. Is the chart installed?")
    ready = [pod for pod in pods if _is_ready(pod)]
    text = f"{len(ready)} of {len(pods)} pods ready in {pods[0]['metadata']['namespace']}"
    if not ready:
        return Finding(check, "problem", f"{text}: {consequence}")
    restarts = max(each.get("restartCount", 0) for pod in pods for each in pod["status"].get("containerStatuses", [{}]))
    if len(ready) < len(pods) or restarts > 3:
        return Finding(check, "warning", f"{text}, up to {restarts} restarts")
    return Finding(check, "ok", text)


def _lease(cluster: Cluster, namespace: str | None) -> Finding:
    leases = cluster.list(resources.LEASE, namespace)
    mine = [each for each in leases if each["metadata"]["name"].startswith("llmops")]
    if not mine:
        return Finding("lease", "problem", "no operator holds a Lease: none is active")
    spec = mine[0]["spec"]
    held = (now() - datetime.fromisoformat(spec["renewTime"])).total_seconds() if spec.get("renewTime") else None
    holder = spec.get("holderIdentity") or "nobody"
    if held is None or held > 2 * spec.get("leaseDurationSeconds", 10) or holder == "nobody":
        since = "never" if held is None else f"{held:.0f} s ago"
        return Finding("lease", "problem", f"held by {holder}, renewed {since}: no operator is active")
    return Finding("lease", "ok", f"held by {holder}")


def _policy(cluster: Cluster) -> Finding:
    """Whether authors are kept from lending rights they lack; told by the object, not by its name."""
    for policy in cluster.list(POLICY, None):
        rules = policy["spec"].get("matchConstraints", {}).get("resourceRules", [])
        if any(names.GROUP in rule.get("apiGroups", []) for rule in rules):
            return Finding("policy", "ok", policy["metadata"]["name"])
    text = "no ValidatingAdmissionPolicy for our kinds: whoever may write them can have Secrets of their namespace read"
    return Finding("policy", "warning", f"{text} (authorPolicy.enabled)")


def _objects(cluster: Cluster) -> Finding:
    """Which objects wait for somebody."""
    stalled, total = [], 0
    for resource in OURS:
        try:
            found = cluster.list(resource, None)
        except Refused as refusal:
            if refusal.status != NOT_SERVED:
                raise
            continue
        total += len(found)
        for each in found:
            for condition in each.get("status", {}).get("conditions", []):
                if condition["type"] == "Stalled" and condition["status"] == "True":
                    meta = each["metadata"]
                    stalled.append(f"{each['kind']} {meta['namespace']}/{meta['name']}: {condition['reason']}")
    if stalled:
        more = f", and {len(stalled) - SHOWN} more" if len(stalled) > SHOWN else ""
        return Finding(
            "objects", "warning", f"{len(stalled)} of {total} wait for somebody: {'; '.join(stalled[:SHOWN])}{more}"
        )
    return Finding("objects", "ok", f"{total}, and none waits for somebody")


def _storage(cluster: Cluster) -> Finding:
    classes = cluster.list(STORAGE_CLASS, None)
    named = ", ".join(each["metadata"]["name"] for each in classes)
    if not classes:
        return Finding("storage", "problem", "no StorageClass: weights have nowhere to go")
    if not any(each["metadata"].get("annotations", {}).get(DEFAULT_CLASS) == "true" for each in classes):
        text = f"no default StorageClass; deployments must say model.storage.className (one of {named})"
        return Finding("storage", "warning", text)
    return Finding("storage", "ok", named)


def _accelerators(cluster: Cluster) -> Finding:
    totals: dict[str, int] = {}
    for node in cluster.list(resources.NODE, None):
        for resource, amount in node.get("status", {}).get("allocatable", {}).items():
            if resource.startswith(ACCELERATORS):
                totals[resource] = totals.get(resource, 0) + int(amount)
    if not any(totals.values()):
        text = "no node advertises any: only the profile cpu can run (is the vendor's device plugin installed?)"
        return Finding("accelerators", "warning", text)
    return Finding(
        "accelerators", "ok", ", ".join(f"{resource}: {amount}" for resource, amount in sorted(totals.items()))
    )


def _is_ready(pod: Json) -> bool:
    given = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in given)
