"""Whose a field is, by `metadata.managedFields`: what others say in an object is theirs, and no reason to write."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def stands(live: Json, subresource: str, wish: Json, manager: str) -> bool:
    """Whether applying `wish` as the part `subresource` of an object, as `manager`, would change nothing.

    It would when a value differs, when the manager has a field that the wish no longer mentions, and when it lacks one
    that it does. Fields of other managers beside its own do not matter; neither does the order of keyed lists.
    """
    owned = [
        entry["fieldsV1"].get(f"f:{subresource}", {})
        for entry in live["metadata"].get("managedFields") or []
        if (entry["manager"], entry["operation"], entry.get("subresource", "")) == (manager, "Apply", subresource)
    ]
    return bool(owned) and _same(wish, live.get(subresource), owned[0])


def _same(wish: Any, live: Any, owned: Json) -> bool:
    """Whether two values are the same as far as they are owned.

    `owned` is a set of fields as the API server writes it: `f:NAME` a field, `k:KEYS` an item of a keyed list,
    `v:VALUE` one of a set, and nothing within when the whole value is owned.
    """
    parts = {part: inner for part, inner in owned.items() if part != "."}
    if not parts:
        return bool(wish == live)
    if isinstance(wish, dict) and isinstance(live, dict):
        return {f"f:{name}" for name in wish} == parts.keys() and all(
            name in live and _same(value, live[name], parts[f"f:{name}"]) for name, value in wish.items()
        )
    if isinstance(wish, list) and isinstance(live, list) and len(wish) == len(parts):
        return all(_has_same(wish, live, part, inner) for part, inner in parts.items())
    return False


def _has_same(wish: list[Any], live: list[Any], part: str, owned: Json) -> bool:
    """Whether both lists have the item that `part` names, and it is the same as far as it is owned."""
    kind, _, what = part.partition(":")
    if kind == "v":
        return json.loads(what) in wish and json.loads(what) in live
    if kind != "k":
        return False
    keys: Json = json.loads(what)
    one, other = (
        next((item for item in items if isinstance(item, dict) and keys.items() <= item.items()), None)
        for items in (wish, live)
    )
    return one is not None and other is not None and _same(one, other, owned)
