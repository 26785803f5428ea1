"""Where a model source may not be: every spelling of an address, as the resolver of this machine reads it."""

from __future__ import annotations

import pytest

from llmops_serving.jobs.addresses import refusal
from llmops_serving.jobs.egress import Egress, Forbidden

METADATA = [
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "169.254.255.255", "fd00:ec2::254", "fd00:ec2::23",
    "fd20:ce::254",
    "100.100.100.200", "192.0.0.192", "168.63.129.16", "fe80::1", "fe80::a9fe:a9fe", "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::",
    "2002:a9fe:a9fe::1", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
    "64:ff9b::6464:64c8", "::ffff:100.100.100.200", "::ffff:0.0.0.0",
]  # fmt: skip
PRIVATE = [
    "127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "10.0.0.1",
    "10.96.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255", "100.64.0.1",
    "100.127.255.255", "fc00::1", "fd12:3456:789a::1", "::ffff:10.96.0.1", "::ffff:c0a8:1", "::10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a60:1", "2002:7f00:1::", "2002:a00:1::1", "198.18.0.1", "192.0.2.1", "203.0.113.5",
    "2001:db8::1", "0.1.2.3", "fec0::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "169.253.1.1", "169.255.1.1",
          "2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808", "::ffff:8.8.8.8"]  # fmt: skip


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("allow_private", [False, True])
def test_metadata_and_link_local_are_never_reached(address: str, *, allow_private: bool) -> None:
    assert refusal(address, allow_private=allow_private)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_networks_need_leave(address: str) -> None:
    assert refusal(address, allow_private=False)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.96.0.1", "192.168.1.1", "fd12::1", "100.64.0.1", "::ffff:10.1.1.1"]
)
def test_leave_opens_private_networks(address: str) -> None:
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_open(address: str) -> None:
    assert refusal(address, allow_private=False) is None


RESOLUTIONS = [
    ("a name for the metadata service", ["169.254.169.254"]),
    ("a name for loopback", ["127.0.0.1"]),
    ("one bad address among good ones", ["8.8.8.8", "10.0.0.1"]),
    ("a bad address after a good one of the other family", ["2606:4700::1111", "::ffff:127.0.0.1"]),
]


@pytest.mark.parametrize("addresses", [case[1] for case in RESOLUTIONS], ids=[case[0] for case in RESOLUTIONS])
def test_a_name_is_what_it_resolves_to(addresses: list[str]) -> None:
    egress = Egress(allow_private=False, resolve=lambda _host, _port: addresses)
    with pytest.raises(Forbidden):
        egress.connect("model.example.com", 443)
    assert egress.refused
    egress.__exit__()
