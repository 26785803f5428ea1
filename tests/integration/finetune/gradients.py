"""How far loss and gradient of a step are from TRL's own of it, as JSON: run in the trainer's environment."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.dataset.rendering import Renderer
from llmops_serving.jobs.finetune import learners, settings


def apart(model: Path, data: Path, work: Path, bf16: str) -> dict[str, float]:
    """Relative distances: of the loss, and of the adapter's whole gradient."""
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"source": "hf://o/m"},
            "dataset": {"source": "pvc://d/t.jsonl"},
            "hyperparameters": {"bf16": bf16},
            "lora": {"dropout": "0"},
        },
        by_alias=True,
    )
    made = learners.learner(
        spec,
        model,
        Renderer.of(model, max_length=settings.max_length(spec, model)),
        folders=(data, work),
        config=partial(settings.config, spec, model, work),
        callback=TrainerCallback(),
    )
    prepared = made.accelerator.prepare(made.model)
    torch.manual_seed(1)
    for name, weights in prepared.named_parameters():
        if "lora_B" in name:  # as made it is zero, and nothing would reach the other half
            torch.nn.init.normal_(weights, std=0.1)
    rows = next(iter(made.get_train_dataloader()))
    found = []
    for loss_of in (made.compute_loss, partial(SFTTrainer.compute_loss, made)):
        prepared.zero_grad()
        loss = loss_of(prepared, dict(rows), num_items_in_batch=100)
        loss.backward()
        gradient = torch.cat([each.grad.flatten() for each in prepared.parameters() if each.grad is not None])
        found.append((loss.detach(), gradient))
    (ours, pull), (theirs, reference) = found
    return {
        "loss": float((ours - theirs).abs() / theirs),
        "gradient": float((pull - reference).norm() / reference.norm()),
    }


if __name__ == "__main__":
    model, data, work = map(Path, sys.argv[1:])
    sys.stdout.write(json.dumps({kind: apart(model, data, work / kind, kind) for kind in ("false", "true")}))
