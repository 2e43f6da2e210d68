"""A proxy before an HTTP server: whole requests and answers, one exchange at a time on a connection."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

from .listener import Listener, Wire

__all__ = ["Answer", "Exchange", "HttpFault", "HttpProxy", "Request"]

_EXPECT = re.compile(rb"\r\nexpect:[^\r]*", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """A request as it came.

    Args:
        head: Its first line and headers, without the empty line.
        body: Its body.
    """

    head: bytes
    body: bytes

    @property
    def method(self) -> bytes:
        return self.head.partition(b" ")[0]

    @property
    def raw(self) -> bytes:
        return self.head + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Answer:
    """An answer as it goes to the client.

    Args:
        status: Its status.
        reason: The words behind it.
        headers: Its headers, as they came from the server.
        body: Its body.
        length: What ``Content-Length`` says, where that is not the body's length: in the answer to a HEAD.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    length: int | None = None

    @property
    def head(self) -> bytes:
        kept = [(n, v) for n, v in self.headers if n.lower() not in ("content-length", "transfer-encoding")]
        length = len(self.body) if self.length is None else self.length
        if self.status not in (204, 304):
            kept.append(("Content-Length", str(length)))
        lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{name}: {value}" for name, value in kept)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def raw(self) -> bytes:
        return self.head + self.body


@dataclass
class Exchange:
    """One request, and what becomes of it."""

    proxy: HttpProxy
    client: Wire
    request: Request

    def forward(self, request: Request | None = None) -> Answer:
        """Have the server do it, and return what it says."""
        request = request or self.request
        server = self.proxy.connect()
        try:
            server.send(request.raw)
            response = http.client.HTTPResponse(server.sock, method=request.method.decode())
            response.begin()
            headers, body = tuple(response.getheaders()), response.read()
            said = response.getheader("content-length") if request.method == b"HEAD" else None
            return Answer(response.status, response.reason, headers, body, None if said is None else int(said))
        finally:
            self.proxy.drop(server)

    def forward_some(self, share: float) -> None:
        """Let the server have the beginning of the request only, and break the connection to it."""
        server = self.proxy.connect()
        server.send(self.request.raw[: int(len(self.request.raw) * share)])
        self.proxy.drop(server)

    def reply(self, answer: Answer) -> None:
        """Let the client have an answer."""
        self.client.send(answer.raw)

    def hang_up(self) -> None:
        """Close the connection in an orderly way."""
        self.client.close()

    def reset(self) -> None:
        """Break the connection."""
        self.client.reset()


HttpFault: TypeAlias = Callable[[Exchange], None]


@dataclass
class _Rule:
    matches: Callable[[Request], bool]
    fault: HttpFault
    first: int
    times: float
    seen: int = 0
    hits: list[Request] = field(default_factory=list)


class HttpProxy(Listener):
    """Stands before an HTTP server.

    Args:
        upstream: The server's address.

    Attributes:
        endpoint: Where it listens.
        requests: The head of every request that came through.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.requests: list[bytes] = []
        self._rules: list[_Rule] = []
        super().__init__((parts.hostname or "127.0.0.1", parts.port or 80))
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def inject(
        self, fault: HttpFault, *, at: int = 1, times: int | None = 1, matching: str | bytes = b""
    ) -> list[Request]:
        """Have a fault befall requests.

        Args:
            fault: What happens to them.
            at: The first one, counted from now; 1 is the next.
            times: How many from there on; None for all.
            matching: Only those whose head begins with this regular expression.

        Returns:
            The requests that it befell; grows.
        """
        pattern = re.compile(matching.encode() if isinstance(matching, str) else matching, re.DOTALL)
        rule = _Rule(
            lambda request: bool(pattern.match(request.head)), fault, at, float("inf") if times is None else times
        )
        with self._lock:
            self._rules.append(rule)
        return rule.hits

    def lose_answers(self, matching: bytes, times: int = 1) -> None:
        """Break the connection when the answer to a request arrives: the server has done its work."""
        self.inject(_lose, times=times, matching=matching)

    def cut(self, matching: bytes, after: int, times: int = 1) -> None:
        """Break the connection when that many bytes of an answer, head included, have passed."""

        def cut(exchange: Exchange) -> None:
            exchange.client.send(exchange.forward().raw[:after])
            exchange.hang_up()

        self.inject(cut, times=times, matching=matching)

    def heal(self) -> None:
        """Forget every fault, wait for what is under way, and accept connections."""
        with self._lock:
            self._rules.clear()
        self.listen_again()
        self.settle()

    # -- how it is done ------------------------------------------------------------------------------------------------

    def serve(self, client: Wire) -> None:
        """Take request after request from a connection."""
        while True:
            request = _read(client)
            fault = self._find(request)
            with self.working():
                exchange = Exchange(self, client, request)
                if fault is not None:
                    fault(exchange)
                else:
                    exchange.reply(exchange.forward())

    def _find(self, request: Request) -> HttpFault | None:
        found = None
        with self._lock:
            self.requests.append(request.head)
            for rule in self._rules:
                if not rule.matches(request):
                    continue
                rule.seen += 1
                if found is None and rule.first <= rule.seen < rule.first + rule.times:
                    rule.hits.append(request)
                    found = rule.fault
        return found


def _read(client: Wire) -> Request:
    head = client.read_until(b"\r\n\r\n")[:-4]
    length = _LENGTH.search(head)
    if _EXPECT.search(head):
        client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = _EXPECT.sub(b"", head)
    return Request(head, client.read(int(length[1])) if length else b"")


def _lose(exchange: Exchange) -> None:
    exchange.forward()
    exchange.reset()
