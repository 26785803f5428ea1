"""A rule about what users write: one CEL expression for the API server, its twin in Python, and one message.

The API server judges with the CEL; `llmops lint` and the operator judge with the Python. Both live in one value, so
that they are read, changed and tested together; tests feed both sides the same objects and compare the verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

VALIDATIONS = "x-kubernetes-validations"
# Not FieldValueDuplicate: the API server leaves its message out.
Cause = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]
_HOLE = re.compile(r"\{(\w+(?:\.\w+)*)\}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What must hold for a value (`self`), and what to tell its author when it does not.

    As metadata of a type (`Annotated[str, Rule(...)]`) it judges that value; in a model's `rules` it judges the model.

    Attributes:
        cel: The expression the API server evaluates; true means acceptable.
        holds: The same question in Python.
        message: Says the value and the remedy. `{self}` and `{self.path.to.field}` are filled in by both sides.
        path: Which field below `self` the message is about, as the API server writes it (`.minReplicas`).
        cause: Kubernetes' machine-readable word for it.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    path: str = ""
    cause: Cause = "FieldValueInvalid"

    def check(self, value: Any) -> Any:
        """The value, if the rule holds; a pydantic error with the rule's message if not."""
        if self.holds(value):
            return value
        # PydanticCustomError formats braces of its own template: the text goes in as a parameter
        raise PydanticCustomError("rule", "{text}", {"text": self.complaint(value), "path": self.path})

    def complaint(self, value: Any) -> str:
        """The message about this value."""
        return _HOLE.sub(lambda hole: str(_at(value, hole[1].split(".")[1:])), self.message)

    def validation(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        entry: dict[str, str] = {"rule": self.cel, "reason": self.cause}
        # Not both: the sentence without its values would be shown only where the expression cannot be evaluated, and
        # would be a fifteenth of a definition that has to stay small.
        if _HOLE.search(self.message):
            # No `message` beside it: it would say everything twice, in a definition that must stay small.
            entry["messageExpression"] = self.cel_message()
        else:
            entry["message"] = self.message
        return entry | ({"fieldPath": self.path} if self.path else {})

    def cel_message(self) -> str:
        """The message as a CEL expression that fills in the values of the holes."""
        return cel_format(self.message, str)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, []), self.validation()]
        return schema


@dataclass(frozen=True)
class Rules:
    """Several rules about one value, as one piece of metadata."""

    rules: tuple[Rule, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: Any) -> Any:
        """The value, if all of them hold; a pydantic error for the first that does not."""
        for rule in self.rules:
            rule.check(value)
        return value

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, []), *(rule.validation() for rule in self.rules)]
        return schema


class Matches(Rule):
    """The whole of a text matches a regular expression, written without anchors and in the syntax RE2 has too."""

    def __init__(self, pattern: str, message: str) -> None:
        whole = re.compile(pattern)
        super().__init__(
            cel=f"self.matches({quoted(f'^({pattern})$')})",
            holds=lambda text: whole.fullmatch(text) is not None,
            message=message,
        )


class Keys(Rule):
    """Every key of a map is acceptable. `{keys}` in the message names those that are not.

    `cel` is about one key, called `key`.
    """

    def __init__(
        self, *, cel: str, holds: Callable[[str], bool], message: str, cause: Cause = "FieldValueInvalid"
    ) -> None:
        super().__init__(
            cel=f"self.all(key, {cel})", holds=lambda each: all(map(holds, each)), message=message, cause=cause
        )
        object.__setattr__(self, "_one", (cel, holds))

    def complaint(self, value: Iterable[str]) -> str:
        """The message with the keys that are not acceptable."""
        _, holds = self._one
        return self.message.replace("{keys}", json.dumps([key for key in value if not holds(key)], ensure_ascii=False))

    def cel_message(self) -> str:
        """The same in CEL."""
        cel, _ = self._one
        return cel_format(self.message, lambda _: f"self.filter(key, !({cel}))")

    _one: tuple[str, Callable[[str], bool]]


@dataclass(frozen=True, kw_only=True)
class Transition:
    """What must hold between a stored value (`oldSelf`) and the one that replaces it (`self`)."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str
    path: str = ""
    cause: Cause = "FieldValueForbidden"

    def validation(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        entry: dict[str, str] = {"rule": self.cel, "reason": self.cause, "message": self.message}
        return entry | ({"fieldPath": self.path} if self.path else {})


@dataclass(frozen=True)
class MapByKey:
    """A list whose entries are told apart by one field: two appliers may each own some, and none may come twice."""

    key: str

    def check(self, entries: list[Any]) -> list[Any]:
        """The list, if no two entries share the key."""
        seen = set()
        for index, entry in enumerate(entries):
            name = getattr(entry, to_snake(self.key))
            if name in seen:
                text = f"'{name}' is used twice: give every entry its own {self.key}"
                raise PydanticCustomError("rule", "{text}", {"text": text, "path": f"[{index}]"})
            seen.add(name)
        return entries

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


def cel_format(message: str, value: Callable[[str], str]) -> str:
    """A message with holes as a CEL expression; `value` gives the expression of one hole.

    By `format` and not by `+`: the API server cannot bound how long `string(...)` is, and so refuses a sum of such.
    """
    template = _HOLE.sub("%s", message.replace("%", "%%"))
    return f"{quoted(template)}.format([{', '.join(value(hole[1]) for hole in _HOLE.finditer(message))}])"


def quoted(text: str) -> str:
    """A CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        value = getattr(value, to_snake(name))
    return value
