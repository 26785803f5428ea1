"""Specs nobody should write: mutations of the schema, and specs by somebody who wants more than he may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.problem import NeedsUser
from llmops.config import Config
from llmops.desired import serving, training
from tests.apiserver.operating import ROOT, configuration
from tests.faultproxy.lane import client_of, ground
from tests.faultproxy.mutations import STRANGE, mutations
from tests.faultproxy.page import Section, table

Json = dict[str, Any]
KINDS = {"llmdeployments": LLMDeployment, "finetunejobs": FineTuneJob}
ALL = {"dryRun": "All", "fieldValidation": "Strict"}


@dataclass(frozen=True)
class Verdict:
    """What came of one spec: `refused`, `needs the user`, `built` or `wrong`, with why."""

    outcome: str
    why: str = ""


def schema(plural: str) -> Json:
    """The schema of a kind, as it is installed."""
    crd = yaml.safe_load((ROOT / "crds" / f"{plural}.llmops.dev.yaml").read_text())
    found: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def judged(client: httpx.Client, plural: str, manifest: Json) -> Verdict:
    """Ask the API server, and build the children of what it takes."""
    path = f"/apis/llmops.dev/v1alpha1/namespaces/default/{plural}"
    answer = client.post(path, params=ALL, json=manifest)
    if answer.status_code == 201:
        return built(plural, answer.json())
    status = answer.json()
    fields = [cause.get("field") for cause in status.get("details", {}).get("causes", [])]
    named = any(fields) or "unknown field" in status["message"] or "spec" in status["message"]
    if answer.status_code in (400, 422) and named:
        return Verdict("refused")
    return Verdict("wrong", f"{answer.status_code} names no field: {status['message'][:200]}")


def built(plural: str, stored: Json) -> Verdict:
    """The children of a stored object, twice the same, or a reason for the user."""
    config = Config.model_validate(configuration())
    try:
        once, again = (children(plural, stored, config) for _ in range(2))
    except NeedsUser:
        return Verdict("needs the user")
    except Exception as error:  # noqa: BLE001 - any other exception is the finding
        return Verdict("wrong", f"{type(error).__name__}: {error}"[:300])
    return Verdict("built") if once == again else Verdict("wrong", "two looks wish for different children")


def children(plural: str, stored: Json, config: Config) -> list[Json]:
    """What the operator would create for an object as the API server stores it."""
    if plural == "llmdeployments":
        llm = LLMDeployment.from_manifest(stored)
        size = 1 if llm.spec.replicas is None else llm.spec.replicas
        return serving.objects(llm, config, replicas=size, weights_ready=True, surge=True)
    job = FineTuneJob.from_manifest(stored)
    base = None
    if job.spec.base_model.deployment:
        model = {"source": "hf://o/m"}
        meta = {"name": job.spec.base_model.deployment, "namespace": "default", "uid": "u"}
        kind = {"apiVersion": stored["apiVersion"], "kind": "LLMDeployment"}
        base = LLMDeployment.from_manifest({**kind, "metadata": meta, "spec": {"model": model, "replicas": 1}})
    return training.objects(job, config, deployment=base, check=True, train=True)


def all_judged(client: httpx.Client, count: int, seed: int) -> Counter[Verdict]:
    """The verdicts on `count` mutations of each kind."""
    found: Counter[Verdict] = Counter()
    with ThreadPoolExecutor(8) as pool:
        for plural in KINDS:
            specs = list(mutations(plural, schema(plural), count, seed))
            found.update(pool.map(lambda each, plural=plural: judged(client, plural, each), specs))
    return found


def hostile(count: int) -> Iterator[tuple[str, Json]]:
    """Specs that parse, with everything free in them set to what a thief would write."""
    texts = [each for each in STRANGE if isinstance(each, str) and each]
    for number in range(count):
        text = texts[number % len(texts)]
        meta = {"name": f"hostile-{number}", "namespace": "hostile"}
        spec: Json = {"model": {"source": f"hf://org/{text}"}, "replicas": 1}
        shapes: list[Json] = [
            {"model": {"source": f"pvc://claim/{text}"}},
            {"model": {"source": "hf://o/m", "secretRef": {"name": text}}},
            {"model": {"source": f"oci://{text}"}},
            {"model": {"source": "hf://o/m", "servedName": text}},
            {"engine": {"args": {"chat-template": text}}},
            {"engine": {"args": {text: "1"}}},
            {"engine": {"image": f"registry/{text}"}},
            {"engine": {"args": {"download-dir": "/proc/1/root", "load-format": text}}},
            {"engine": {"args": {"trust-remote-code": "", "api-key": text}}},
            {"accelerator": {"profile": text}},
        ]
        spec = {**spec, **shapes[number % len(shapes)]}
        yield (
            "llmdeployments",
            {"metadata": meta, "apiVersion": "llmops.dev/v1alpha1", "kind": "LLMDeployment", "spec": spec},
        )


def templates(objects: Iterable[Json]) -> Iterator[Json]:
    """The pods these objects lead to."""
    for each in objects:
        if each["kind"] in ("Deployment", "Job"):
            meta = {**each["spec"]["template"]["metadata"], "generateName": "pod-", "namespace": "hostile"}
            spec = {**each["spec"]["template"]["spec"]}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def restricted(client: httpx.Client, count: int) -> tuple[int, int, list[str]]:
    """How many hostile specs were stored, how many pods they lead to, and which of those Pod Security refuses."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hostile", "labels": labels}}
    client.post("/api/v1/namespaces", json=space).raise_for_status()
    config = Config.model_validate(configuration())
    stored, pods, refused = 0, 0, []
    for plural, manifest in hostile(count):
        answer = client.post(f"/apis/llmops.dev/v1alpha1/namespaces/hostile/{plural}", params=ALL, json=manifest)
        if answer.status_code != 201:
            continue
        stored += 1
        try:
            objects = children(plural, answer.json(), config)
        except NeedsUser:
            continue
        for pod in templates(objects):
            pods += 1
            taken = client.post("/api/v1/namespaces/hostile/pods", params={"dryRun": "All"}, json=pod)
            reads = [volume for volume in pod["spec"].get("volumes", []) if "hostPath" in volume]
            if taken.status_code != 201 or reads or pod["spec"].get("automountServiceAccountToken") is not False:
                refused.append(f"{manifest['spec']}: {taken.status_code} {taken.text[:300]} {reads}")
    return stored, pods, refused


def run(directory: Path, *, long: bool) -> Section:
    """`long` changes nothing."""
    del long, directory
    begun = datetime.now(UTC)
    with ground() as plane:
        client = client_of(plane.kubeconfig)
        counts = all_judged(client, 5000, seed=1)
        stored, pods, refused = restricted(client, 200)
    seconds = (datetime.now(UTC) - begun).total_seconds()
    outcomes: Counter[str] = Counter()
    for verdict, count in counts.items():
        outcomes[verdict.outcome] += count
    rows = [[name, outcomes[name]] for name in ("refused", "needs the user", "built", "wrong")]
    wrong = [f"{verdict.why} ({count} times)" for verdict, count in counts.items() if verdict.outcome == "wrong"]
    text = f"""{sum(outcomes.values())} objects derived from the schemas and hurt in up to two places, in {seconds:.0f}
s: refused by the API server with the field that is wrong, refused in a condition, or turned into children, twice the
same.

{table(["outcome", "objects"], rows)}

Of 200 hostile LLMDeployments the API server stores {stored}; they lead to {pods} pods, and a namespace that enforces
the restricted Pod Security Standard takes all but {len(refused)} of them. None mounts the host or a token."""
    return Section("specs", "Specs nobody should write", text, (*wrong[:10], *refused[:5]))
