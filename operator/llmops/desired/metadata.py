"""Names, labels and owners of children: computed once, the same way for every builder."""

from __future__ import annotations

from typing import Any

from llmops import names
from llmops.api.llm_deployment import LLMDeployment

Json = dict[str, Any]


def labels(llm: LLMDeployment, component: str) -> dict[str, str]:
    """Labels of a child: ours to watch by, the deployment's to select by."""
    return {
        **names.MANAGED_BY,
        "app.kubernetes.io/name": "llmops",
        "app.kubernetes.io/instance": names.bounded(llm.metadata.name),
        names.LABEL_COMPONENT: component,
        names.LABEL_DEPLOYMENT: llm.metadata.name,
    }


def selector(llm: LLMDeployment, component: str) -> dict[str, str]:
    """The labels that never change: a Deployment's selector is immutable."""
    return {names.LABEL_DEPLOYMENT: llm.metadata.name, names.LABEL_COMPONENT: component}


def child(llm: LLMDeployment, name: str, component: str) -> Json:
    """The child's metadata: Kubernetes deletes it with its owner, whether the operator runs or not."""
    return {
        "name": name,
        "namespace": llm.metadata.namespace,
        "labels": labels(llm, component),
        "ownerReferences": [owner(llm)],
    }


def owner(llm: LLMDeployment) -> Json:
    """The reference by which Kubernetes' garbage collector finds the child."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMDeployment",
        "name": llm.metadata.name,
        "uid": llm.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
