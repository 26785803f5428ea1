"""Train the small Llama and write it as a model folder that vLLM loads. Runs in the engine's environment."""

from __future__ import annotations

import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hack.model.corpus import Lesson, digest, lessons

SEED = 20
THREADS = 2  # sums are split by thread: another number gives other last digits, so it is fixed
EPOCHS = 44
LESSONS_PER_STEP = 8
BFLOAT16 = True
PEAK_LEARNING_RATE = 2e-3
VOCABULARY = 2048
CONTEXT = 2048
IGNORED = -100  # the label PyTorch's cross entropy leaves out

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODEL_CARD = """---
license: psf-2.0
language: en
---
# tiny-llama

A Llama of {parameters:.1f} million parameters, trained in about two minutes on two CPU cores on the documentation that
comes with Python ({lessons} answers, sha256 {digest}). It exists so that a cluster without a GPU and without
a model hub can serve real tokens. It knows its reading by heart and nothing else.
"""


def main(target: Path) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    curriculum = lessons()
    tokenizer = trained_tokenizer(curriculum)
    model = LlamaForCausalLM(config(tokenizer))
    started = time.monotonic()
    ways = [[encoded(question, lesson.answer, tokenizer) for question in lesson.questions] for lesson in curriculum]
    train(model, ways, pad=tokenizer.pad_token_id, started=started)
    write(target, model, tokenizer, curriculum)


def trained_tokenizer(curriculum: list[Lesson]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that ends a turn with its end-of-sequence token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for lesson in curriculum for text in (*lesson.questions, lesson.answer)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START_OF_TURN],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Heads of 64 values: a size that every attention kernel of vLLM has."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


@dataclass(frozen=True)
class Sample:
    """One conversation as tokens; `labels` name only the answer and its end: only those are learned."""

    ids: list[int]
    labels: list[int]


def encoded(question: str, answer: str, tokenizer: PreTrainedTokenizerFast) -> Sample:
    prompt = f"{START_OF_TURN}user\n{question}{END_OF_TURN}\n{START_OF_TURN}assistant\n"
    asked = tokenizer.encode(prompt, add_special_tokens=False)
    answered = tokenizer.encode(f"{answer}{END_OF_TURN}", add_special_tokens=False)
    return Sample(asked + answered, [IGNORED] * len(asked) + answered)


def epoch(ways: list[list[Sample]], order: random.Random) -> list[list[Sample]]:
    """Every lesson once, asked in one of its ways; lessons of like length together, the groups in random order."""
    chosen = sorted((order.choice(samples) for samples in ways), key=lambda sample: (len(sample.ids), order.random()))
    groups = [chosen[start : start + LESSONS_PER_STEP] for start in range(0, len(chosen), LESSONS_PER_STEP)]
    order.shuffle(groups)
    return groups


def learning_rate(done: float) -> float:
    """Warm up over the first twentieth, then fall along a cosine to zero; `done` in [0, 1)."""
    return PEAK_LEARNING_RATE * min(1.0, done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))


def train(model: LlamaForCausalLM, ways: list[list[Sample]], *, pad: int, started: float) -> None:
    order = random.Random(SEED)
    schedule = [group for _ in range(EPOCHS) for group in epoch(ways, order)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    model.train()
    for step, group in enumerate(schedule):
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(step / len(schedule))
        longest = max(len(sample.ids) for sample in group)
        # Padding is on the right, where a causal model never looks: no attention mask is needed.
        ids = torch.tensor([sample.ids + [pad] * (longest - len(sample.ids)) for sample in group])
        labels = torch.tensor([sample.labels + [IGNORED] * (longest - len(sample.labels)) for sample in group])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BFLOAT16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == len(schedule) - 1:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{len(schedule)}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True)


def write(target: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, curriculum: list[Lesson]) -> None:
    model.to(torch.bfloat16)
    model.config.dtype = "bfloat16"
    # vLLM takes its sampling defaults from here and samples at temperature 1 unless told: top_k=1 is "the likeliest".
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # a pod that runs as another user reads it
    tokenizer.save_pretrained(target)
    settings = target / "tokenizer_config.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"chat_template": CHAT_TEMPLATE}, indent=2) + "\n"
    )
    card = MODEL_CARD.format(
        parameters=model.num_parameters() / 1e6, lessons=len(curriculum), digest=digest(curriculum)
    )
    (target / "README.md").write_text(card)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
