"""A URL as what is connected to and asked for. Pure; every part of it is read here, once, and nowhere else."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from granite_core.errors import RemoteRefusedError
from granite_core.remote.networks import Address
from granite_core.remote.rules import FetchRules

__all__ = ["UNREACHABLE", "Target", "parse_target", "redirected"]

MAX_URL: Final = 8192
PORTS: Final = {"http": 80, "https": 443}

UNREACHABLE: Final = "nothing can be fetched from this address"
"""Said alike of names that there are not and of those that lead inside: to tell them apart would tell of the inside."""

_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER: Final = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")
_KEPT: Final = "/%:@!$&'()*+,;=~-._?"


@dataclass(frozen=True, slots=True)
class Target:
    """What one request goes to.

    Args:
        scheme: ``http`` or ``https``.
        host: Lower-case ASCII name without a final dot, or the address without brackets.
        port: Its port.
        path: What is asked for: path and query, percent-encoded.
        address: The host, where it is an address.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None

    @property
    def authority(self) -> str:
        """What the ``Host`` field says (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL as it was understood."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def filename(self) -> str | None:
        """The last part of the path; untrusted as it is."""
        last = self.path.partition("?")[0].rpartition("/")[2]
        return unquote(last) or None


def parse_target(url: str, rules: FetchRules) -> Target:
    """Take a URL apart.

    Args:
        url: As untrusted as it comes.
        rules: What may be fetched.

    Raises:
        RemoteRefusedError: It is no URL of a scheme and a port that may be fetched, or holds a user's name.
    """
    if len(url) > MAX_URL:
        raise RemoteRefusedError("the URL is too long", limit=MAX_URL, value=len(url))
    if _UNSAFE.search(url):
        raise RemoteRefusedError("the URL has characters that no URL has")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise RemoteRefusedError("this is no URL", detail=str(error)) from error
    scheme = parts.scheme.lower()
    if scheme not in rules.schemes:
        raise RemoteRefusedError(
            f"only {' and '.join(rules.schemes)} are fetched", limit=tuple(rules.schemes), value=scheme[:40]
        )
    if "@" in parts.netloc:
        raise RemoteRefusedError("the URL must not hold a user's name or password")
    port = PORTS[scheme] if port is None else port
    if rules.ports is not None and port not in rules.ports:
        raise RemoteRefusedError(f"nothing is fetched from port {port}", limit=tuple(rules.ports), value=port)
    bracketed = parts.netloc.startswith("[")
    name, address = _host(host, bracketed=bracketed)
    path = quote(parts.path or "/", safe=_KEPT.replace("?", ""))
    return Target(scheme, name, port, f"{path}?{quote(parts.query, safe=_KEPT)}" if parts.query else path, address)


def redirected(target: Target, location: str, rules: FetchRules) -> Target:
    """Return where a redirect leads (RFC 9110 section 10.2.2).

    Args:
        target: What was asked for.
        location: What the other server's ``Location`` says, read as Latin-1.
        rules: What may be fetched.

    Raises:
        RemoteRefusedError: It leads where nothing may be fetched, or from https to http.
    """
    wanted = quote(location.strip().encode("latin-1", "replace"), safe=f"{_KEPT}#[]")
    try:
        joined = urljoin(target.url, wanted)
    except ValueError as error:
        raise RemoteRefusedError("the URL led to what is no URL", detail=str(error)) from error
    found = parse_target(joined, rules)
    if target.scheme == "https" and found.scheme != "https":
        raise RemoteRefusedError("the URL led from https to http", limit="https", value=found.scheme)
    return found


def _host(host: str, *, bracketed: bool) -> tuple[str, Address | None]:
    """The host as it is looked up, and as an address where it is one."""
    if bracketed:
        try:
            address = IPv6Address(host)
        except ValueError as error:
            raise RemoteRefusedError("the URL names no host", detail=str(error)) from error
        if address.scope_id is not None:
            raise RemoteRefusedError("the URL names no host", detail="an address with a zone")
        return socket.inet_ntop(socket.AF_INET6, address.packed), address  # str() differs between Pythons
    try:
        # Also makes full-width digits and dots what they look like.
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError as error:
        raise RemoteRefusedError("the URL names no host", detail=str(error)) from error
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise RemoteRefusedError("the URL names no host")
    if not _NUMBER.match(labels[-1]):
        return name, None
    try:
        # Systems read 0x7f.1, 0177.0.0.1 and 2130706433 as addresses too; nobody means well with those.
        found = IPv4Address(name)
    except ValueError as error:
        raise RemoteRefusedError("the URL names no host", detail=str(error)) from error
    return str(found), found
