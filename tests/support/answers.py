"""A server on loopback that answers every request as a test says, however wrong that is."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Server", "Talk", "ok", "serving", "to"]

Talk = Callable[[socket.socket, bytes], object]


class Server:
    """Answers each connection by a function; notes what it was asked."""

    def __init__(self, talk: Talk, *, context: ssl.SSLContext | None = None) -> None:
        self._talk = talk
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.asked: list[bytes] = []
        self.broken_off = threading.Event()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(20)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(65536)):
                    return
                head += data
            self.asked.append(head)
            self._talk(connection, head)
        except OSError:
            self.broken_off.set()
        finally:
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(10)


@contextmanager
def serving(talk: Talk | bytes, **options: Any) -> Iterator[Server]:
    server = Server(talk if callable(talk) else (lambda connection, _: connection.sendall(talk)), **options)
    try:
        yield server
    finally:
        server.close()


def ok(body: bytes, *fields: str, length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {announced}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def to(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
