"""What a baseline is valid for, as a digest: with another one, what was learned says nothing."""

from __future__ import annotations

from llmops import names
from llmops.api.drift import INPUTS, SERIES, Signal
from llmops.api.drift_state import Served
from llmops.api.llm_deployment import LLMDeployment, ModelStatus
from llmops.config import Config

ADAPTER_DIGEST = len("sha256:") + 16
TEMPLATE_ARGS = ("chat-template", "chat-template-content-format", "tokenizer", "tokenizer-mode")


def served(llm: LLMDeployment, model: ModelStatus, before: Served | None) -> Served:
    """The model as what was learned of it calls it.

    The same files are the same model wherever they come from: out of a restore point, too.
    """
    if before and model.digest and before.digest == model.digest:
        return before
    return Served(source=llm.spec.model.source, revision=model.revision, digest=model.digest)


def keys(llm: LLMDeployment, model: Served, config: Config) -> dict[Signal, str]:
    """The key of each signal.

    What clients send is counted by the tokenizer and the chat template: it stays what it was when only a revision
    changes. What the model answers hangs on its bytes, its engine and its adapters as well.

    Args:
        llm: The deployment.
        model: Which files are served.
        config: The operator's, for the image of a profile.
    """
    engine, profile = llm.spec.engine, config.profiles.get(llm.spec.accelerator.profile)
    requests = [
        names.TOKEN_BUCKETS,
        model.source,
        {key: value for key, value in engine.args.items() if key in TEMPLATE_ARGS},
    ]
    answers = [
        *requests,
        model.revision,
        model.digest,
        engine.image or (profile.image if profile else None),
        engine.model_dump(mode="json", include={"dtype", "quantization", "max_model_len", "args"}),
        # A restore point's are shorter than a FineTuneJob's.
        [(adapter.name, (adapter.digest or "")[:ADAPTER_DIGEST]) for adapter in llm.status.adapters],
    ]
    sent, answered = names.digest(requests), names.digest(answers)
    return {signal: sent if signal in INPUTS else answered for signal in SERIES}
