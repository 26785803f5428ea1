"""Which network addresses a job may connect to: a pure policy, applied at connect time by `egress`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

METADATA = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local: the metadata services of AWS, GCP, Azure, OpenStack, and node-local DNS
        "fe80::/10",
        "fd00:ec2::/32",  # AWS's metadata and DNS over IPv6
        "fd20:ce::254/128",  # GCP's
        "100.100.100.200/32",  # Alibaba's
        "192.0.0.192/32",  # Oracle's
        "168.63.129.16/32",  # Azure's wire server, which hands out secrets of the node
    )
)
NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
IPV4_COMPATIBLE = ip_network("::/96")


def refusal(address: str, *, allow_private: bool) -> str | None:
    """Why no connection may go to this address, or None when one may.

    `allow_private` opens private networks and loopback, never link-local, metadata, multicast or unspecified ones.
    IPv4 inside IPv6 (mapped, compatible, 6to4, Teredo, NAT64) is judged as the IPv4 address that it reaches.
    """
    for candidate in _reached(ip_address(address.split("%", 1)[0])):
        reason = _refusal(candidate, allow_private=allow_private)
        if reason:
            return f"{address} is {reason}"
    return None


def _refusal(address: IPv4Address | IPv6Address, *, allow_private: bool) -> str | None:
    if any(address in network for network in METADATA if network.version == address.version):
        return "a link-local or metadata address"
    if address.is_multicast or address.is_unspecified:
        return "not an address of one host"
    if (
        allow_private
        and (address.is_private or address.is_loopback or not address.is_global)
        and not _reserved(address)
    ):
        return None
    if address.is_loopback:
        return "a loopback address"
    if not address.is_global or (isinstance(address, IPv6Address) and address.is_site_local):
        return "an address of a private network"
    return None


def _reserved(address: IPv4Address | IPv6Address) -> bool:
    return address.is_reserved and not address.is_loopback


def _reached(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """The address and every IPv4 address that a packet to it may end at."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped:
        return (address.ipv4_mapped,)
    inner: list[IPv4Address] = []
    if address.sixtofour:
        inner.append(address.sixtofour)
    if address.teredo:
        inner.extend(address.teredo)
    if any(address in network for network in NAT64):
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
        return tuple(inner)  # the prefix itself is a translator's, the far end decides
    if address in IPV4_COMPATIBLE and not address.is_loopback and not address.is_unspecified:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return (address, *inner)
