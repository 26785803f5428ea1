"""Types of single fields that more than one kind has: names, references, sources, times, images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from llmops.api.meta import SpecModel
from llmops.api.rules import Matches, Rule, Rules, quoted
from llmops.api.source import DOT_SEGMENT, SCHEMES

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_SUBDOMAIN = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
LABEL_KEY = "([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Matches(DNS_SUBDOMAIN, "'{self}' is not the name of an object: use lower case letters, digits, '-' and '.'"),
]
ProfileName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(
        DNS_LABEL, "'{self}' is not the name of a profile: use lower case letters, digits and '-', as in nvidia-l4"
    ),
]
ModelName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    # '/' would let one team's model look like another's: `namespace/name` is how clients tell equal names apart.
    Matches(
        "[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?",
        "'{self}' cannot be a model's name in requests: use letters, digits, '.', '_', ':' and '-', as in llama-3.1-8b",
    ),
]
ImageName = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Matches(
        "[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
        "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?",
        "'{self}' is not an image reference: write it like registry.example.com/vllm:v0.32.0, without a scheme",
    ),
]


def _cron_field(smallest: str, names: str = "") -> str:
    """One field: `*`, numbers, ranges and steps, in lists. `smallest` matches one number that is in range."""
    one = f"({smallest}|{names})" if names else f"({smallest})"
    item = f"([*]|{one}(-{one})?)(/[1-9][0-9]?)?"
    return f"{item}(,{item})*"


_CRON = " +".join(
    (
        _cron_field("[0-5]?[0-9]"),
        _cron_field("[01]?[0-9]|2[0-3]"),
        _cron_field("0?[1-9]|[12][0-9]|3[01]"),
        _cron_field("0?[1-9]|1[0-2]", "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"),
        _cron_field("[0-7]", "SUN|MON|TUE|WED|THU|FRI|SAT"),
    )
)
Cron = Annotated[
    str,
    Field(min_length=9, max_length=128),
    Matches(
        _CRON,
        "'{self}' is not a cron expression: write minute, hour, day of month, month and day of week, "
        "as in '0 7 * * 1-5' for seven on workdays",
    ),
]
TimeZone = Annotated[
    str,
    Field(min_length=1, max_length=64),
    Matches(
        "[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}",
        "'{self}' is not a time zone: use a name of the IANA database, as in Europe/Berlin or UTC",
    ),
]


class SecretRef(SpecModel):
    """A Secret of the same namespace. The operator never reads it: only the pods that need it do."""

    name: ObjectName = Field(description="Name of a Secret in the namespace of this object. Example: hf-token.")


def sources(schemes: Iterable[str], *, says: str = "where from") -> Rules:
    """The rules for a field that takes a source, or a target, of one of these schemes."""
    allowed = tuple(schemes)
    choice = ", ".join(f"{scheme}://" for scheme in allowed)
    known = Rule(
        cel=f"self.matches('^({'|'.join(allowed)})://')",
        holds=lambda source: source.partition("://")[0] in allowed and "://" in source,
        message=f"'{{self}}' does not say {says}: begin with one of {choice}",
    )
    dots = re.compile(DOT_SEGMENT)
    written_out = Rule(
        cel=f"!self.matches({quoted(DOT_SEGMENT)})",
        holds=lambda source: dots.search(source) is None,
        message="'{self}' has '.' or '..' as a part of its path: write the path out",
    )
    return Rules((known, *(_shape(scheme) for scheme in allowed), written_out))


def _shape(scheme: str) -> Rule:
    pattern, begin = SCHEMES[scheme].pattern, f"{scheme}://"
    whole = re.compile(f"{begin}({pattern})")
    return Rule(
        cel=f"!self.startsWith({quoted(begin)}) || self.matches({quoted(f'^{begin}({pattern})$')})",
        holds=lambda source: not source.startswith(begin) or whole.fullmatch(source) is not None,
        message=f"'{{self}}' is not a complete {begin} source: write it like {SCHEMES[scheme].example}",
    )
