"""TRL's and PEFT's configuration out of a FineTuneJob's spec, judged before an accelerator is taken."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import DPOConfig, SFTConfig

from llmops.api.fine_tune_job import FineTuneJobSpec, LoraSpec
from llmops_serving.jobs.ending import Stopped

MAX_LENGTH = 1024  # TRL's own default
# An adapter starts at zero and takes ten times the rate that whole weights bear.
LEARNING_RATES = {"LoRA": 2e-4, "QLoRA": 2e-4, "ContinuedPretraining": 1e-4, "Full": 2e-5, "DPO": 5e-6}
Config: TypeAlias = SFTConfig | DPOConfig


def refused(message: str) -> Stopped:
    """The spec asks for what cannot be."""
    return Stopped("InvalidSpec", message)


def max_length(spec: FineTuneJobSpec, model: Path) -> int:
    """The longest row in tokens: what is asked for, else TRL's default, within what the model can take."""
    limit = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings") or MAX_LENGTH
    asked = values(spec).get("max_length")
    if asked is None:
        return int(min(limit, MAX_LENGTH))
    if not isinstance(asked, int) or asked < 1:
        raise refused(f"hyperparameters.max_length '{asked}' is not a number of tokens.")
    if asked > limit:
        raise refused(f"hyperparameters.max_length {asked} is more than the {limit} tokens the model can take.")
    return asked


def values(spec: FineTuneJobSpec) -> dict[str, Any]:
    """The hyperparameters as Python values: decimals in quotes are numbers, true and false are themselves."""
    return {name: _value(text) for name, text in spec.hyperparameters.items()}


def _value(text: int | str) -> int | float | bool | str:
    if isinstance(text, int):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def config(
    spec: FineTuneJobSpec,
    model: Path,
    output: Path,
    *,
    fresh: bool = True,
    held_out: bool = True,
    flat: bool = False,
    halved: bool = False,
) -> Config:
    """The training configuration.

    Args:
        spec: What is asked for.
        model: Directory of the base model.
        output: Where the trainer may write.
        fresh: No checkpoint is resumed: the base model's loss is measured first.
        held_out: There are rows to evaluate on.
        flat: Rows lie end to end instead of being padded.
        halved: The micro-batch did not fit into memory: half of it, twice as often.

    Raises:
        Stopped: InvalidSpec, for names TRL does not know and values it does not take.
    """
    gpu = torch.cuda.is_available()
    chosen = values(spec)
    kind = DPOConfig if spec.method == "DPO" else SFTConfig
    known = {field.name for field in dataclasses.fields(kind)}
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise refused(f"hyperparameters.{name} is not an argument of TRL's {kind.__name__}.{hint}")
    every = spec.checkpoint.every_steps
    ours: dict[str, Any] = {
        "output_dir": str(output),
        "save_strategy": "steps",
        "save_steps": every,
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": every,
        "eval_on_start": held_out and fresh,
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen, not averaged away
        # Without padding every token counts; one that pads may be the one that ends answers, too.
        "include_num_input_tokens_seen": "all" if flat else "non_padding",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None if flat else max_length(spec, model),  # the rows are cut to it already
        "use_cpu": not gpu,
    }
    if spec.method != "DPO":
        ours["padding_free"] = flat
    if not gpu and torch.distributed.is_initialized():
        ours["ddp_backend"] = "gloo"
    defaults: dict[str, Any] = {
        "learning_rate": LEARNING_RATES[spec.method],
        "seed": 42,
        "logging_steps": min(10, every),
        "bf16": gpu,
        "gradient_checkpointing": gpu,  # trades compute for a memory that only accelerators lack
        "dataloader_pin_memory": gpu,
    }
    try:
        made: Config = kind(**(defaults | chosen | ours))
        if halved:
            size = made.per_device_train_batch_size
            parts = 2 if size % 2 == 0 else size
            made.per_device_train_batch_size, made.gradient_accumulation_steps = (
                size // parts,
                made.gradient_accumulation_steps * parts,
            )
    except (TypeError, ValueError) as error:
        raise refused(f"The hyperparameters do not go together: {' '.join(str(error).split())[:200]}") from error
    return made


def half(spec: FineTuneJobSpec) -> bool:
    """Whether to compute in bfloat16: on GPUs, unless told otherwise, and on a CPU when asked to."""
    return bool(values(spec).get("bf16", torch.cuda.is_available()))


def lora(spec: FineTuneJobSpec) -> LoraConfig | None:
    """The adapter's shape; `None` when every weight is trained."""
    if spec.method == "Full":
        return None
    shape = spec.lora or LoraSpec()
    modules: str | list[str] = shape.target_modules
    if modules != "all-linear":
        modules = shape.target_modules.split(",")
    return LoraConfig(
        r=shape.r,
        lora_alpha=shape.alpha,
        lora_dropout=float(shape.dropout),
        target_modules=modules,
        task_type="CAUSAL_LM",
    )


def quantization(spec: FineTuneJobSpec) -> BitsAndBytesConfig | None:
    """4-bit weights for QLoRA.

    Raises:
        Stopped: InvalidSpec, where there is no GPU or no bitsandbytes.
    """
    if spec.method != "QLoRA":
        return None
    if not torch.cuda.is_available():
        raise refused("QLoRA's 4-bit weights need a GPU, and this pod has none: choose LoRA.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise refused("QLoRA needs bitsandbytes, which the training image of this profile does not have.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
