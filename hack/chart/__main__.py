"""Print what the chart is made of from the code: `python -m hack.chart --write`.

values.schema.json comes from the models below (the operator's own where a value is handed to it), the chart's CRDs
are the printed ones, and manifests/install.yaml is the chart with its defaults.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from hack.cluster import tools
from hack.dashboards.grafana import printed
from hack.dashboards.questions import DASHBOARDS
from llmops.config import Config, Model, Profile
from llmops.desired.alerts import rule_file
from llmops.desired.backup_rules import backup_groups
from llmops.desired.slo_rules import slo_groups

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "llmops"
GITOPS = ROOT / "manifests" / "gitops"
Json = dict[str, Any]


class Image(Model):
    """Where an image of ours is; the digest wins over the tag."""

    repository: str = Field(description="Name without tag.")
    tag: str = Field(default="", description="Empty: the chart's version.")
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$", description="sha256:...")


class Placement(Model):
    """Where pods of ours may run."""

    pod_annotations: dict[str, str] = Field(default_factory=dict, description="Annotations of the pods.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels a node must have.")
    tolerations: tuple[Json, ...] = Field(default=(), description="Taints to tolerate.")
    affinity: Json = Field(default_factory=dict, description="Pod affinity, as in a Pod.")
    priority_class_name: str = Field(default="", description="PriorityClass.")
    resources: Json = Field(default_factory=dict, description="Resources, as in a Container.")


class Operator(Placement):
    """The controller."""

    image: Image
    replicas: int = Field(default=1, ge=1, le=5, description="One acts; the others take over within seconds.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")


class Service(Model):
    """How clients reach the gateway."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(default="ClusterIP", description="Service type.")
    port: int = Field(default=80, ge=1, le=65535, description="Port of the Service.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations of the Service.")


class Gateway(Placement):
    """The OpenAI-compatible front door."""

    replicas: int = Field(default=1, ge=1, description="Gateway pods.")
    require_keys: bool = Field(default=False, description="Ask every client for a key.")
    audit_log: bool = Field(default=False, description="Log a line of JSON per request: no prompt, no key.")
    service: Service = Service()
    termination_grace_period_seconds: int = Field(default=630, ge=0, description="How long answers may be finished.")


class Serving(Model):
    """The gateway and the jobs that download and verify weights."""

    image: Image


class Trainer(Model):
    """What checks data sets, and trains on profiles without an accelerator."""

    image: Image


class Global(Model):
    """Shared by every pod."""

    image_registry: str = Field(default="", description="Put before images that name no registry.")
    image_pull_secrets: tuple[str, ...] = Field(default=(), description="Secrets for pulling.")


class Crds(Model):
    """The CustomResourceDefinitions."""

    enabled: bool = Field(default=True, description="Install and upgrade them with the chart.")
    keep: bool = Field(default=True, description="Leave them when the chart is uninstalled.")


class Sources(Model):
    """Where weights may come from."""

    hugging_face_endpoint: str = Field(default="", description="Base URL of a hub mirror; empty: the public hub.")
    s3_endpoint: str = Field(default="", description="Default endpoint of s3:// sources.")
    allow_private_networks: bool = Field(default=False, description="Let sources resolve to private addresses.")


class ServiceMonitor(Model):
    """For the Prometheus operator."""

    enabled: Literal["Auto", "Always", "Never"] = Field(
        default="Auto", description="Create ServiceMonitors and PodMonitors. Auto: where the cluster has these kinds."
    )
    interval: str = Field(default="15s", description="Scrape interval.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels a Prometheus selects by.")


class Rules(Model):
    """Alerts on the gateway's promises, and what all rules have in common."""

    enabled: bool = Field(
        default=True,
        description="Create the SLO rules: a PrometheusRule where the cluster has that kind, else a ConfigMap with "
        "the label llmops.dev/prometheus-rules.",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Labels a Prometheus selects SLO rules by.")
    runbooks: str = Field(
        default="docs/runbooks.md", description="URL at which docs/runbooks.md is read; alerts link to its sections."
    )


class Prometheus(Model):
    """Who is asked about drift."""

    url: str = Field(
        default="",
        pattern="^(https?://.+)?$",
        description="What comes before /api/v1, as in http://prometheus.monitoring:9090; empty: nobody is asked.",
    )
    secret_name: str = Field(
        default="",
        description="Secret of this namespace with `token`, a bearer token, and `ca.crt`, whom to trust; either may be "
        "missing. It is mounted, never read through the API.",
    )


class Dashboards(Model):
    """Grafana's, as ConfigMaps that its sidecar loads."""

    enabled: bool = Field(default=False, description="Create the ConfigMaps.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels the sidecar selects by.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Such as the folder, for the sidecar.")


class Metrics(Model):
    """Who may scrape."""

    namespaces: tuple[str, ...] = Field(default=("monitoring",), description="Namespaces whose pods may scrape.")
    service_monitor: ServiceMonitor = ServiceMonitor()
    rules: Rules = Rules()
    prometheus: Prometheus = Prometheus()
    dashboards: Dashboards = Dashboards()


class Tracing(Model):
    """Traces of requests, through gateway and engines."""

    endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^/?#]+)?$",
        description="Base URL of an OTLP/HTTP receiver, as in http://collector.monitoring:4318; empty: no traces.",
    )
    ratio: float = Field(
        default=0.01, ge=0, le=1, description="Share of requests traced when the client's traceparent says nothing."
    )
    namespace: str = Field(
        default="",
        description="Namespace of the receiver's pods: engines may reach no other. Empty: its port, anywhere.",
    )


class Switch(Model):
    """Something that is there or not."""

    enabled: bool = Field(default=True, description="Whether it is created.")


class Test(Model):
    """`helm test`."""

    model: str = Field(default="", description="Model to ask; empty: the first one listed.")


class Values(Model):
    """Values of the chart."""

    global_: Global = Field(default=Global(), alias="global")
    crds: Crds = Crds()
    namespaces: tuple[str, ...] = Field(default=(), description="Namespaces to serve; empty: the whole cluster.")
    operator: Operator
    gateway: Gateway
    serving: Serving
    trainer: Trainer
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull images."
    )
    sources: Sources = Sources()
    profiles: dict[str, Profile | None] = Field(description="Accelerators by the name users write; null removes one.")
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()
    network_policy: Switch = Switch()
    author_policy: Switch = Switch()
    test: Test = Test()


def schema() -> str:
    """values.schema.json."""
    return json.dumps(Values.model_json_schema(by_alias=True), indent=2, sort_keys=True) + "\n"


def crds() -> dict[Path, str]:
    """The chart's copy of the CRDs."""
    return {CHART / "files" / "crds" / path.name: path.read_text() for path in sorted((ROOT / "crds").glob("*.yaml"))}


def slo_rules() -> str:
    """The rules that need nothing learned: promises and restore points. The chart puts in where runbooks are."""
    return rule_file([*slo_groups(runbooks="RUNBOOKS"), *backup_groups(runbooks="RUNBOOKS")])


def dashboards() -> dict[Path, str]:
    """Grafana's dashboards, one file each."""
    return {CHART / "files" / "dashboards" / f"{each.uid}.json": printed(each) for each in DASHBOARDS}


def install() -> str:
    """manifests/install.yaml: the chart's defaults in the namespace llmops-system."""
    namespace = yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llmops-system"}})
    command = [tools.program("helm", "helm"), "template", "llmops", CHART, "--namespace", "llmops-system"]
    command += ["--skip-tests", "--set", "crds.keep=false"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"# Printed by `python -m hack.chart --write`: the chart with its defaults.\n{namespace}{rendered}"


def images(rendered: str) -> str:
    """images.txt: what a registry has to hold before the chart is installed with its defaults."""
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    pods = [document["spec"]["template"]["spec"] for document in documents if document["kind"] == "Deployment"]
    ours = {container["image"] for pod in pods for container in pod["containers"]}
    files = (document["data"] for document in documents if document["kind"] == "ConfigMap")
    (config,) = (data["config.yaml"] for data in files if "config.yaml" in data)
    operator = Config.model_validate(yaml.safe_load(config))
    ours |= {operator.images.jobs, operator.images.trainer}
    engines = {profile.image for profile in operator.profiles.values()}
    return "".join(f"{image}\n" for image in sorted(ours | engines))


def readme() -> str:
    """The chart's README: every value with its default and meaning."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [
        f"| `{path}` | `{json.dumps(_at(values, path))}` | {meaning} |"
        for path, meaning in _rows(Values.model_json_schema())
    ]
    profiles = ", ".join(f"`{name}`" for name in values["profiles"])
    return "\n".join(
        [
            "# llmops",
            "",
            "    helm install llmops helm/llmops --namespace llmops-system --create-namespace --wait",
            "",
            f"Profiles that ship: {profiles}. No other software is required in the cluster.",
            "",
            "`images.txt` lists the images to mirror; `global.imageRegistry` names the registry, `digest` pins one.",
            "",
            "| value | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _at(values: Json, path: str) -> Any:
    here: Any = values
    for part in path.split("."):
        here = here[part]
    return "see values.yaml" if path == "profiles" else here


def _rows(whole: Json) -> list[tuple[str, str]]:
    """Path and meaning of every value that has no values below it."""
    found: list[tuple[str, str]] = []

    def walk(node: Json, path: str) -> None:
        node = {**whole["$defs"].get(node.get("$ref", "").rpartition("/")[2], {}), **node}
        if "properties" not in node:
            found.append((path, node.get("description", "").replace("|", "\\|")))
        for name, child in node.get("properties", {}).items():
            walk(child, f"{path}.{name}" if path else name)

    walk({key: value for key, value in whole.items() if key != "$defs"}, "")
    return found


def argocd() -> str:
    """The ConfigMap that teaches Argo CD the health of every kind."""
    script = textwrap.indent((GITOPS / "argocd" / "health.lua").read_text(), "    ")
    kinds = [
        yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in sorted((ROOT / "crds").glob("*.yaml"))
    ]
    entries = "".join(f"  resource.customizations.health.llmops.dev_{kind}: |\n{script}" for kind in kinds)
    labels = "{app.kubernetes.io/name: argocd-cm, app.kubernetes.io/part-of: argocd}"
    return (
        "# Printed by `python -m hack.chart --write` from health.lua.\n"
        f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\n  labels: {labels}\ndata:\n{entries}"
    )


def files() -> dict[Path, str]:
    """Every generated file that needs no rendered chart, with its content."""
    rules = CHART / "files" / "slo.rules.yaml"
    return {
        CHART / "values.schema.json": schema(),
        **crds(),
        **dashboards(),
        rules: slo_rules(),
        CHART / "README.md": readme(),
        GITOPS / "argocd" / "argocd-cm.yaml": argocd(),
    }


def renderings() -> dict[Path, str]:
    """Every generated file that helm prints, with its content."""
    rendered = install()
    return {ROOT / "manifests" / "install.yaml": rendered, CHART / "images.txt": images(rendered)}


def compared(wanted: dict[Path, str], *, write: bool) -> list[Path]:
    """The files that are not as wanted; with `write`, they are afterwards."""
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale if write else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return [path.relative_to(ROOT) for path in stale]


def main() -> int:
    """Write, or say what is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing")
    write = parser.parse_args().write
    stale = [*compared(files(), write=write), *compared(renderings(), write=write)]
    for path in stale:
        print(("wrote " if write else "stale: ") + str(path))
    return 0 if write or not stale else 1


if __name__ == "__main__":
    raise SystemExit(main())
