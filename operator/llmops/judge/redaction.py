"""Secrets that other programs print, masked before anything of theirs reaches a status, an Event or a log."""

from __future__ import annotations

import re

MASK = "***"

# What is a secret by its shape alone, wherever it stands.
TOKENS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\bhf_[A-Za-z0-9]{8,}"),  # hub tokens
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"),  # AWS access keys
    re.compile(r"\b(?:sk|llm)-[A-Za-z0-9_-]{16,}"),  # API keys in OpenAI's form and ours
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"),  # JSON web tokens
)
_PATTERNS = (
    *TOKENS,
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),  # user:password in URLs
    re.compile(r"(?i)(?<=bearer )[^\s\"',]{4,}"),
    re.compile(r"(?i)(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(  # what signed URLs carry
        r"(?i)(?<=[?&;])([a-z0-9_.-]*(?:signature|token|secret|credential|password|passwd|api[-_]?key|access[-_]?key[a-z]*)"
        r"|sig|se|sp|sv|x-amz-[a-z-]+|x-goog-[a-z-]+|policy|key-pair-id|expires)=[^&\s\"']*"
    ),
    re.compile(  # name=value and "name": "value"
        r"(?i)(?<![A-Za-z0-9])((?:[A-Z0-9]+[_-])*"
        r"(?:token|secret|password|passwd|api[_-]?key|secret[_-]?access[_-]?key|signature|credential))"
        r"(\"?'?\s*[=:]\s*\"?'?)[^\s\"',;&]{4,}"
    ),
)


def redacted(text: str) -> str:
    """The text with everything that looks like a credential replaced by `***`."""
    for pattern in _PATTERNS:
        text = pattern.sub(_mask, text)
    return text


def _mask(match: re.Match[str]) -> str:
    """Keep the name of a `name=value` pair: which secret leaked is what the reader must know."""
    groups = match.groups()
    if not groups:
        return MASK
    return f"{groups[0]}{groups[1] if len(groups) > 1 else '='}{MASK}"
