"""What a user may say about the pods: where they run, what they take, how they are marked.

No host paths, no privileges, no service account: a custom resource must not be a way to more rights than its author
has. Accelerators are asked for by `spec.accelerator`, so that count and profile cannot disagree.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from llmops.api.fields import LABEL_KEY, LABEL_VALUE, ObjectName
from llmops.api.meta import SpecModel
from llmops.api.quantity import QUANTITY, IntOrString, amount
from llmops.api.rules import Keys, Rule, Rules, quoted

_KEY = re.compile(LABEL_KEY)
_LABEL = f"^{LABEL_VALUE}$"
_OURS = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
)

_well_formed = Keys(
    cel=f"key.matches({quoted(f'^({LABEL_KEY})$')})",
    holds=lambda key: _KEY.fullmatch(key) is not None,
    message="{keys}: a key is a name of at most 63 letters, digits, '-', '_' and '.', maybe after a domain and '/'",
)
_not_ours = Keys(
    cel=f"!key.startsWith('llmops.dev/') && !(key in {list(_OURS)})",
    holds=lambda key: not key.startswith("llmops.dev/") and key not in _OURS,
    message="{keys} is set by the operator, which finds its pods by it: use a key of your own domain",
    cause="FieldValueForbidden",
)
LabelValue = Annotated[str, Field(max_length=63, pattern=_LABEL)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=16), Rules((_well_formed, _not_ours))]
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16), Rules((_well_formed, _not_ours))
]
NodeLabels = Annotated[dict[str, LabelValue], Field(max_length=16), _well_formed]

_RESOURCE = "cpu|memory|ephemeral-storage|hugepages-[0-9]+[MG]i"
_not_accelerators = Keys(
    cel=f"key.matches('^({_RESOURCE})$')",
    holds=lambda key: re.fullmatch(_RESOURCE, key) is not None,
    message="{keys} cannot be asked for here: only cpu, memory, ephemeral-storage and hugepages; "
    "accelerators are asked for by spec.accelerator",
    cause="FieldValueForbidden",
)
Quantity = Annotated[int | str, IntOrString(QUANTITY, minimum=0)]
Quantities = Annotated[dict[str, Quantity], Field(max_length=8), _not_accelerators]

_AFFINITY = {
    "nodeAffinity": "Which nodes. As in a Pod's spec.affinity.nodeAffinity.",
    "podAffinity": "Beside which pods. As in a Pod's spec.affinity.podAffinity.",
    "podAntiAffinity": "Away from which pods. As in a Pod's spec.affinity.podAntiAffinity.",
}


class Affinity:
    """Metadata of a dict: Kubernetes' own affinity, passed on as it is.

    Its schema alone would be larger than the rest of the resource; the API server checks it when the pods are made.
    """

    @staticmethod
    def __get_pydantic_json_schema__(core: Any, handler: Any) -> dict[str, Any]:
        free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return {"type": "object", "properties": {n: free | {"description": text} for n, text in _AFFINITY.items()}}


class Toleration(SpecModel):
    """A taint that the pods put up with, as in a Pod."""

    key: Annotated[str, Field(max_length=317, pattern=f"^({LABEL_KEY})$")] | None = Field(
        default=None, description="Key of the taint; without it, every taint (with operator Exists). Example: gpu."
    )
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Equal compares the value, Exists does not. Default: Equal."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint, for operator Equal. Example: spot.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Default: every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=2_592_000)] | None = Field(
        default=None,
        description="How long pods stay after a NoExecute taint comes, in seconds. Default: for ever. Example: 60.",
    )
    rules = (
        Rule(
            path=".value",
            cel="self.operator == 'Equal' || !has(self.value) || self.value == ''",
            holds=lambda t: t.operator == "Equal" or not t.value,
            message="operator Exists takes no value: leave value out, or set operator to Equal",
        ),
        Rule(
            path=".operator",
            cel="has(self.key) || self.operator == 'Exists'",
            holds=lambda t: t.key is not None or t.operator == "Exists",
            message="a toleration without a key tolerates everything: say so with operator Exists, or give a key",
        ),
        Rule(
            path=".tolerationSeconds",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda t: t.toleration_seconds is None or t.effect == "NoExecute",
            message="tolerationSeconds needs effect NoExecute: set the effect, or leave tolerationSeconds out",
        ),
    )


class ResourcesSpec(SpecModel):
    """CPU and memory of one pod. What is not given here comes from the accelerator profile."""

    requests: Quantities = Field(
        default={}, description='What a pod is promised. Default: the profile\'s. Example: {cpu: "4", memory: 24Gi}.'
    )
    limits: Quantities = Field(
        default={}, description="What a pod may use at most. Default: the profile's. Example: {memory: 32Gi}."
    )
    rules = (
        Rule(
            path=".requests",
            cel="!has(self.requests) || !has(self.limits) || self.requests.all(key, !(key in self.limits) || "
            "quantity(string(self.requests[key])).compareTo(quantity(string(self.limits[key]))) <= 0)",
            holds=lambda r: all(
                amount(asked) <= amount(r.limits[key]) for key, asked in r.requests.items() if key in r.limits
            ),
            message="a request is more than its limit: lower the request or raise the limit",
        ),
    )


class PodSpec(SpecModel):
    """Wishes about the pods, beyond what the accelerator profile says."""

    priority_class_name: Annotated[
        ObjectName,
        Rule(
            cel="!self.startsWith('system-')",
            holds=lambda name: not name.startswith("system-"),
            message="'{self}' would push out what the cluster itself runs on: use a priority class of your own",
            cause="FieldValueForbidden",
        ),
    ] | None = Field(
        default=None, description="PriorityClass of the pods. Default: the cluster's. Example: production."
    )  # fmt: skip
    node_selector: NodeLabels = Field(
        default={},
        description="Labels that a node must have, added to the profile's. Example: {topology.kubernetes.io/zone: a}.",
    )
    tolerations: list[Toleration] = Field(
        default=[], max_length=16, description="Taints that the pods put up with, added to the profile's."
    )
    affinity: (
        Annotated[dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]], Affinity] | None
    ) = Field(default=None, description="Affinity as in a Pod. Default: none.")
    labels: Labels = Field(default={}, description="Labels added to the pods. Example: {cost-centre: support}.")
    annotations: Annotations = Field(
        default={}, description='Annotations added to the pods. Example: {sidecar.istio.io/inject: "false"}.'
    )
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="CPU and memory of one pod.")
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        default=None,
        description="How long a pod that must go may finish its requests, in seconds. Default: 600. Example: 120.",
    )
