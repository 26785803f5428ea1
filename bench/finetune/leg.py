"""One way to train the same rows with the same adapter, in a process of its own: `python -m bench.finetune.leg`.

Runs in the trainer's environment. Prints one line of JSON: seconds of the training loop (wall and CPU), tokens that are
not padding, losses by step, and the held-out loss at the end, taken in the same way of every leg.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.dataset.rendering import IGNORED, Renderer
from llmops_serving.jobs.finetune import learners, settings

Json = dict[str, Any]
ROWS_PER_STEP = 8  # transformers' default


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds between the first step and the last."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.wall, self.cpu = time.perf_counter(), _cpu()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, _cpu() - self.cpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.finetune.leg", description=__doc__)
    parser.add_argument("leg", choices=["ours", "hf", "trl"])
    for name in ("--model", "--data", "--work"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    numbers = {
        "bf16": str(torch.cuda.is_available() or not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)).lower(),
        "max_steps": options.steps,
        "learning_rate": "1e-3",
        "max_length": options.max_length,
        "logging_steps": 1,
    }
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"source": "hf://o/m"},
            "dataset": {"source": "pvc://d/t.jsonl", "evalFraction": "0"},
            "hyperparameters": numbers | {"max_length": options.max_length},
            "lora": {"dropout": "0"},
            "checkpoint": {"everySteps": 1_000_000},
        },
        by_alias=True,
    )
    renderer = Renderer.of(options.model, max_length=options.max_length)
    rows = learners.rows_of(options.data / "train.jsonl", renderer, learners.tokens_of, options.work)
    clock = Clock()
    torch.manual_seed(42)
    trainer = {"ours": _ours, "hf": _hf, "trl": _trl}[options.leg](spec, options, renderer, rows, clock)
    if options.profile:
        _profiled(trainer)
        return
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    held_out = learners.rows_of(options.data / "eval.jsonl", renderer, learners.tokens_of, options.work)
    trained = _trained_tokens(trainer, rows)
    print(
        json.dumps(
            {
                "leg": options.leg,
                "bf16": trainer.args.bf16,
                "wall_seconds": clock.wall,
                "cpu_seconds": clock.cpu,
                "tokens": trained,
                "losses": [entry["loss"] for entry in history],
                "held_out_loss": _loss(trainer.model, held_out),
            }
        )
    )


def _trained_tokens(trainer: Trainer, rows: Any) -> int:
    """Tokens that are not padding, in the steps that were made; all legs see whole epochs or parts of one."""
    return round(sum(map(len, rows["input_ids"])) * float(trainer.state.epoch))


def _ours(spec: FineTuneJobSpec, options: argparse.Namespace, renderer: Renderer, rows: Any, clock: Clock) -> Any:
    del rows
    trainer = learners.learner(
        spec,
        options.model,
        renderer,
        folders=(options.data, options.work),
        config=partial(settings.config, spec, options.model, options.work / "out"),
        callback=clock,
    )
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.args.eval_on_start = False
    return trainer


def _plain(spec: FineTuneJobSpec, options: argparse.Namespace) -> Json:
    rate = float(spec.hyperparameters["learning_rate"])
    return {
        "output_dir": str(options.work / "out"),
        "max_steps": options.steps,
        "learning_rate": rate,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 42,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def _hf(spec: FineTuneJobSpec, options: argparse.Namespace, renderer: Renderer, rows: Any, clock: Clock) -> Trainer:
    """transformers' Trainer as it is: rows padded to the longest of a batch, every logit made."""
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model.config.use_cache = False
    return Trainer(
        model=get_peft_model(model, settings.lora(spec)),
        args=TrainingArguments(**_plain(spec, options), per_device_train_batch_size=ROWS_PER_STEP),
        train_dataset=rows,
        data_collator=DataCollatorForTokenClassification(renderer.tokenizer),  # pads labels, too
        callbacks=[clock],
    )


def _trl(spec: FineTuneJobSpec, options: argparse.Namespace, renderer: Renderer, rows: Any, clock: Clock) -> SFTTrainer:
    """TRL's own packing; as many packed sequences a step as hold about the tokens of the other legs' rows."""
    mean = sum(map(len, rows["input_ids"])) / len(rows)
    packed = max(1, round(ROWS_PER_STEP * mean / options.max_length))
    config = SFTConfig(
        **_plain(spec, options),
        packing=True,
        max_length=options.max_length,
        per_device_train_batch_size=packed,
        bf16=settings.half(spec),  # as TRL does where it can
        gradient_checkpointing=False,
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        args=config,
        train_dataset=rows,
        processing_class=renderer.tokenizer,
        peft_config=settings.lora(spec),
        callbacks=[clock],
    )


@torch.no_grad()  # type: ignore[untyped-decorator]
def _loss(model: Any, rows: Any) -> float:
    model.eval()
    nats = tokens = 0.0
    for row in rows:
        targets = torch.tensor(row["labels"][1:])
        logits = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1]
        nats += float(cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum"))
        tokens += int((targets != IGNORED).sum())
    return nats / tokens


def _profiled(trainer: Any) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        trainer.train()
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
