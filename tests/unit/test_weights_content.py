from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from llmops_serving.jobs.outcome import Failure
from llmops_serving.jobs.weights import content

GOOD = save({"a": np.zeros((3, 4), np.float32), "b": np.ones(5, np.int64), "empty": np.zeros((0, 2), np.float16)})


def packed(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def tensor(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = [
    ("empty", b"", "ChecksumMismatch"),
    ("less than a length", b"\x01\x02", "ChecksumMismatch"),
    ("cut within the header", GOOD[:40], "ChecksumMismatch"),
    ("cut within the weights", GOOD[:-1], "ChecksumMismatch"),
    ("cut to the header", packed({"a": tensor()}), "ChecksumMismatch"),
    ("longer than it says", GOOD + b"x", "ChecksumMismatch"),
    ("a header longer than the file", packed({}, length=2**63), "ChecksumMismatch"),
    ("a header that is no JSON", packed(b"\x80\x04pickle"), "UnsafeModel"),
    ("a header that is a list", packed([]), "UnsafeModel"),
    ("a header that is not Unicode", packed(b'{"\xff": 1}'), "UnsafeModel"),
    ("a header nested without end", packed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "UnsafeModel"),
    ("a repeated name", packed(b'{"a": {}, "a": {}}'), "UnsafeModel"),
    ("tensors that overlap", packed({"a": tensor(), "b": tensor(offsets=(2, 6))}, b"123456"), "UnsafeModel"),
    ("a hole between tensors", packed({"a": tensor(), "b": tensor(offsets=(5, 9))}, b"123456789"), "UnsafeModel"),
    ("offsets that run backwards", packed({"a": tensor(offsets=(4, 0))}, b"1234"), "UnsafeModel"),
    ("a negative offset", packed({"a": tensor(offsets=(-4, 0))}, b""), "UnsafeModel"),
    ("a fraction as offset", packed({"a": tensor(offsets=(0, 4.0))}, b"1234"), "UnsafeModel"),
    ("true as offset", packed({"a": tensor(shape=[1], offsets=(0, True))}, b"1"), "UnsafeModel"),
    ("three offsets", packed({"a": tensor(offsets=(0, 2, 4))}, b"1234"), "UnsafeModel"),
    ("an unknown type", packed({"a": tensor("PICKLE")}, b"1234"), "UnsafeModel"),
    ("a type that is a list", packed({"a": tensor(["U8"])}, b"1234"), "UnsafeModel"),  # type: ignore[arg-type]
    ("a shape that is not the size", packed({"a": tensor(shape=[5])}, b"1234"), "UnsafeModel"),
    ("a shape whose product overflows", packed({"a": tensor(shape=[2**62, 2**62])}, b"1234"), "UnsafeModel"),
    ("a negative shape", packed({"a": tensor(shape=[-2, -2])}, b"1234"), "UnsafeModel"),
    ("a shape that is a text", packed({"a": tensor(shape="4")}, b"1234"), "UnsafeModel"),
    ("a tensor that is a text", packed({"a": "U8"}), "UnsafeModel"),
    ("an end beyond the file", packed({"a": tensor(shape=[8], offsets=(0, 8))}, b"1234"), "ChecksumMismatch"),
]


@pytest.mark.parametrize(("data", "reason"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_or_damaged_safetensors_file(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(Failure) as failure:
        content.check_safetensors("model.safetensors", file)
    assert failure.value.reason == reason


def test_what_the_reference_writes_passes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(GOOD)
    content.check_safetensors("model.safetensors", file)


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    for end in range(len(GOOD)):
        file.write_bytes(GOOD[:end])
        with pytest.raises(Failure):
            content.check_safetensors("model.safetensors", file)


DIRECTORIES = [
    ("an auto_map", "config.json", b'{"auto_map": {"AutoConfig": "c.C"}}', "UnsafeModel"),
    ("an auto_map deep inside", "config.json", b'{"a": [{"b": {"auto_map": null}}]}', "UnsafeModel"),
    ("an auto_map written in escapes", "config.json", b'{"\\u0061uto_map": {}}', "UnsafeModel"),
    (
        "an auto_map of the tokenizer",
        "tokenizer_config.json",
        b'{"auto_map": {"AutoTokenizer": ["t.T", null]}}',
        "UnsafeModel",
    ),
    ("an auto_map in a sub-model", "text/config.json", b'{"auto_map": {}}', "UnsafeModel"),
    ("a hidden repeat of a key", "config.json", b'{"a": {"auto_map": {}}, "a": 1}', "UnsafeModel"),
    ("configuration that is no JSON", "config.json", b"import os", "UnsafeModel"),
    ("configuration that is a list", "config.json", b"[]", "UnsafeModel"),
    ("configuration nested without end", "config.json", b"[" * 200_000, "UnsafeModel"),
    ("an index without a map", "model.safetensors.index.json", b"{}", "UnsafeModel"),
    ("an index of numbers", "model.safetensors.index.json", b'{"weight_map": {"a": 1}}', "UnsafeModel"),
    ("an index that climbs out", "model.safetensors.index.json", b'{"weight_map": {"a": "../../x"}}', "ModelNotFound"),
    ("an index with a missing shard", "model.safetensors.index.json", b'{"weight_map": {"a": "2"}}', "ModelNotFound"),
]


@pytest.mark.parametrize(
    ("path", "data", "reason"), [case[1:] for case in DIRECTORIES], ids=[case[0] for case in DIRECTORIES]
)
def test_a_hostile_configuration(tmp_path: Path, path: str, data: bytes, reason: str) -> None:
    file = tmp_path / "partial"
    file.write_bytes(data)
    with pytest.raises(Failure) as failure:
        content.check(path, file, trust_remote_code=False, listed={path, "1"})
    assert failure.value.reason == reason


def test_a_giant_configuration_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "partial"
    with file.open("wb") as stream:
        stream.truncate(content.MAX_CONFIG_BYTES + 1)
    with pytest.raises(Failure, match="larger than"):
        content.check("config.json", file, trust_remote_code=False, listed={"config.json"})


def test_trusted_code_and_a_whole_index_pass(tmp_path: Path) -> None:
    file = tmp_path / "partial"
    file.write_bytes(b'{"auto_map": {}}')
    content.check("config.json", file, trust_remote_code=True, listed={"config.json"})
    file.write_bytes(b'{"weight_map": {"a": "1.safetensors"}}')
    content.check("s/model.safetensors.index.json", file, trust_remote_code=False, listed={"s/1.safetensors"})
