"""Which series and labels expressions ask for, and which ones a process says: by Prometheus' own parsers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.scraping import Scraper

Json = dict[str, Any]
Wanted = dict[str, set[str]]
MISTAKEN = "exported_namespace"  # what a scrape without honorLabels makes of `namespace`: a rule looks for it
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


def wanted(server: Scraper, expressions: Iterable[str]) -> Wanted:
    """The labels that these expressions need, by series."""
    found: Wanted = {}
    for expression in expressions:
        for name, labels in _selected(server.tree(expression), frozenset()):
            found.setdefault(name, set()).update(labels)
    return found


def _selected(node: Json, needed: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Series below a node of the tree, each with the labels that the node and those above it look at."""
    match node["type"]:
        case "vectorSelector" | "matrixSelector":
            matched = {each["name"] for each in node["matchers"] if each["name"] != "__name__"}
            names = [each["value"] for each in node["matchers"] if each["name"] == "__name__"]
            yield node["name"] or names[0], needed | matched
        case "aggregation":
            yield from _selected(node["expr"], frozenset(node["grouping"]))
        case "binaryExpr":
            matching = node.get("matching") or {}
            on = frozenset(matching.get("labels", ())) if matching.get("on") else frozenset()
            yield from _selected(node["lhs"], needed | on)
            yield from _selected(node["rhs"], on if matching.get("on") else needed)
        case "call" if node["func"]["name"] == "label_replace":
            target, source = node["args"][1]["val"], node["args"][3]["val"]
            yield from _selected(node["args"][0], needed - {target} | ({source} if source else set()))
        case _:
            for child in (node.get("expr"), *node.get("args", ())):
                if child:
                    yield from _selected(child, needed)


def said(page: str) -> dict[str, set[str] | None]:
    """Labels by series, from the text of a process's /metrics; None for a series without a sample."""
    found: dict[str, set[str] | None] = {}
    for family in text_string_to_metric_families(page):
        for suffix in SUFFIXES.get(family.type, ("",)):
            found.setdefault(f"{family.name}{suffix}", None)
        for sample in family.samples:
            found[sample.name] = (found.get(sample.name) or set()) | set(sample.labels)
    return found


def engines(package: Path) -> dict[str, set[str] | None]:
    """Series that vLLM defines, from the source that its image runs."""
    found: dict[str, set[str] | None] = {}
    for call in ast.walk(ast.parse((package / "v1" / "metrics" / "loggers.py").read_text())):
        made = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr
        if not made or not re.fullmatch("_(gauge|counter|histogram)_cls", made):
            continue
        assert isinstance(call, ast.Call)
        for each in call.keywords:
            if each.arg == "name" and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str):
                found |= {f"{each.value.value}{suffix}": None for suffix in SUFFIXES[made.split("_")[1]]}
    return found


def missing(asked: Wanted, pages: Iterable[dict[str, set[str] | None]], recorded: Iterable[str]) -> list[str]:
    """What is asked for and nobody says, one line each."""
    known: dict[str, set[str] | None] = dict.fromkeys([*recorded, "ALERTS"])
    for page in pages:
        known |= page
    lines = [f"{name}: there is no such series" for name in sorted(asked.keys() - known.keys())]
    for name in sorted(asked.keys() & known.keys()):
        labels = known[name]
        lacking = asked[name] - labels if labels else set()
        lacking -= {MISTAKEN}
        lines += [f"{name}: has no label {label}" for label in sorted(lacking)]
    return lines
