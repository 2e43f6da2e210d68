"""A TCP proxy that breaks connections where a test wants it: lost answers, cut bodies."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Proxy"]


@dataclass
class _Rule:
    pattern: re.Pattern[bytes]
    times: int
    after: int | None


class Proxy:
    """Stands before a server, on a port of its own.

    Attributes:
        endpoint: Where it listens.
        requests: The first line of every request that came through, with its headers.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_answers(self, pattern: bytes, times: int = 1) -> None:
        """Break the connection when the answer to a request that matches arrives: the server has done its work."""
        self._rules.append(_Rule(re.compile(pattern, re.DOTALL), times, None))

    def cut(self, pattern: bytes, after: int, times: int = 1) -> None:
        """Break the connection when that many bytes of an answer, head included, have passed."""
        self._rules.append(_Rule(re.compile(pattern, re.DOTALL), times, after))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        rule: _Rule | None = None
        passed = 0
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream) as server:

            def send_on() -> None:
                nonlocal rule, passed
                with contextlib.suppress(OSError):
                    while data := client.recv(65536):
                        if re.match(rb"[A-Z]+ /\S* HTTP/1", data):
                            found = self._match(data)
                            rule, passed = found, 0
                        server.sendall(data)
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_WR)

            threading.Thread(target=send_on, daemon=True).start()
            while data := server.recv(65536):
                if rule is not None and not data.startswith(b"HTTP/1.1 100 "):
                    if rule.after is None:
                        break
                    if passed + len(data) > rule.after:
                        client.sendall(data[: rule.after - passed])
                        break
                    passed += len(data)
                client.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _match(self, head: bytes) -> _Rule | None:
        with self._lock:
            self.requests.append(head.partition(b"\r\n\r\n")[0])
            for rule in self._rules:
                if rule.times and rule.pattern.match(head):
                    rule.times -= 1
                    return rule
        return None
