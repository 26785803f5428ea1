"""What spec.dataset.prepare asks for, row by row: personal data masked, rows left out that nobody should learn from."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from llmops.api.fine_tune_job import PrepareSpec
from llmops_serving.jobs.dataset import formats
from llmops_serving.jobs.dataset.formats import Example, Format
from llmops_serving.jobs.dataset.personal import masked

Json = dict[str, Any]
LeftOut = Literal["empty", "language", "short", "long"]

LOOKED_AT = 2000  # characters of a row that tell its language
LIKELY = 0.5


class Preparation:
    """The steps of one data set; `masked` counts what was masked, by kind.

    Args:
        spec: What is asked for.
        tokens: Counts the tokens of a row as it is trained on; `None` where no tokenizer is at hand.

    Raises:
        ValueError: lengths or languages are asked for that nothing here can tell.
    """

    def __init__(self, spec: PrepareSpec, tokens: Callable[[Json], int] | None) -> None:
        self._spec, self._tokens = spec, tokens
        if (spec.min_tokens or spec.max_tokens) and tokens is None:
            raise ValueError("minTokens and maxTokens count the base model's tokens: name its directory")
        self._language = _Languages(frozenset(spec.languages)) if spec.languages else None
        self.masked: Counter[str] = Counter()

    def prepared(self, row: Example, kind: Format) -> Example | LeftOut:
        """The row as it is learned from, or why it is left out.

        Raises:
            Wrong: the base model's template refuses it.
        """
        spec = self._spec
        if row.empty and spec.drop_empty:
            return "empty"
        if self._language and not self._language.holds(" ".join(_texts(row.value))):
            return "language"
        if spec.mask_personal_data:
            row = formats.example(self._mask(row.value), kind)
        if self._tokens and (spec.min_tokens or spec.max_tokens):
            tokens = self._tokens(row.value)
            if spec.min_tokens and tokens < spec.min_tokens:
                return "short"
            if spec.max_tokens and tokens > spec.max_tokens:
                return "long"
        return row

    def _mask(self, value: Any) -> Any:
        match value:
            case str():
                return masked(value, self._spec.mask_personal_data, self._spec.phone_region, self.masked)
            case list():
                return [self._mask(entry) for entry in value]
            case dict():
                return {key: entry if key == "role" else self._mask(entry) for key, entry in value.items()}
        return value


class _Languages:
    """Languages that are wanted, by py3langid's model (offline, 5 MB).

    Raises:
        ValueError: it does not know one of them.
    """

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted, self._identifier = wanted, _identifier()
        if unknown := wanted - set(self._identifier.labels):
            raise ValueError(f"no language {', '.join(sorted(unknown))} is known: use ISO 639 codes, as in en")

    def holds(self, text: str) -> bool:
        """Whether the text may be in one of them: short texts say little, and stay."""
        language, probability = self._identifier.classify(text[:LOOKED_AT])
        return language in self._wanted or bool(probability <= LIKELY)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415 - takes a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [text for entry in value for text in _texts(entry)]
        case dict():
            return [text for key, entry in value.items() if key != "role" for text in _texts(entry)]
    return []
