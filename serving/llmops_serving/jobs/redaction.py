"""Masks secrets in text that leaves the pod: log lines, termination messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from llmops.judge.redaction import MASK, redacted

SHORTEST_SECRET = 6  # a shorter value would mask ordinary words, and is no secret
SECRET_NAME = re.compile(
    r"(?i)token|secret|password|passwd|credential|_key(_previous)?\b|access_key|key_id|sas|service_account_key"
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets (also as a URL would carry them) and without anything that looks like one."""
    known = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in (secret, quote(secret, safe=""))}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return redacted(text)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the environment whose names say that they are secret."""
    return tuple(value for name, value in environment.items() if value and SECRET_NAME.search(name))
