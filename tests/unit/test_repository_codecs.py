from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops_serving.jobs.repository import codecs
from llmops_serving.jobs.repository.errors import Damaged

RANDOM = np.random.default_rng(0)


def bf16(count: int, *, moved: float = 0.0) -> codecs.Bytes:
    base = np.random.default_rng(1).standard_normal(count).astype(np.float32) * np.float32(0.02)
    weights = base + np.random.default_rng(2).standard_normal(count).astype(np.float32) * np.float32(moved)
    return ((weights.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).view(np.uint8)


def stored(plain: codecs.Bytes, *, width: int, base: codecs.Bytes | None = None) -> bytes:
    mixed = plain if base is None else codecs.xor(plain, base)
    methods = codecs.guess(mixed, width=width).methods
    return bytes(codecs.encode(mixed, width=width, methods=methods, xored=base is not None))


@given(st.binary(max_size=4096), st.sampled_from(codecs.WIDTHS), st.booleans())
def test_whatever_goes_in_comes_out(data: bytes, width: int, xored: bool) -> None:  # noqa: FBT001
    plain = np.frombuffer(data[: len(data) // width * width], np.uint8)
    base = np.random.default_rng(3).integers(0, 256, plain.size).astype(np.uint8) if xored else None
    assert np.array_equal(codecs.decode(stored(plain, width=width, base=base), base), plain)


@pytest.mark.parametrize(
    ("plain", "width", "base", "at_most"),
    [
        pytest.param(RANDOM.integers(0, 256, 1 << 20).astype(np.uint8), 1, None, 1.0001, id="noise is stored raw"),
        pytest.param(np.zeros(1 << 20, np.uint8), 2, None, 0.001, id="zeros vanish"),
        pytest.param(bf16(1 << 20), 2, None, 0.70, id="bf16 alone: the exponents shrink"),
        pytest.param(bf16(1 << 20, moved=2e-5), 2, bf16(1 << 20), 0.22, id="a fine-tune against its base"),
        pytest.param(bf16(1 << 20), 2, bf16(1 << 20), 0.001, id="equal to its base"),
    ],
)
def test_sizes(plain: codecs.Bytes, width: int, base: codecs.Bytes | None, at_most: float) -> None:
    assert len(stored(plain, width=width, base=base)) <= plain.size * at_most


@pytest.mark.parametrize("moved", [0.0, 2e-5, 1e-3])
def test_the_guess_from_samples_is_close_to_the_truth(moved: float) -> None:
    plain = codecs.xor(bf16(1 << 20, moved=moved), bf16(1 << 20)) if moved else bf16(1 << 20)
    guess = codecs.guess(plain, width=2)
    truth = len(codecs.encode(plain, width=2, methods=guess.methods, xored=False)) / plain.size
    assert guess.ratio == pytest.approx(truth, rel=0.05)


GOOD = stored(bf16(1 << 12), width=2)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:4], id="cut in the header"),
        pytest.param(GOOD[:-1], id="cut in a plane"),
        pytest.param(GOOD + b"\0", id="longer than it says"),
        pytest.param(b"\0\3" + GOOD[2:], id="a width that is none"),
        pytest.param(GOOD[:2] + (1 << 31).to_bytes(4, "little") + GOOD[6:], id="a plain length of 2 GiB"),
        pytest.param(GOOD[:6] + b"\7" + GOOD[7:], id="a method that is none"),
        pytest.param(b"\1" + GOOD[1:], id="a difference without its base"),
    ],
)
def test_what_encode_does_not_write_is_refused(bad: bytes) -> None:
    with pytest.raises(Damaged):
        codecs.decode(bad, None)
