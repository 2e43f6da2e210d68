"""What may be fetched from other servers, and at what cost."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeAlias

import msgspec

from granite_core.errors import ConfigurationError
from granite_core.remote.networks import Address, Network, embedded, parse_network, refusal

__all__ = ["FetchRules", "Resolver"]

Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""Gives the addresses of a host, as text, by its name and the port. Blocks; raises ``OSError`` where there are none."""

_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, kw_only=True)
class FetchRules:
    """What may be fetched by URL, and at what cost. The defaults suit addresses that strangers give.

    Every address is judged before it is connected to, the first and those that redirects lead to: private, loopback,
    link-local, multicast, shared, reserved and metadata addresses are refused, whichever way they are written and
    whatever name stands for them. A host is looked up once for each request, and what is judged is what is connected
    to. Proxies of the environment are not used; no cookie and no credential is sent.

    Args:
        max_size: Largest content in bytes, beside the policy's own ``max_size``; None for that alone.
        connect_timeout: How long one look-up, one connection, one TLS handshake may take each.
        read_timeout: How long the other server may be silent.
        total_timeout: How long all of it may take, redirects included, from the first look-up to the last byte.
        max_redirects: How many redirects are followed.
        schemes: Of ``http`` and ``https``, those that may be fetched. A redirect never leads from https to http.
        ports: Ports that may be connected to; None for all.
        allow: Hosts (``"files.internal"``) and networks (``"10.1.0.0/16"``) inside that may be fetched from all the
            same. Whoever may give a URL reaches everything there on the ports above.
        deny: Further hosts and networks that may not be, your own public ones for instance.
        user_agent: What the request's ``User-Agent`` says.
        ssl_context: Decides which certificates are believed; Python's default where absent.
        resolve: Looks names up, in place of the system.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    max_size: int | None = None
    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=15)
    total_timeout: timedelta = timedelta(minutes=5)
    max_redirects: int = 5
    schemes: Collection[str] = _SCHEMES
    ports: Collection[int] | None = (80, 443)
    allow: Collection[str] = ()
    deny: Collection[str] = ()
    user_agent: str = "granite"
    ssl_context: ssl.SSLContext | None = field(default=None, compare=False)
    resolve: Resolver | None = field(default=None, compare=False)
    _allowed: _Places = field(init=False, repr=False, compare=False)
    _denied: _Places = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout", "total_timeout"):
            if getattr(self, name) <= timedelta(0):
                raise ConfigurationError(f"FetchRules: {name} must be longer than nothing", value=getattr(self, name))
        for name in ("schemes", "allow", "deny", "ports"):
            if isinstance(getattr(self, name), (str, int)):
                raise ConfigurationError(f"FetchRules: {name} must be a list", value=getattr(self, name))
        if not self.schemes or not set(self.schemes) <= set(_SCHEMES):
            raise ConfigurationError("FetchRules: schemes must be http, https or both", value=tuple(self.schemes))
        if self.max_redirects < 0 or (self.max_size is not None and self.max_size < 0):
            raise ConfigurationError("FetchRules: limits must not be negative", value=self)
        if not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise ConfigurationError("FetchRules: user_agent must be printable ASCII", value=self.user_agent)
        object.__setattr__(self, "_allowed", _places(self.allow))
        object.__setattr__(self, "_denied", _places(self.deny))

    def refusal_of(self, host: str, address: Address) -> str | None:
        """Say why a host may not be connected to at an address; None where it may. Pure.

        Args:
            host: The name that was looked up, or the address itself as text.
            address: What it stands for.
        """
        if self._denied.hold(host, address):
            return "denied"
        if self._allowed.hold(host, address):
            return None
        return refusal(address)


class _Places(msgspec.Struct, frozen=True):
    hosts: frozenset[str]
    networks: tuple[Network, ...]

    def hold(self, host: str, address: Address) -> bool:
        if host in self.hosts:
            return True
        inside = embedded(address) if address.version == 6 else None
        return any(each in network for network in self.networks for each in (address, inside) if each is not None)


def _places(entries: Collection[str]) -> _Places:
    networks = {entry: parse_network(entry) for entry in entries}
    hosts = (entry.lower().rstrip(".") for entry, network in networks.items() if network is None)
    return _Places(frozenset(hosts), tuple(network for network in networks.values() if network is not None))
