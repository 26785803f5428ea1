"""The result of a run beside its base model, on rows that neither learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from llmops_serving.jobs.dataset.check import EVAL, TEST
from llmops_serving.jobs.dataset.rendering import IGNORED, Renderer
from llmops_serving.jobs.finetune import scores

log = structlog.get_logger()
Json = dict[str, Any]
BATCH = 16  # questions that are answered together


@dataclass(frozen=True)
class Evaluation:
    """What was compared: the metrics, on how many rows, and some answers for a reader."""

    metrics: list[scores.Metric]
    rows: int = 0
    answered: int = 0
    own: bool = False
    examples: tuple[Json, ...] = ()


@dataclass(frozen=True)
class Judge:
    """Asks one model after the other the same.

    Attributes:
        renderer: The model's tokenizer and template.
        answers: Rows that are answered in the model's own words.
        longest: Tokens of such an answer.
    """

    renderer: Renderer
    answers: int
    longest: int

    def evaluated(self, data: Path, model: Any, checkpoint: Path, base: Path) -> Evaluation:
        """Both models on the author's test rows, or on those that were held out.

        Args:
            data: The checked rows.
            model: What was trained.
            checkpoint: Its checkpoint that is exported.
            base: Directory of the base model.
        """
        own = (data / TEST).exists()
        place = data / (TEST if own else EVAL)
        rows = [orjson.loads(line) for line in place.read_bytes().splitlines()] if place.exists() else []
        if not rows:
            return Evaluation([])
        log.info("evaluating", rows=len(rows), answers=min(self.answers, len(rows)))
        with tuned_and_base(model, checkpoint, base) as models:
            tuned, plain = (self._judged(one, rows) for one in models)
        answered = [row for row in tuned if row.answer is not None]
        examples = tuple(
            {"wanted": after.wanted, "base": before.answer, "tuned": after.answer}
            for before, after in zip(plain, tuned, strict=True)
            if after.answer is not None
        )[:5]
        return Evaluation(scores.compared(plain, tuned), len(rows), len(answered), own, examples)

    def _judged(self, switch: Any, rows: Sequence[Json]) -> list[scores.Row]:
        with switch() as model:
            asked = [place for place, row in enumerate(rows) if "text" not in row][: self.answers]
            answers = dict(zip(asked, self._answers(model, [rows[place] for place in asked]), strict=True))
            return [self._row(model, row, answers.get(place)) for place, row in enumerate(rows)]

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def _row(self, model: Any, row: Json, answer: str | None) -> scores.Row:
        rendered = self.renderer.rendered(row)
        ids = torch.tensor([rendered.ids], device=model.device)
        targets = torch.tensor(rendered.labels[1:], device=model.device)
        places = (targets != IGNORED).nonzero().flatten()
        logits = model(input_ids=ids, use_cache=False).logits[0][places]
        nats = float(cross_entropy(logits.float(), targets[places], reduction="sum"))
        text = self.renderer.tokenizer.decode(targets[places])
        wanted = self.renderer.question(row)[1] if "text" not in row else ""
        return scores.Row(nats, len(places), len(text.encode()), answer, wanted)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _answers(self, model: Any, rows: Sequence[Json]) -> list[str]:
        """What the model writes, always taking the likeliest token; the longest questions together."""
        questions = [self.renderer.question(row)[0][-self.renderer.max_length :] for row in rows]
        order = sorted(range(len(questions)), key=lambda place: len(questions[place]))
        found: dict[int, str] = {}
        for begin in range(0, len(order), BATCH):
            batch = order[begin : begin + BATCH]
            found |= dict(zip(batch, self._written(model, [questions[place] for place in batch]), strict=True))
        return [found[place] for place in range(len(rows))]

    def _written(self, model: Any, questions: Sequence[list[int]]) -> list[str]:
        tokenizer, width = self.renderer.tokenizer, max(map(len, questions))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in questions], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in questions], device=model.device)
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or width + self.longest
        done = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(1, min(self.longest, longest - width)),
            do_sample=False,
            temperature=None,
            top_k=None,
            top_p=None,
            pad_token_id=pad,
            eos_token_id=sorted(self.renderer.stops) or None,
        )
        return [text.strip() for text in tokenizer.batch_decode(done[:, width:], skip_special_tokens=True)]


@contextmanager
def tuned_and_base(model: Any, checkpoint: Path, base: Path) -> Iterator[tuple[Any, Any]]:
    """Two ways in: each, entered, gives the model to ask, one after the other, so that one fits at a time."""
    if hasattr(model, "disable_adapter"):
        before = model.active_adapter
        model.load_adapter(str(checkpoint), adapter_name="evaluated")
        model.set_adapter("evaluated")
        was_training = model.training
        model.eval()
        try:
            yield lambda: _given(model), lambda: _without(model)
        finally:
            model.set_adapter(before)
            model.delete_adapter("evaluated")
            model.train(was_training)
    else:
        yield lambda: _loaded(checkpoint, model), lambda: _loaded(base, model)


@contextmanager
def _given(model: Any) -> Iterator[Any]:
    yield model


@contextmanager
def _without(model: Any) -> Iterator[Any]:
    with model.disable_adapter():
        yield model


@contextmanager
def _loaded(folder: Path, like: Any) -> Iterator[Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=like.dtype, local_files_only=True)
    yield model.to(like.device).eval()
