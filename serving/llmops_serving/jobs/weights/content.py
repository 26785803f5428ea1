"""What a model's files may contain: safetensors headers that match the file, configuration that runs no code."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmops_serving.jobs.outcome import Failure, Reason

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_CONFIG_BYTES = 16 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_JSON_BYTES = 512 << 20  # nothing but weights is larger
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
# Bits per element, as the format's reference implementation knows them.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check(path: str, file: Path, *, trust_remote_code: bool, listed: Collection[str]) -> None:
    """Raise UnsafeModel or ChecksumMismatch when this file must not reach an engine. `listed` are the model's files."""
    name = path.rsplit("/", 1)[-1]
    size = file.stat().st_size
    if name.endswith(".safetensors"):
        check_safetensors(path, file)
    elif size > MAX_JSON_BYTES and not name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")):
        raise _unsafe(path, f"is {size} bytes long, which no configuration is")
    elif name in CONFIGS:
        _check_config(path, _json(path, file, MAX_CONFIG_BYTES), trust_remote_code=trust_remote_code)
    elif name.endswith(".safetensors.index.json"):
        _check_index(path, _json(path, file, MAX_INDEX_BYTES), listed)


def check_safetensors(path: str, file: Path) -> None:
    """The header parses, and its tensors fill the file exactly: no hole, no overlap, nothing missing at the end."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(path, f"is cut off within its header ({size} bytes)")
        if length > MAX_HEADER_BYTES:
            raise _unsafe(path, f"has a header of {length} bytes")
        header = _parsed(path, stream.read(length))
    spans = sorted(_span(path, name, tensor) for name, tensor in header.items() if name != "__metadata__")
    at = 0
    for first, last in spans:
        if first != at:
            raise _unsafe(path, "has tensors that overlap or leave a hole")
        at = last
    if size != 8 + length + at:
        raise _damaged(path, f"is {size} bytes long, its header says {8 + length + at}")


def _span(path: str, name: str, tensor: Any) -> tuple[int, int]:
    try:
        bits, shape, (first, last) = BITS[tensor["dtype"]], tensor["shape"], tensor["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
        fits = whole and first <= last and (last - first) * 8 == math.prod(shape) * bits
    except (KeyError, TypeError, ValueError) as error:
        raise _unsafe(path, f"has a malformed tensor {name[:40]!a}") from error
    if not fits:
        raise _unsafe(path, f"has a tensor {name[:40]!a} whose shape is not its size")
    return first, last


def _check_config(path: str, config: dict[str, Any], *, trust_remote_code: bool) -> None:
    if not trust_remote_code and any("auto_map" in level for level in _objects(config)):
        raise _unsafe(
            path, "has an auto_map, which makes the engine run code of the model. Trust it explicitly to allow it"
        )


def _check_index(path: str, index: dict[str, Any], listed: Collection[str]) -> None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise _unsafe(path, "has no weight_map of file names")
    folder = path.rpartition("/")[0]
    missing = sorted({shard for shard in shards.values() if (f"{folder}/{shard}" if folder else shard) not in listed})
    if missing:
        message = f"{path} names {len(missing)} file(s) that the source does not have, e.g. {missing[0][:80]!a}."
        raise Failure(Reason.MODEL_NOT_FOUND, message)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        level = waiting.pop()
        if isinstance(level, dict):
            yield level
            waiting.extend(level.values())
        elif isinstance(level, list):
            waiting.extend(level)


def _json(path: str, file: Path, limit_bytes: int) -> dict[str, Any]:
    if file.stat().st_size > limit_bytes:
        raise _unsafe(path, f"is larger than {limit_bytes} bytes")
    return _parsed(path, file.read_bytes())


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _unsafe(path, f"is not JSON that can be read ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise _unsafe(path, "is not a JSON object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two parsers may read two values from a repeated key, so what was checked would not be what is loaded."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _unsafe(path: str, flaw: str) -> Failure:
    return Failure(Reason.UNSAFE_MODEL, f"{path} {flaw}.")


def _damaged(path: str, flaw: str) -> Failure:
    return Failure(Reason.CHECKSUM_MISMATCH, f"{path} {flaw}.")
