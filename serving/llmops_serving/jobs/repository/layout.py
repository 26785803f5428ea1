"""Whether a stored model makes sense: safetensors headers against the file's length, the index and config.json."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from llmops_serving.jobs.repository.errors import RepositoryError, Unsafe
from llmops_serving.jobs.repository.format import FileEntry, Manifest
from llmops_serving.jobs.repository.pieces import HEADER_LIMIT_BYTES, Tensor, header_of, tensors
from llmops_serving.jobs.repository.repository import Repository

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


def layout_findings(repository: Repository, manifest: Manifest) -> list[tuple[str, str]]:
    """(path, problem) for each file of the point that could not be served as it is."""
    found: list[tuple[str, str]] = []
    by_folder: dict[str, list[Tensor]] = {}
    for file in manifest.files:
        if file.path.endswith(".safetensors") and not file.pointer:
            folder = file.path.rpartition("/")[0]
            try:
                by_folder.setdefault(folder, []).extend(_tensors(repository, file))
            except (Unsafe, RepositoryError) as problem:
                found.append((file.path, str(problem)))
    for file in manifest.files:
        folder, _, name = file.path.rpartition("/")
        if folder not in by_folder or file.pointer:
            continue
        if name == "model.safetensors.index.json":
            found += [(file.path, problem) for problem in _index_problems(repository, file, by_folder[folder])]
        if name == "config.json":
            found += [(file.path, problem) for problem in _config_problems(repository, file, by_folder[folder])]
    return found


def _tensors(repository: Repository, file: FileEntry) -> list[Tensor]:
    head = _head(repository, file, 8)
    length = int.from_bytes(head[:8], "little")
    if length > HEADER_LIMIT_BYTES:
        raise Unsafe("not a safetensors file: its header is longer than any")
    header, data_start = header_of(io.BytesIO(_head(repository, file, 8 + length)), file.bytes)
    return tensors(header, data_start=data_start, file_bytes=file.bytes)


def _index_problems(repository: Repository, file: FileEntry, present: list[Tensor]) -> Iterator[str]:
    value = _json(repository, file)
    missing = set(value.get("weight_map", {})) - {tensor.name for tensor in present}
    if missing:
        yield f"names {len(missing)} tensors that no file has, such as {min(missing)}"


def _config_problems(repository: Repository, file: FileEntry, present: list[Tensor]) -> Iterator[str]:
    config = _json(repository, file)
    config = {**config, **config.get("text_config", {})}
    vocabulary, hidden = config.get("vocab_size"), config.get("hidden_size", config.get("n_embd"))
    if isinstance(vocabulary, int) and isinstance(hidden, int):
        for tensor in present:
            embeds = tensor.name.endswith(EMBEDDINGS) and len(tensor.shape) == 2
            if embeds and (tensor.shape[0] < vocabulary or tensor.shape[1] != hidden):
                yield f"{tensor.name} has shape {list(tensor.shape)}; the config says [{vocabulary}, {hidden}]"
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    numbers = {int(part) for tensor in present for part in tensor.name.split(".")[:4] if part.isdigit()}
    if isinstance(layers, int) and numbers and len(numbers) < layers:
        yield f"{len(numbers)} layers are stored; the config says {layers}"


def _head(repository: Repository, file: FileEntry, length: int) -> bytes:
    read = bytearray()
    for piece in file.pieces:
        if len(read) >= length:
            break
        read += repository.read_blob(piece.blob).data
    return bytes(read[:length])


def _json(repository: Repository, file: FileEntry) -> dict[str, Any]:
    try:
        value = json.loads(_head(repository, file, file.bytes))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
