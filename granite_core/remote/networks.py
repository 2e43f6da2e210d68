"""Which addresses are everybody's, and which are somebody's inside. Pure.

The networks are those of the IANA registries of special-purpose addresses (RFC 6890), written down here: what Python's
``is_global`` says differs between its versions. IPv6 is refused but for what is handed out to the public.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, TypeAlias

__all__ = ["Address", "Network", "embedded", "parse_network", "refusal"]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_INNER_V4: Final = {
    IPv4Network(network): why
    for network, why in {
        "0.0.0.0/8": "unspecified",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared (carrier-grade NAT)",
        "127.0.0.0/8": "loopback",
        "168.63.129.16/32": "a cloud's metadata",  # Azure's WireServer, the one of them outside these networks
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "of the IETF's protocols",
        "192.0.2.0/24": "documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
    }.items()
}

_PUBLIC_V6: Final = IPv6Network("2000::/3")
_INNER_V6: Final = {
    IPv6Network(network): why
    for network, why in {
        "2001::/23": "of the IETF's protocols",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32": "documentation",
        "2002::/16": "6to4",
        "3fff::/20": "documentation",
    }.items()
}

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)
"""The first half of an interface's identifier that holds an IPv4 address (RFC 5214 section 6.1)."""


def embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a connection to an IPv6 address ends at, where it is in there; None elsewhere.

    That is so for mapped ones, and for those of NAT64 (RFC 6052), by which a host without IPv4 reaches everything.
    """
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def refusal(address: Address) -> str | None:
    """Say why nothing may be fetched from an address; None where it is everybody's.

    Args:
        address: Where a connection would be made to.
    """
    if isinstance(address, IPv4Address):
        return next((why for network, why in _INNER_V4.items() if address in network), None)
    if (inside := embedded(address)) is not None:
        return refusal(inside)
    if address not in _PUBLIC_V6:
        return _kind_of(address)
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return "ISATAP"
    return next((why for network, why in _INNER_V6.items() if address in network), None)


def _kind_of(address: IPv6Address) -> str:
    for name in ("unspecified", "loopback", "link_local", "multicast", "private"):
        if getattr(address, f"is_{name}"):
            return name.replace("_", "-")
    return "reserved"


def parse_network(text: str) -> Network | None:
    """Return the network that a text names, an address being one of its own; None where it names none."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
