"""Kubernetes quantities (`500m`, `40Gi`, `2`) and how a schema says them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P"), start=1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), start=1)},
}
_NUMBER = "[0-9]{1,15}([.][0-9]{1,9})?"
QUANTITY = f"^{_NUMBER}(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
SIZE = "^[1-9][0-9]{0,14}([.][0-9]{1,3})?(M|G|T|P|Mi|Gi|Ti|Pi)$"  # a volume without a unit is a typing error
# Above zero, at most three decimals: 0.001 is a request in a quarter of an hour.
RATE = "^([1-9][0-9]{0,5}([.][0-9]{1,3})?|0[.]([1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9]))$"


def amount(quantity: int | str) -> Decimal:
    """The number that a quantity means, exactly.

    Raises:
        ValueError: It is not a quantity.
    """
    found = re.fullmatch(f"({_NUMBER})([A-Za-z]*)", str(quantity))
    if found is None or found[3] not in _FACTORS:
        raise ValueError(f"'{quantity}' is not a quantity: write it like 500m, 2 or 40Gi")
    return Decimal(found[1]) * _FACTORS[found[3]]


@dataclass(frozen=True)
class IntOrString:
    """Metadata of an `int | str` field: Kubernetes' int-or-string, which `kubectl explain` shows by that name.

    Decimals are strings, because a float has no exact JSON and the API conventions forbid it; whole numbers may be
    written without quotes.
    """

    pattern: str
    minimum: int
    max_length: int = 32

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        whole = core_schema.int_schema(ge=self.minimum, strict=True)
        text = core_schema.str_schema(pattern=self.pattern, max_length=self.max_length, strict=True)
        return core_schema.union_schema([whole, text], mode="left_to_right")

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": self.minimum,
            "maxLength": self.max_length,
            "pattern": self.pattern,
        }
