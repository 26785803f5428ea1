"""Which pod has a prompt's beginning."""

from __future__ import annotations

import pytest

from llmops_serving.gateway import affinity
from llmops_serving.gateway.affinity import Caching, Prefixes


def pod(address: str, in_flight: int = 0) -> Caching:
    found = Caching(address)
    found.in_flight = in_flight
    return found


TEXT = b"".join(b"%0256d" % number for number in range(40))


def test_a_growing_chat_stays_where_it_began() -> None:
    pods = [pod(name) for name in "abcd"]
    first = affinity.choice(pods, affinity.blocks(TEXT[:1024]), TEXT[:256], 0.0)
    assert first is not None
    for turn in range(2, 40):
        text = TEXT[: 256 * turn]
        chosen = affinity.choice(pods, affinity.blocks(text), text[:256], 0.0)
        assert chosen is first
        chosen.prefixes.remember(affinity.blocks(text))


def test_two_gateways_place_a_cold_prompt_alike() -> None:
    for number in range(100):
        text = b"%0256d" % number * 2
        one = affinity.choice([pod(n) for n in "abcd"], affinity.blocks(text), text[:256], 0.0)
        two = affinity.choice([pod(n) for n in "dcba"], affinity.blocks(text), text[:256], 0.0)
        assert one is not None
        assert two is not None
        assert one.address == two.address


def test_a_pod_that_usually_has_more_in_flight_gets_fewer_cold_prompts() -> None:
    """And few prompts move for that, since another gateway may see it otherwise."""
    even, uneven = placed({"a": 6.0, "b": 6.0, "c": 6.0, "d": 6.0}), placed({"a": 12.0, "b": 3.0, "c": 6.0, "d": 6.0})
    assert uneven.count("a") < even.count("a")
    assert uneven.count("b") > even.count("b")
    assert sum(one != other for one, other in zip(even, uneven, strict=True)) < 80


def placed(usual: dict[str, float]) -> list[str]:
    """Where four hundred beginnings go."""
    pods = [pod(name, int(level)) for name, level in usual.items()]
    found = []
    for number in range(400):
        for each in pods:
            each.usual = usual[each.address]
        text = b"%0256d" % number * 2
        chosen = affinity.choice(pods, affinity.blocks(text), text[:256], 0.0)
        assert chosen is not None
        found.append(chosen.address)
    return found


@pytest.mark.parametrize(
    ("warm", "cold", "stays"),
    [
        pytest.param(40, 1, False, id="far more than its share"),
        pytest.param(120, 40, False, id="half as much again as the mean of many"),
        pytest.param(60, 40, True, id="within a quarter of it"),
        pytest.param(3, 0, True, id="by chance"),
    ],
)
def test_a_warm_cache_is_left_for_load(warm: int, cold: int, stays: bool) -> None:  # noqa: FBT001 - a column
    pods = [pod("a", warm), pod("b", cold)]
    prefix = affinity.blocks(TEXT)
    pods[0].prefixes.remember(prefix)
    assert (affinity.choice(pods, prefix, TEXT[:256], 0.0) is pods[0]) is stays


def test_the_longest_match_wins_and_the_less_loaded_of_equals() -> None:
    pods = [pod("a", 1), pod("b", 2), pod("c", 1), pod("d", 4), pod("e", 4)]
    for each, length in zip(pods, (3, 5, 5, 0, 0), strict=True):
        each.prefixes.remember(affinity.blocks(TEXT[: 256 * length]))
    chosen = affinity.choice(pods, affinity.blocks(TEXT), TEXT[:256], 0.0)
    assert chosen is pods[2]


def test_an_adapter_has_a_cache_of_its_own() -> None:
    assert affinity.blocks(TEXT, "tickets")[0] != affinity.blocks(TEXT)[0]


def test_a_pod_forgets_from_the_end_of_the_oldest_prompt() -> None:
    prefixes = Prefixes(capacity=10)
    prefixes.remember(affinity.blocks(TEXT[: 256 * 8], "old"))
    prefixes.remember(affinity.blocks(TEXT[: 256 * 5], "new"))
    assert prefixes.matched(affinity.blocks(TEXT, "new")) == 5
    assert prefixes.matched(affinity.blocks(TEXT, "old")) == 5
    assert len(prefixes) == 10
