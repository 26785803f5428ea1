"""Train the models of the comparison, in the trainer's environment: a base, whole fine-tunes of it, adapters on it.

534 million parameters, 1.07 GB in bf16. Weights are trained in float32 with AdamW and rounded to bf16 when they are
written, as trainers do. Base and fine-tunes differ by real optimizer steps on real text, at the learning rates that
whole fine-tunes use; what few steps cannot show is how far a run of days moves.
"""

from __future__ import annotations

import copy
import random
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hack.model.train import config

VOCABULARY = 16_000
ROWS, TOKENS = 2, 96  # of one step
BASE_STEPS, BASE_RATE = 20, 3e-4
TUNED_STEPS, TUNED_RATES = 8, (5e-6, 1e-5, 1e-5, 2e-5, 5e-5)
ADAPTER_STEPS, ADAPTER_RATE, ADAPTERS = 5, 2e-4, 3


def main(folder: Path) -> None:
    torch.manual_seed(7)
    torch.set_num_threads(2)
    texts = _texts()
    tokenizer = _tokenizer(texts)
    base = LlamaForCausalLM(_config(tokenizer))
    _train(base, _rows(texts, tokenizer, 0), BASE_STEPS, BASE_RATE, "base")
    _write(base, tokenizer, folder / "base")
    for number, rate in enumerate(TUNED_RATES):
        tuned = copy.deepcopy(base)
        _train(tuned, _rows(texts, tokenizer, 1 + number), TUNED_STEPS, rate, f"finetune-{number}")
        _write(tuned, tokenizer, folder / f"finetune-{number}")
        del tuned
    for number in range(ADAPTERS):
        name = f"adapter-{number}"
        lora = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        adapted = get_peft_model(copy.deepcopy(base), lora)
        _train(adapted, _rows(texts, tokenizer, 10 + number), ADAPTER_STEPS, ADAPTER_RATE, name)
        adapted.save_pretrained(folder / name)
        del adapted


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The demo model's, with a shape of its own."""
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 39}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    return LlamaConfig(**{**config(tokenizer).to_dict(), **shape, **heads, "tie_word_embeddings": False})


def _train(model: torch.nn.Module, rows: Iterator[torch.Tensor], steps: int, rate: float, name: str) -> None:
    learned = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    started = time.monotonic()
    model.train()
    for step in range(steps):
        ids = next(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"{name} {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)


def _write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _texts() -> list[str]:
    """Python's own library: text that is on every machine."""
    library = Path(sysconfig.get_path("stdlib"))
    return [at.read_text(errors="ignore") for at in sorted(library.glob("*.py"))[:80]]


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def _rows(texts: list[str], tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Endless steps of text; another seed is another data set."""
    order = random.Random(seed)
    while True:
        chosen: list[list[int]] = []
        while len(chosen) < ROWS:
            ids = tokenizer.encode(order.choice(texts)[:20_000])
            if len(ids) > TOKENS:
                start = order.randrange(len(ids) - TOKENS)
                chosen.append(ids[start : start + TOKENS])
        yield torch.tensor(chosen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
