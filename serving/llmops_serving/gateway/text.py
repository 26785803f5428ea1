"""What a sampled answer is like, as words for counters. The text is looked at in memory and kept nowhere. Pure."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from typing import Any, Final

import orjson

MAX_BYTES: Final = 256 * 1024  # of an answer's body; a longer one is judged by its beginning
_LANGUAGE_LETTERS: Final = 40  # fewer say little about a language
_WORDS_OF_A_PHRASE: Final = 4
_LEAST_PHRASES: Final = 16
_REPEATED_SHARE: Final = 0.5
_EVENT: Final = re.compile(rb"^data: ?(\{.*\})\s*$", re.MULTILINE)
# How models decline, at the beginning of an answer, in the languages most of them are trained to decline in.
_REFUSAL: Final = re.compile(
    r"^\W*(?:(?:i'?m|i am) (?:really |very |so |truly )?sorry\b|i (?:can(?:'|no)?t|am unable|am not able|won't)\b"
    r"|i must decline|as an ai\b|sorry, (?:but )?i\b|unfortunately,? i (?:can|am)"
    r"|es tut mir leid|ich kann (?:dir |ihnen )?(?:leider|dabei nicht)|je suis désolée?|je ne peux pas"
    r"|lo siento|no puedo|mi dispiace|non posso|desculpe|não posso)",
    re.IGNORECASE,
)


def sampled(body: bytes, fraction: float) -> bool:
    """Whether the answer to this request is looked at: the same request always, or never."""
    return zlib.crc32(body) < fraction * 2**32


def wants_json(body: bytes) -> bool:
    """Whether the request asks for JSON by `response_format`; a guess from its bytes, wrong only for who quotes it."""
    return b'"json_object"' in body or b'"json_schema"' in body


def signals(answer: bytes, *, json_wanted: bool) -> dict[str, str]:
    """The value of each signal of a chat or completion answer; empty where the answer has no text to look at.

    Args:
        answer: The body: a JSON document, or events of a stream.
        json_wanted: Whether the request asked for JSON.

    Returns:
        `empty`, `refusal` and `repetition`: yes or no. `json`, where wanted: valid or invalid. `language`, where there
        is enough text: a code of ISO 639-1.
    """
    found = _text(answer)
    if found is None:
        return {}
    text, called = found
    stripped = text.strip()
    values = {
        "empty": _word(not stripped and not called),
        "refusal": _word(_REFUSAL.match(stripped) is not None),
        "repetition": _word(_repetitive(stripped)),
    }
    if json_wanted:
        values["json"] = "valid" if _is_json(stripped) else "invalid"
    if sum(map(str.isalpha, stripped)) >= _LANGUAGE_LETTERS:
        values["language"] = _language(stripped)
    return values


def _text(answer: bytes) -> tuple[str, bool] | None:
    """The text of the first choice, and whether it calls a tool; None where there are no choices."""
    parts: list[str] = []
    called = seen = False
    for document in _documents(answer):
        choices = document.get("choices")
        if not isinstance(choices, list):
            continue
        seen = True
        for choice in choices[:1]:
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            said = choice.get("delta") or choice.get("message") or {}
            content = said.get("content") if isinstance(said, dict) else None
            content = choice.get("text") if content is None else content
            if isinstance(content, str):
                parts.append(content)
            called = called or bool(isinstance(said, dict) and said.get("tool_calls"))
    return ("".join(parts), called) if seen else None


def _documents(answer: bytes) -> list[dict[str, Any]]:
    found = []
    for raw in _EVENT.findall(answer) or [answer]:
        try:
            document = orjson.loads(raw)
        except ValueError:
            continue  # cut short
        if isinstance(document, dict):
            found.append(document)
    return found


def _repetitive(text: str) -> bool:
    """Whether half of the phrases have been said before: a loop, which temperature or a bad adapter causes."""
    words = text.lower().split()
    phrases = Counter(zip(*(words[start:] for start in range(_WORDS_OF_A_PHRASE)), strict=False))
    total = phrases.total()
    return total >= _LEAST_PHRASES and 1 - len(phrases) / total > _REPEATED_SHARE


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _language(text: str) -> str:
    import py3langid  # noqa: PLC0415 - 50 MB that only a gateway with text signals needs

    code: str = py3langid.classify(text[:2000])[0]
    return code


def _word(value: bool) -> str:  # noqa: FBT001 - a word for a value
    return "yes" if value else "no"
