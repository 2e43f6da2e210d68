"""A way between a client and servers that is slow, can be cut, and can lead to another server."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

__all__ = ["Cutter"]

PIECE = 64 * 1024


class Cutter:
    """Listens on a port, and passes on what comes, at so many bytes a second, to one of several servers by turns.

    Args:
        rate: Bytes per second towards the server, for each connection.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.passed = 0
        """Bytes that went towards servers."""
        self.ports: list[int] = []
        """The servers' ports; may be changed at any time."""
        self._turn = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection, in the middle of whatever it carries."""
        with self._lock:
            found = list(self._open)
        for each in found:
            with suppress(OSError):
                # Told at once: else one that is still sending is told after a minute (tcp_fin_timeout).
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._turn += 1
        ports = self.ports
        place = "127.0.0.1", ports[self._turn % len(ports)]
        with client, suppress(OSError), socket.create_connection(place, timeout=5) as server:
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            try:
                self._pass_on(client, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([client, server], [], [], 60)
            if not ready:
                return
            for each in ready:
                data = each.recv(PIECE)
                if not data:
                    return
                (server if each is client else client).sendall(data)
                if each is client:
                    self.passed += len(data)
                    time.sleep(len(data) / self.rate)
