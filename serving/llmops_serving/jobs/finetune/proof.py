"""What an adapter does, measured where it was made: the record that an engine must reproduce before it may serve it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

Json = dict[str, Any]

ROWS = 4
LONGEST = 256  # tokens of a row; a few hundred differences tell an adapter from none


def record(model: Any, checkpoint: Path, rows: Iterable[tuple[Sequence[int], int]]) -> Json:
    """`probe.json` of the adapter in `checkpoint`.

    Args:
        model: The PEFT model that was trained, whatever its adapter is at now.
        checkpoint: The checkpoint that is exported.
        rows: Token ids of rows, and where in each the answer begins.
    """
    chosen = [(list(ids)[:LONGEST], start) for ids, start in rows if 0 < start < min(len(ids), LONGEST)][:ROWS]
    model.load_adapter(str(checkpoint), adapter_name="exported")
    model.set_adapter("exported")
    was_training = model.training
    model.eval()
    measured = []
    for ids, start in chosen:
        tuned = _log_probabilities(model, ids, start)
        with model.disable_adapter():
            base = _log_probabilities(model, ids, start)
        measured.append({"ids": ids, "start": start, "base": base, "tuned": tuned})
    model.train(was_training)
    return {"version": 1, "rows": measured}


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
def _log_probabilities(model: Any, ids: list[int], start: int) -> list[float]:
    """Of each token from `start` on, given those before it."""
    tokens = torch.tensor([ids], device=model.device)
    logits = model(input_ids=tokens).logits[0, start - 1 : -1].float()
    chosen = torch.log_softmax(logits, dim=-1).gather(1, tokens[0, start:, None])
    return [round(float(value), 5) for value in chosen[:, 0]]
