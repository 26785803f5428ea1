"""Whether a training run fits into an accelerator's memory, by arithmetic, before one is taken.

Bytes per weight: half precision is 2, single 4; a trained weight has its value, its gradient and AdamW's two moments,
4 bytes each (Rajbhandari et al. 2020, ZeRO); NF4 with double quantization is 4.127 bits (Dettmers et al. 2023, QLoRA).
Bytes per token and layer: 34 x hidden size in half precision without recomputation, 2 x with, plus one layer's 34 while
it is recomputed (Korthikanti et al. 2022, section 4; attention that is never written out costs no more).
"""

from __future__ import annotations

from dataclasses import dataclass

from llmops.api.fine_tune_job import FineTuneJobSpec, LoraSpec
from llmops.api.fine_tune_status import BaseModelStatus
from llmops.api.quantity import amount
from llmops.config import Profile

GIB = 2**30
TRAINED = 16  # bytes of a weight that is trained
NF4 = 0.516
PER_LAYER = 34
ADAPTED = 20  # inputs and outputs of a layer's linear parts together, in hidden sizes, for r = 1
LOGITS = 8  # bytes: a logit and its gradient in single precision
RUNTIME = GIB  # the context of CUDA, or torch and its libraries
TRL_BATCH, TRL_LENGTH = 8, 1024
OVERRIDE = "llmops.dev/skip-fit-check"


@dataclass(frozen=True)
class Need:
    """Bytes of one accelerator."""

    weights: int
    training: int
    activations: int
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.training + self.activations + self.runtime

    def sentence(self) -> str:
        """For a reader who wants to know which part to make smaller."""
        parts = ("weights", self.weights), ("training state", self.training), ("activations", self.activations)
        listed = ", ".join(f"{name} {gib(size)}" for name, size in parts)
        return f"{gib(self.total)} ({listed})"


def need(spec: FineTuneJobSpec, model: BaseModelStatus, *, gpu: bool) -> Need:
    """What one process of the run needs.

    Args:
        spec: What is asked for.
        model: Its size, as the check of the data has found it.
        gpu: Whether it trains on a GPU: a CPU computes in single precision and recomputes nothing.
    """
    hidden, layers = model.hidden_size, model.layers
    batch = _whole(spec, "per_device_train_batch_size", TRL_BATCH)
    tokens = batch * _whole(spec, "max_length", TRL_LENGTH) * (2 if spec.method == "DPO" else 1)
    value = 2 if gpu else 4
    if spec.method == "Full":
        weights, training = 4 * model.parameters, (TRAINED - 4) * model.parameters
    else:
        trained = ADAPTED * (spec.lora or LoraSpec()).r * hidden * layers
        embeddings = 2 * model.vocabulary_size * hidden
        four_bit = int(NF4 * (model.parameters - embeddings)) + 2 * embeddings
        weights = four_bit if spec.method == "QLoRA" else value * model.parameters
        training = TRAINED * trained
    kept = 2 * layers + PER_LAYER if _recomputes(spec, gpu=gpu) else PER_LAYER * layers
    activations = tokens * hidden * kept * value // 2 + tokens * model.vocabulary_size * LOGITS
    return Need(weights, training, activations)


def shortage(spec: FineTuneJobSpec, model: BaseModelStatus, profile: Profile) -> str:
    """Why the run does not fit, with the numbers and the remedies; empty when it does or when nobody knows."""
    have = memory(profile)
    if have is None or not model.parameters:
        return ""
    wanted = need(spec, model, gpu=profile.resource is not None)
    if wanted.total <= have:
        return ""
    return (
        f"A process needs {wanted.sentence()} and profile '{spec.accelerator.profile}' has {gib(have)}. "
        f"{_remedy(spec, wanted)} To try all the same, annotate this job with {OVERRIDE}=true."
    )


def memory(profile: Profile) -> int | None:
    """Bytes of one accelerator of the profile: its own, or the memory limit of a pod without one."""
    if profile.memory:
        return int(amount(profile.memory))
    limit = profile.resources.get("limits", {}).get("memory")
    return int(amount(limit)) if limit and profile.resource is None else None


def gib(size: int) -> str:
    """Bytes for a reader."""
    return f"{size / GIB:.1f} GiB"


def _remedy(spec: FineTuneJobSpec, wanted: Need) -> str:
    if wanted.activations > wanted.weights + wanted.training:
        return "Lower hyperparameters.per_device_train_batch_size or max_length."
    if spec.method == "Full":
        return "Use method LoRA, or a profile with more memory."
    return "Use a smaller base model or a profile with more memory" + (
        "." if spec.method == "QLoRA" or spec.accelerator.profile == "cpu" else ", or method QLoRA."
    )


def _recomputes(spec: FineTuneJobSpec, *, gpu: bool) -> bool:
    asked = spec.hyperparameters.get("gradient_checkpointing")
    return gpu if asked is None else str(asked).lower() == "true"


def _whole(spec: FineTuneJobSpec, name: str, default: int) -> int:
    """A hyperparameter; one that is no number is refused by the check of the data, in its own words."""
    asked = str(spec.hyperparameters.get(name, ""))
    return int(asked) if asked.isdigit() else default
