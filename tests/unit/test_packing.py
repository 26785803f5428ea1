"""Objects kept in memory: they come back as they were, and what is alike takes little."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.shell.packing import Packing

Json = dict[str, Any]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=4)
)
OBJECTS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["Pod", "Job"]), "metadata": st.dictionaries(st.text(), VALUES, max_size=4)}
)


@given(st.lists(OBJECTS, max_size=4))
@settings(max_examples=30)
def test_what_is_packed_comes_back(manifests: list[Json]) -> None:
    packing = Packing()
    packed = [packing.pack(manifest) for manifest in manifests]
    assert [packing.unpack(m["kind"], p) for m, p in zip(manifests, packed, strict=True)] == manifests
    assert [packing.pack(manifest) for manifest in manifests] == packed


def test_an_object_like_the_first_of_its_kind_takes_little() -> None:
    packing = Packing()
    labels = {f"app.kubernetes.io/label-{number}": f"value-{number * number}" for number in range(40)}
    first, second = ({"kind": "Service", "metadata": {"name": name, "labels": labels}} for name in ("one", "two"))
    assert [len(packing.pack(each)) < 60 for each in (first, second)] == [True, True]
