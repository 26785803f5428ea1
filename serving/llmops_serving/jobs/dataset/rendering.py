"""A row as the tokens that are trained on: which of them are learned, and that the one that ends an answer is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops_serving.jobs.dataset.formats import Wrong

IGNORED = -100  # torch's and transformers' label of a token that no loss is taken on
Json = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """One row in tokens.

    Attributes:
        ids: At most `max_length` tokens.
        labels: The same tokens where they are learned, `IGNORED` elsewhere.
        tokens: How many there were before the cut.
        stops: Whether every answer ends in a learned stop token; `None` where the cut took an end away.
    """

    ids: list[int]
    labels: list[int]
    tokens: int
    stops: bool | None

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORED for label in self.labels)


class Renderer:
    """One model's tokenizer and chat template. The template runs in transformers' sandbox; no code of the model does.

    Args:
        tokenizer: A fast tokenizer of transformers.
        stops: Ids that end an answer when the model is served.
        max_length: Longest row, in tokens; what is longer is cut at its end.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[int], *, max_length: int) -> None:
        self.tokenizer, self.stops, self.max_length = tokenizer, stops, max_length

    @classmethod
    def of(cls, model: Path, *, max_length: int) -> Renderer:
        """The renderer of a model's directory.

        Raises:
            OSError, ValueError: it holds no tokenizer that can be used without code of its own.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import; not needed to check the rows

        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        if not tokenizer.is_fast:
            raise ValueError("the model's tokenizer cannot tell where its tokens stand: tokenizer.json is missing")
        return cls(tokenizer, _stops(model, tokenizer), max_length=max_length)

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.tokenizer.chat_template)

    def rendered(self, row: Json) -> Rendered:
        """The row in tokens; of two answers to one prompt, the chosen one.

        Raises:
            Wrong: the template refuses it.
        """
        if "chosen" in row:
            return self._answered(row["prompt"], row["chosen"])
        if "messages" in row:
            text, spans = self._chat(row["messages"])
            return self._cut(*self._marked(text, spans))
        ending = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        if "text" in row:
            ids = [*self.tokenizer(row["text"])["input_ids"], *ending]
            return self._cut(ids, [True] * len(ids))
        return self._answered(row["prompt"], row["completion"])

    def pair(self, row: Json) -> tuple[Rendered, Rendered]:
        """A row of format Preference: the prompt with the chosen answer, and with the rejected one.

        Raises:
            Wrong: the template refuses it.
        """
        return self._answered(row["prompt"], row["chosen"]), self._answered(row["prompt"], row["rejected"])

    def question(self, row: Json) -> tuple[list[int], str]:
        """The tokens that are given to the model, and the answer that is hoped for; of Text there is no question."""
        if "messages" in row:
            asked, answer = row["messages"][:-1], row["messages"][-1]["content"]
        else:
            asked, answer = row["prompt"], row.get("completion", row.get("chosen"))
        if isinstance(asked, str):
            return list(self.tokenizer(asked)["input_ids"]), str(answer)
        text = self._written(asked, answer=True)
        said = answer if isinstance(answer, str) else answer[-1]["content"]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]), said

    def _answered(self, prompt: Any, answer: Any) -> Rendered:
        if not isinstance(prompt, str):
            text, spans = self._chat([*prompt, *answer])
            return self._cut(*self._marked(text, spans[-1:]))
        ending = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        asked = self.tokenizer(prompt)["input_ids"]
        learned = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], *ending]
        return self._cut([*asked, *learned], [False] * len(asked) + [True] * len(learned))

    def _cut(self, ids: Sequence[int], learned: Sequence[bool]) -> Rendered:
        labels = [token if learn else IGNORED for token, learn in zip(ids, learned, strict=True)]
        ends = [n for n, learn in enumerate(learned) if learn and not (n + 1 < len(ids) and learned[n + 1])]
        whole = len(ids) <= self.max_length
        stops = bool(ends) and all(ids[end] in self.stops for end in ends) if whole else None
        return Rendered(list(ids[: self.max_length]), labels[: self.max_length], len(ids), stops)

    def _chat(self, messages: list[Json]) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as the server will write it, and where the assistant's own words stand, ends included."""
        whole, spans = self._written(messages), []
        for number, turn in enumerate(messages):
            if turn["role"] != "assistant":
                continue
            before = self._written(messages[:number], answer=True) if number else ""
            after = self._written(messages[: number + 1]).rstrip()
            if whole.startswith(before) and whole.startswith(after):
                spans.append((len(before), len(after)))
            elif number == len(messages) - 1:
                raise Wrong("is written by the chat template so that its last answer cannot be told from the rest")
        return whole, spans

    def _written(self, messages: list[Json], *, answer: bool = False) -> str:
        import jinja2  # noqa: PLC0415 - comes with transformers

        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))
        except jinja2.TemplateError as error:
            raise Wrong(f"is refused by the model's chat template: {' '.join(str(error).split())[:120]}") from error

    def _marked(self, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        learned = [
            any(begin <= start and end <= stop for begin, stop in spans) and end > start
            for start, end in encoded["offset_mapping"]
        ]
        return encoded["input_ids"], learned


def _stops(model: Path, tokenizer: Any) -> frozenset[int]:
    """The ids at which the engine stops: the tokenizer's end and what generation_config.json adds."""
    found = {tokenizer.eos_token_id} - {None}
    config = model / "generation_config.json"
    if config.is_file():
        said = json.loads(config.read_text(encoding="utf-8")).get("eos_token_id")
        found |= set(said) if isinstance(said, list) else {said} - {None}
    return frozenset(found)
