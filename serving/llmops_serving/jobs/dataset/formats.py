"""What a row may hold, by rule. A row that breaks one is described without its values: data is not ours to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["Messages", "PromptCompletion", "Text", "Preference"]
KEYS: dict[Format, tuple[str, ...]] = {
    "Messages": ("messages",),
    "Preference": ("prompt", "chosen", "rejected"),
    "PromptCompletion": ("prompt", "completion"),
    "Text": ("text",),
}
ROLES = ("system", "developer", "user", "assistant", "tool")
Json = dict[str, Any]


def not_taught(method: str) -> frozenset[Format]:
    """The formats that a method does not learn from."""
    taught: dict[str, set[Format]] = {"ContinuedPretraining": {"Text"}, "DPO": {"Preference"}}
    return frozenset(KEYS) - taught.get(method, {"Messages", "PromptCompletion", "Text"})


class Wrong(Exception):
    """What is wrong with a row, to be read after `line 3 `."""


@dataclass(frozen=True)
class Example:
    """A row that holds what its format asks for.

    Attributes:
        value: The row as it is trained on: only the fields that mean something, in a fixed order.
        question: What it is an answer to, for telling rows of one question; of Text, the text.
        empty: There is nothing to learn: an empty answer or text.
    """

    value: Json
    question: str
    empty: bool


def detected(values: Iterable[Any]) -> Format | None:
    """The format of the first row that has one."""
    for value in values:
        if isinstance(value, dict):
            for kind, keys in KEYS.items():
                if all(key in value for key in keys):
                    return kind
    return None


def example(value: Any, kind: Format) -> Example:
    """The row, judged.

    Raises:
        Wrong: it breaks a rule of its format.
    """
    if not isinstance(value, dict):
        raise Wrong(f"is {_described(value)}, not an object with {_listed(KEYS[kind])}")
    missing = [key for key in KEYS[kind] if key not in value]
    if missing:
        has = _listed(sorted(map(str, value))[:6]) if value else "nothing"
        raise Wrong(f"lacks {_listed(missing)} of format {kind}; it has {has}")
    match kind:
        case "Messages":
            return _messages(value)
        case "PromptCompletion":
            prompt, completion = _text(value, "prompt"), _text(value, "completion")
            return Example({"prompt": prompt, "completion": completion}, prompt, not completion.strip())
        case "Preference":
            return _preference(value)
        case "Text":
            text = _text(value, "text")
            return Example({"text": text}, text, not text.strip())


def _messages(row: Json) -> Example:
    found = row["messages"]
    if not isinstance(found, list) or not found:
        raise Wrong(f"has {_described(found)} as messages, not a list of turns")
    turns = _turns(found, "messages")
    roles = [turn["role"] for turn in turns]
    if any(role in ("system", "developer") for role in roles[1:]):
        raise Wrong("has a system message after the first turn")
    if "assistant" not in roles:
        raise Wrong("has no assistant turn, so that there is nothing to learn")
    if roles[-1] != "assistant":
        raise Wrong(f"ends with a {roles[-1]} turn; the last one must be the assistant's")
    return Example({"messages": turns}, _said(turns[:-1]), not turns[-1]["content"].strip())


def _preference(row: Json) -> Example:
    """Two answers to one prompt, as texts or, all three, as turns of a conversation."""
    if isinstance(row["prompt"], list):
        turns = {key: _turns(row[key], key) for key in KEYS["Preference"]}
        if not turns["prompt"] or turns["prompt"][-1]["role"] == "assistant":
            raise Wrong("has a prompt that does not end with what is to be answered")
        for key in ("chosen", "rejected"):
            if [turn["role"] for turn in turns[key]] != ["assistant"]:
                raise Wrong(f"has {key} that is not one assistant turn")
        prompt = _said(turns["prompt"])
        chosen, rejected = turns["chosen"][0]["content"], turns["rejected"][0]["content"]
        value: Json = dict(turns)
    else:
        value = {key: _text(row, key) for key in KEYS["Preference"]}
        prompt, chosen, rejected = value["prompt"], value["chosen"], value["rejected"]
    if chosen == rejected:
        raise Wrong("has the same text as chosen and as rejected, which says nothing")
    return Example(value, prompt, not chosen.strip())


def _turns(found: Any, key: str) -> list[dict[str, str]]:
    if not isinstance(found, list):
        raise Wrong(f"has {_described(found)} as {key}, not a list of turns as prompt is")
    return [_turn(entry, f"{key}[{number}]") for number, entry in enumerate(found)]


def _said(turns: list[dict[str, str]]) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _turn(entry: Any, where: str) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise Wrong(f"has {_described(entry)} as {where}, not an object with role and content")
    role = entry.get("role")
    if role not in ROLES:
        raise Wrong(f"has {_described(role)} as {where}.role, not one of {_listed(ROLES)}")
    content = entry.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(content, str):
        raise Wrong(f"has {_described(content)} as {where}.content, not a text")
    return {"role": str(role), "content": _writable(content, f"{where}.content")}


def _text(row: Json, key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise Wrong(f"has {_described(value)} as {key}, not a text")
    return _writable(value, key)


def _writable(text: str, where: str) -> str:
    """JSON may escape half of a surrogate pair; no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Wrong(f"has half of a surrogate pair in {where}") from error
    return text


def _described(value: Any) -> str:
    """A value by its kind and size alone."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def _listed(words: Iterable[str]) -> str:
    return ", ".join("".join(c for c in word[:40] if not unicodedata.category(c).startswith("C")) for word in words)
