"""Which of vLLM's arguments a user may set by hand, and which are said elsewhere or belong to the operator."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from llmops.api.rules import Keys, Rules

# Said by fields of the spec: two places that say the same thing would disagree one day.
BY_FIELDS = (
    "model",
    "served-model-name",
    "revision",
    "code-revision",
    "tokenizer-revision",
    "dtype",
    "quantization",
    "max-model-len",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "enable-lora",
    "lora-modules",
    "max-lora-rank",
    "max-loras",
    "max-cpu-loras",
)
# The operator's: how the pod is reached, drained, spread over nodes and kept from the rest of the file system.
BY_OPERATOR = (
    "host",
    "port",
    "uds",
    "root-path",
    "api-key",
    "ssl-keyfile",
    "ssl-certfile",
    "ssl-ca-certs",
    "ssl-cert-reqs",
    "enable-ssl-refresh",
    "config",
    "download-dir",
    "hf-token",
    "hf-config-path",
    "allowed-local-media-path",
    "disable-log-stats",
    "distributed-executor-backend",
    "data-parallel-size",
    "data-parallel-rank",
    "data-parallel-address",
    "data-parallel-rpc-port",
    "data-parallel-backend",
    "api-server-count",
    "headless",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
)
RESERVED = BY_FIELDS + BY_OPERATOR
_TRUST = "trust-remote-code"


def _free(name: str) -> bool:
    """Whether no reserved argument is meant; vLLM takes any unambiguous beginning of an argument for the whole."""
    return not any(reserved.startswith(name) for reserved in RESERVED)


_WORD = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_SPELLING = Keys(
    cel=f"key.matches('^({_WORD.pattern})$')",
    holds=lambda key: _WORD.fullmatch(key) is not None,
    message="{keys}: write vLLM's argument without the leading dashes and with '-' between words, "
    "as in gpu-memory-utilization; parts of a JSON argument go in its value",
)
_REMOTE_CODE = Keys(
    cel=f"!'{_TRUST}'.startsWith(key)",
    holds=lambda key: not _TRUST.startswith(key),
    message="{keys} would run Python code that comes with the model, and this cluster runs none: use a model that vLLM "
    "supports itself, or build its code into an image and name that in spec.engine.image",
    cause="FieldValueForbidden",
)
_RESERVED_RULE = Keys(
    cel=f"!{list(RESERVED)}.exists(own, own.startsWith(key))",
    holds=_free,
    message="{keys} is not set here: model, name, dtype, quantization, lengths, parallelism and adapters have fields "
    "in spec.model, spec.engine and spec.adapters; addresses, certificates, keys and statistics are the operator's",
    cause="FieldValueForbidden",
)

EngineArgs = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    Field(max_length=32),
    Rules((_SPELLING, _REMOTE_CODE, _RESERVED_RULE)),
]
