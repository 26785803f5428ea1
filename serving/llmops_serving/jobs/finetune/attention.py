"""Attention over rows that lie end to end in one batch: each row attends to itself alone, and padding is not needed.

transformers builds a mask of tokens x tokens for such a batch; with one call per row the work is what the rows take.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "block_diagonal"
Heads: TypeAlias = torch.Tensor  # rows x heads x tokens x values of a head


def register() -> None:
    """Make the name known to transformers: models are loaded with `attn_implementation=NAME`."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def fits(config: Any) -> bool:
    """Whether every layer of a model is plain causal attention: what has windows, sinks or states is left to its own.

    A model that passes and yet computes otherwise is found out by `learners.proved`.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windowed and not getattr(config, "attn_logit_softcapping", None)


def _attention(  # noqa: PLR0917 - transformers' signature
    module: torch.nn.Module,
    query: Heads,
    key: Heads,
    value: Heads,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' interface; `cu_seq_lens_q` (rows + 1) has the places where rows begin."""
    begins = given.get("cu_seq_lens_q")
    if begins is None or attention_mask is not None:  # one row, or padded ones: generation, evaluation by others
        padded: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **given
        )
        return padded
    lengths = begins.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    slow = query.device.type == "cpu"  # in bfloat16 its backward pass takes several times as long as in float32
    heads = (each.float() if slow else each for each in (query, key, value))
    rows = zip(*(each.split(lengths, dim=2) for each in heads), strict=True)
    with torch.autocast("cpu", enabled=False) if slow else nullcontext():
        done = [
            scaled_dot_product_attention(*row, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped)
            for row in rows
        ]
    return torch.cat(done, dim=2).transpose(1, 2).to(query.dtype), None


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **given: Any) -> torch.Tensor | None:
    """None where causality and the rows' beginnings say it all."""
    if attention_mask is None and given["q_length"] == given["kv_length"]:
        return None
    mask: torch.Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **given)
    return mask
