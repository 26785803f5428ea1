"""The CustomResourceDefinitions, printed from the models: `python -m llmops.api.crd [--write DIRECTORY]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmops import names
from llmops.api.fine_tune_job import FineTuneJob
from llmops.api.llm_deployment import LLMDeployment
from llmops.api.meta import KubeObject
from llmops.api.model_backup import ModelBackup
from llmops.api.structural import structural

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; a wide one only with `-o wide`."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False

    def manifest(self) -> Json:
        """The column as an entry of `additionalPrinterColumns`."""
        column: Json = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.description}
        return column | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True)
class Kind:
    """A kind of object: its model, and how kubectl calls and shows it.

    Attributes:
        scale: Paths of desired replicas, existing replicas and label selector, for kinds that `kubectl scale` takes.
    """

    model: type[KubeObject]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: tuple[str, str, str] | None = None

    @property
    def name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{names.GROUP}"


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since it was created.", "date")
LLM_DEPLOYMENT = Kind(
    model=LLMDeployment,
    plural="llmdeployments",
    short="llmd",
    columns=(
        Column("Ready", _condition("Ready", "status"), "Whether requests are answered."),
        Column("Reason", _condition("Ready", "reason"), "Why."),
        Column("Replicas", ".status.readyReplicas", "Replicas that answer.", "integer"),
        Column("Desired", ".status.desiredReplicas", "Replicas that should.", "integer"),
        Column("Model", ".spec.model.source", "Where the model comes from."),
        Column("Accelerator", ".spec.accelerator.profile", "What it computes on.", wide=True),
        Column("Endpoint", ".status.endpoint", "Base URL for clients.", wide=True),
        Column("Drift", _condition("Drifted", "reason"), "Whether traffic is what it was.", wide=True),
        Column("Backup", ".status.backup.point", "The newest restore point.", wide=True),
        _AGE,
    ),
    scale=(".spec.replicas", ".status.replicas", ".status.selector"),
)
FINE_TUNE_JOB = Kind(
    model=FineTuneJob,
    plural="finetunejobs",
    short="ftj",
    columns=(
        Column("Complete", _condition("Complete", "status"), "Whether the artifact is there."),
        Column("Reason", _condition("Running", "reason"), "What it is doing, or why not."),
        Column("Step", ".status.progress.step", "Optimizer steps done.", "integer"),
        Column("Of", ".status.progress.totalSteps", "Optimizer steps there will be.", "integer"),
        Column("Loss", ".status.progress.evalLoss", "Loss on the held-out rows."),
        Column("Method", ".spec.method", "How it learns.", wide=True),
        Column("Accelerator", ".spec.accelerator.profile", "What it computes on.", wide=True),
        Column("Artifact", ".status.artifact.uri", "Where the result is.", wide=True),
        _AGE,
    ),
)
MODEL_BACKUP = Kind(
    model=ModelBackup,
    plural="modelbackups",
    short="mbak",
    columns=(
        Column("Complete", _condition("Complete", "status"), "Whether the point is there."),
        Column("Reason", _condition("Running", "reason"), "What it is doing, or why not."),
        Column("Point", ".status.point", "What follows backup:// in a source."),
        Column("Bytes", ".status.bytes", "Size of its files.", "integer"),
        Column("Verified", ".status.verifiedAt", "Since when it is proven.", "date"),
        Column("Deployment", ".spec.deployment", "Of what it is.", wide=True),
        Column("Stored", ".status.storedBytes", "Bytes it takes in the repository.", "integer", wide=True),
        Column("Expires", ".status.expires", "When retention drops it.", wide=True),
        Column("Hold", ".spec.hold", "Whether it stays whatever retention says.", "boolean", wide=True),
        _AGE,
    ),
)
KINDS = (LLM_DEPLOYMENT, FINE_TUNE_JOB, MODEL_BACKUP)


def definition(kind: Kind) -> Json:
    """The CustomResourceDefinition of one kind."""
    singular = kind.model.__name__
    subresources: Json = {"status": {}}
    if kind.scale:
        spec, status, selector = kind.scale
        subresources["scale"] = {
            "specReplicasPath": spec,
            "statusReplicasPath": status,
            "labelSelectorPath": selector,
        }
    version: Json = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.manifest() for column in kind.columns],
        "subresources": subresources,
        "schema": {"openAPIV3Schema": structural(kind.model)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.name},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": singular,
                "listKind": f"{singular}List",
                "plural": kind.plural,
                "singular": singular.lower(),
                "shortNames": [kind.short],
                "categories": ["llmops"],
            },
            "versions": [version],
        },
    }


def text(kind: Kind) -> str:
    """The CustomResourceDefinition as the file in `crds/` has it."""
    body = yaml.safe_dump(definition(kind), sort_keys=False, allow_unicode=True, width=10_000)
    return f"# Printed by `python -m llmops.api.crd --write crds`; change the models instead.\n{body}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every definition, or write one file for each."""
    parser = argparse.ArgumentParser(prog="python -m llmops.api.crd", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="DIRECTORY", help="write one file per kind")
    directory: Path | None = parser.parse_args(arguments).write
    if directory is None:
        sys.stdout.write("---\n".join(text(kind) for kind in KINDS))
        return
    directory.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (directory / f"{kind.name}.yaml").write_text(text(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
