"""A connection to a judged address, on which everything has an end."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, cast

from granite_core.errors import RemoteRefusedError, RemoteUnavailableError
from granite_core.remote.networks import Address
from granite_core.remote.rules import FetchRules
from granite_core.remote.targets import UNREACHABLE, Target

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Deadline", "Wire", "addresses_of"]

MAX_ADDRESSES: Final = 8
"""How many addresses of a host are tried."""
BUFFER_BYTES: Final = 64 * 1024


class Deadline:
    """The moment at which a fetch ends, whatever it is doing.

    Args:
        after: How long from now.
    """

    def __init__(self, after: timedelta) -> None:
        self._after = after
        self._at = time.monotonic() + after.total_seconds()

    def left(self, at_most: timedelta) -> float:
        """Return how many seconds the next step may take.

        Raises:
            RemoteUnavailableError: The time is over.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise RemoteUnavailableError("fetching the file took too long", limit=self._after.total_seconds())
        return min(left, at_most.total_seconds())


def addresses_of(target: Target, rules: FetchRules, deadline: Deadline) -> list[Address]:
    """Look a host up, once, and judge every address that it has.

    Raises:
        RemoteRefusedError: It has none, or one of them may not be connected to.
    """
    if target.address is not None:
        found = [target.address]
    else:
        try:
            found = [ip_address(each) for each in _look_up(target, rules, deadline)]
        except (OSError, ValueError) as error:
            raise RemoteRefusedError(UNREACHABLE, detail=f"{target.host} cannot be looked up: {error}") from error
    for address in found:
        _judge(target, address, rules)
    if not found:
        raise RemoteRefusedError(UNREACHABLE, detail=f"{target.host} has no address")
    return list(dict.fromkeys(found))


def _judge(target: Target, address: Address, rules: FetchRules) -> None:
    why = rules.refusal_of(target.host, address)
    if why is not None:
        raise RemoteRefusedError(UNREACHABLE, detail=f"{target.host} is {address}, which is {why}")


def _look_up(target: Target, rules: FetchRules, deadline: Deadline) -> Sequence[str]:
    """Ask the resolver, for no longer than a connection may take.

    The system's own cannot be told to hurry: it is asked in a thread that is left behind where it does not.
    """
    resolve = rules.resolve or _system_resolver
    answer: list[Sequence[str] | Exception] = []

    def ask() -> None:
        try:
            answer.append(resolve(target.host, target.port))
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            answer.append(error)

    thread = threading.Thread(target=ask, name="granite-look-up", daemon=True)
    thread.start()
    thread.join(deadline.left(rules.connect_timeout))
    if not answer:
        raise RemoteUnavailableError(
            "the other server's name could not be looked up in time", limit=rules.connect_timeout.total_seconds()
        )
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _system_resolver(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Wire:
    """A connection, as much of a socket as ``http.client`` asks for. Its every wait ends by the rules.

    Args:
        target: What is connected to.
        rules: How long that may take.
        deadline: When it ends.
    """

    def __init__(self, target: Target, rules: FetchRules, deadline: Deadline) -> None:
        self._rules = rules
        self._deadline = deadline
        self._target = target
        self._socket: socket.socket | None = None
        self._interrupted = False

    def connect(self) -> None:
        """Connect, to an address that was judged and to no other, and make the connection safe where it is to be.

        Raises:
            RemoteRefusedError: An address of the host may not be connected to.
            RemoteUnavailableError: No address answers, or the certificate is not the host's.
        """
        cause: OSError | None = None
        for address in addresses_of(self._target, self._rules, self._deadline)[:MAX_ADDRESSES]:
            try:
                self._connect_to(address)
            except OSError as error:
                self.close()
                cause = error
            else:
                return
        detail = f"{self._target.host}: {cause}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise RemoteUnavailableError("the other server's certificate is not good", detail=detail) from cause
        raise RemoteUnavailableError("the other server cannot be reached", detail=detail) from cause

    def _connect_to(self, address: Address) -> None:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._socket = plain = socket.socket(family, socket.SOCK_STREAM)
        self._arm(self._rules.connect_timeout)
        plain.connect((str(address), self._target.port))
        peer = ip_address(plain.getpeername()[0])
        if peer != address:
            raise RemoteRefusedError(UNREACHABLE, detail=f"{self._target.host}: {peer} answers for {address}")
        if self._target.scheme == "https":
            self._arm(self._rules.connect_timeout)
            context = self._rules.ssl_context or _default_context()
            # An end without TLS's own goodbye is an error: somebody may have cut it off.
            self._socket = context.wrap_socket(plain, server_hostname=self._target.host, suppress_ragged_eofs=False)

    def _arm(self, at_most: timedelta) -> socket.socket:
        if self._interrupted or self._socket is None:
            raise RemoteUnavailableError("the fetch was given up")
        self._socket.settimeout(self._deadline.left(at_most))
        return self._socket

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._arm(self._rules.read_timeout).sendall(data)

    def receive_into(self, buffer: Buffer) -> int:
        """Wait for bytes; 0 at the end."""
        return self._arm(self._rules.read_timeout).recv_into(cast("Any", buffer))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file to read from; what ``http.client`` asks a socket for."""
        return io.BufferedReader(_Incoming(self), BUFFER_BYTES)

    def interrupt(self) -> None:
        """Have whoever waits for this connection wait no longer; from any thread."""
        self._interrupted = True
        if (connected := self._socket) is not None:
            with suppress(OSError):  # it is closed already, or not connected yet
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Incoming(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        return self._wire.receive_into(buffer)


@cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()
