"""The trainers of TRL, given rows that are tokens already, and made faster where that changes no result.

Rows of a step lie end to end instead of being padded to the longest, each attending to itself alone, and only the
tokens that are learned are projected onto the vocabulary: the same rows make the same gradient as padded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import structlog
import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import DPOTrainer, SFTTrainer

from llmops.api.fine_tune_job import FineTuneJobSpec
from llmops_serving.jobs.dataset.check import EVAL, TRAIN
from llmops_serving.jobs.dataset.rendering import IGNORED, Renderer
from llmops_serving.jobs.finetune import attention, settings

log = structlog.get_logger()
Json = dict[str, Any]
Learner: TypeAlias = "SFTTrainer | DPOTrainer"

PROOF_ROWS, PROOF_TOKENS = 3, 64
LOGITS_BYTES = 512 << 20  # above this TRL's own loss is taken: it goes through the vocabulary in tiles


class RowLearner(SFTTrainer):  # type: ignore[misc]  # trl is not installed where types are checked
    """Cross entropy of the learned tokens alone. On a CPU, TRL projects every token onto the vocabulary."""

    def compute_loss(
        self,
        model: Any,
        inputs: Json,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if return_outputs or not self._narrow(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"][0, 1:]  # the token after each one
        places = (targets != IGNORED).nonzero().flatten()
        given = {name: value for name, value in inputs.items() if name != "labels"}
        # Autocast takes what it needs; PEFT would copy every input of an adapter to float32 first, and back.
        with disable_input_dtype_casting(model, self.args.bf16 and not self.args.gradient_checkpointing):
            logits = model(**given, logits_to_keep=places, use_cache=False).logits[0]
        total = cross_entropy(logits.float(), targets[places], reduction="sum")
        if num_items_in_batch is None:
            return total / max(1, len(places))
        # Counted over all processes, whose gradients are averaged.
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total * processes / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def _narrow(self, inputs: Json) -> bool:
        if "cu_seq_lens_q" not in inputs or self.aux_loss_enabled or self.args.loss_type != "nll":
            return False
        vocabulary = self.model.config.get_text_config().vocab_size
        return bool(int((inputs["labels"] != IGNORED).sum()) * vocabulary * 4 <= LOGITS_BYTES)


class PairLearner(DPOTrainer):  # type: ignore[misc]
    """DPO on pairs that were rendered before."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def learner(
    spec: FineTuneJobSpec,
    model: Path,
    renderer: Renderer,
    *,
    folders: tuple[Path, Path],
    config: Callable[..., settings.Config],
    callback: TrainerCallback,
) -> Learner:
    """The trainer of a spec.

    Args:
        spec: What is asked for.
        model: Directory of the base model.
        renderer: Its tokenizer and template.
        folders: The checked rows, and an empty one for this process.
        config: Makes the configuration, told whether rows are held out and whether they lie end to end.
        callback: Is called between steps.

    Raises:
        Stopped: InvalidSpec.
    """
    data, work = folders
    tokenizer = renderer.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # labels of padding are ignored by their place, not by their token
    columns = _pair if spec.method == "DPO" else tokens_of
    train, held_out = (rows_of(data / name, renderer, columns, work) for name in (TRAIN, EVAL))
    if not len(train):
        raise settings.refused("There are no rows to train on: the check of the data set has left none here.")
    loaded = load(spec, model)
    flat = spec.method != "DPO" and proved(loaded, train)
    kind = PairLearner if spec.method == "DPO" else RowLearner
    made = kind(
        model=loaded,
        args=config(held_out=len(held_out) > 0, flat=flat),
        train_dataset=train,
        eval_dataset=held_out if len(held_out) else None,
        processing_class=tokenizer,
        peft_config=settings.lora(spec),
        callbacks=[callback],
    )
    made.remove_callback(PrinterCallback)  # the callback above tells the same as JSON
    return made


def load(spec: FineTuneJobSpec, model: Path) -> Any:
    """The base model, ready to be trained."""
    attention.register()
    given: Json = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True}
    loaded = AutoModelForCausalLM.from_pretrained(
        model,
        # Adapters are trained beside weights of half precision; whole weights need every bit of the update.
        dtype=torch.bfloat16 if settings.half(spec) and spec.method != "Full" else torch.float32,
        quantization_config=settings.quantization(spec),
        **given,
    )
    if attention.fits(loaded.config.get_text_config()) and loaded.config._attn_implementation == "sdpa":  # noqa: SLF001 - there is no other way to ask
        loaded.set_attn_implementation(attention.NAME)
    return loaded


@torch.no_grad()  # type: ignore[untyped-decorator]
def proved(model: Any, rows: Dataset) -> bool:
    """Whether this model says the same of rows end to end as of each alone; where not, rows are padded."""
    if model.config._attn_implementation != attention.NAME:  # noqa: SLF001
        return False
    ids = [torch.tensor(row["input_ids"][:PROOF_TOKENS]) for row in rows.select(range(min(len(rows), PROOF_ROWS)))]
    lengths = torch.tensor([0, *map(len, ids)])
    begins = lengths.cumsum(0).to(torch.int32)
    given = {
        "input_ids": torch.cat(ids)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in ids])[None],
        "cu_seq_lens_q": begins,
        "cu_seq_lens_k": begins,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
    }
    device, was_training = model.device, model.training
    model.eval()
    try:
        together = model(**{name: _on(device, value) for name, value in given.items()}, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=row[None].to(device), use_cache=False).logits[0] for row in ids])
    except (TypeError, ValueError) as error:  # a model that takes no such arguments
        log.info("rows are padded", because=str(error)[:200])
        return False
    finally:
        model.train(was_training)
    tolerance = 1e-3 if together.dtype == torch.float32 else 5e-2
    same = bool((together - alone).abs().max() <= tolerance * alone.float().std())
    if not same:
        log.info("rows are padded", because="end to end, the model answers otherwise")
    return same


def _on(device: Any, value: Any) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def tokens_of(renderer: Renderer, row: Json) -> Json | None:
    """Tokens and labels; nothing where the cut left nothing to learn."""
    found = renderer.rendered(row)
    return {"input_ids": found.ids, "labels": found.labels} if found.learned else None


def _pair(renderer: Renderer, row: Json) -> Json | None:
    chosen, rejected = renderer.pair(row)
    if not (chosen.learned and rejected.learned):
        return None
    begin = next(place for place, label in enumerate(chosen.labels) if label != IGNORED)
    ends = [max(place for place, label in enumerate(row.labels) if label != IGNORED) + 1 for row in (chosen, rejected)]
    return {
        "prompt_ids": chosen.ids[:begin],
        "chosen_ids": chosen.ids[begin : ends[0]],
        "rejected_ids": rejected.ids[begin : ends[1]],
    }


def rows_of(path: Path, renderer: Renderer, columns: Callable[[Renderer, Json], Json | None], work: Path) -> Dataset:
    """The rows as columns of tokens, on disk."""

    def rows(name: str) -> Iterator[Json]:
        with Path(name).open("rb") as stream:
            for line in stream:
                if found := columns(renderer, orjson.loads(line)):
                    yield found

    if not path.exists() or not path.stat().st_size:
        return Dataset.from_dict({"input_ids": [], "labels": []})
    made = Dataset.from_generator(
        rows, gen_kwargs={"name": str(path)}, cache_dir=str(work / "rows"), fingerprint=path.stem
    )
    if not isinstance(made, Dataset):
        raise TypeError(f"{path.name} became a {type(made).__name__}")
    return made
