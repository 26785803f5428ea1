"""Personal data in a text, written as its kind: `<EMAIL>`. What has a check digit is believed only where it holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import phonenumbers

from llmops.judge.redaction import TOKENS

Kind = Literal["Email", "Phone", "IBAN", "Card", "Secret"]

# Every pattern begins where it cannot have begun earlier and is bounded: a hostile row costs no quadratic time.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])"
)
_IBAN_LENGTHS = range(15, 35)
# Payment cards begin with 2 to 6; other long numbers, of which Luhn's formula takes one in ten, begin with any digit.
_CARD = re.compile(r"(?<![\d.])[2-6](?:[ -]?\d){12,18}(?![\d.]*\d)")
_SECRETS = (
    *TOKENS,
    re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{10,}|\bAIza[A-Za-z0-9_-]{30,}"),
    # password: hunter2 in a sentence; `a password: choose one` is none, and so the value needs a digit
    re.compile(r"(?i)(?<=password[=:])\s*(?=\S{0,64}\d)\S{6,64}|(?<=api[_-]key[=:])\s*(?=\S{0,64}\d)\S{8,128}"),
)
_DIGITS = re.compile(r"\d(?:[ ()./-]{0,3}\d){5}")  # the shortest that could be a telephone number


def masked(text: str, kinds: Iterable[Kind], region: str | None, found: Counter[str]) -> str:
    """The text with every finding of the given kinds replaced; `found` counts them by kind.

    Args:
        text: Any text.
        kinds: What to look for; the order does not matter.
        region: Country whose telephone numbers are known without their country code.
        found: Counts, added to.
    """
    wanted = set(kinds)
    for kind, search in _SEARCHES.items():
        if kind in wanted:
            text = search(text, partial(_mask, kind, found))
    if "Phone" in wanted:
        text = _phones(text, region, found)
    return text


def _mask(kind: str, found: Counter[str]) -> str:
    found[kind] += 1
    return f"<{kind.upper()}>"


def _secrets(text: str, mask: Callable[[], str]) -> str:
    for pattern in _SECRETS:
        text = pattern.sub(lambda _: mask(), text)
    return text


def _emails(text: str, mask: Callable[[], str]) -> str:
    return _EMAIL.sub(lambda _: mask(), text) if "@" in text else text


def _ibans(text: str, mask: Callable[[], str]) -> str:
    def judged(match: re.Match[str]) -> str:
        whole = match[0]
        for end in range(len(whole), 0, -1):  # a word after it may look like one more group
            inner = end < len(whole) and whole[end].isalnum()
            if not inner and is_iban(whole[:end]):
                return mask() + whole[end:]
        return whole

    return _IBAN.sub(judged, text)


def is_iban(text: str) -> bool:
    """Whether its letters as numbers, the first four characters last, leave 1 when divided by 97 (ISO 13616)."""
    plain = re.sub("[ -]", "", text).upper()
    if len(plain) not in _IBAN_LENGTHS:
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _cards(text: str, mask: Callable[[], str]) -> str:
    return _CARD.sub(lambda match: mask() if is_luhn(match[0]) else match[0], text)


def is_luhn(text: str) -> bool:
    """Whether every second digit from the right, doubled, and the others add up to tens (ISO 7812)."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _phones(text: str, region: str | None, found: Counter[str]) -> str:
    if not _DIGITS.search(text):
        return text  # reading every number as every country writes it takes milliseconds
    for match in reversed(list(phonenumbers.PhoneNumberMatcher(text, region))):
        text = text[: match.start] + _mask("Phone", found) + text[match.end :]
    return text


# The more certain first: an account's digits could be a telephone number's.
_SEARCHES: dict[str, Callable[[str, Callable[[], str]], str]] = {
    "Secret": _secrets,
    "Email": _emails,
    "IBAN": _ibans,
    "Card": _cards,
}
