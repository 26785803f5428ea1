"""Amounts that are typed on the command line."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from llmops.cli.cluster import CliError


def decimal(text: str) -> Decimal:
    """An amount that somebody may have to pay.

    Raises:
        CliError: it is none.
    """
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise CliError(f"'{text}' is not a number", 2) from error
    if not value.is_finite() or value < 0:
        raise CliError(f"'{text}' is not a number that can be paid", 2)
    return value
