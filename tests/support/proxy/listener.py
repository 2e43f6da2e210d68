"""What both proxies stand on: a port that can refuse, connections that end in the way that is asked for."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

__all__ = ["Listener", "Wire"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_PATIENCE = 30.0
"""So many seconds at most a silent proxy waits for the other side to give up."""


class Wire:
    """A connection, read through a buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes.

        Raises:
            EOFError: The other side ended before.
        """
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_until(self, end: bytes) -> bytes:
        """Everything up to a mark, with it."""
        while (at := self._buffer.find(end)) < 0:
            self._fill()
        return self.read(at + len(end))

    def _fill(self) -> None:
        data = self.sock.recv(262144)
        if not data:
            raise EOFError
        self._buffer += data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def trickle(self, data: bytes, *, pieces: int, pause: float) -> None:
        """Send in so many pieces, with pauses."""
        size = max(1, -(-len(data) // pieces))
        for start in range(0, len(data), size):
            time.sleep(pause)
            self.sock.sendall(data[start : start + size])

    def reset(self) -> None:
        """End the connection with RST: what is on its way is lost."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()

    def end_sending(self) -> None:
        """Send FIN, and go on reading: a half-closed connection."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def wait_for_its_end(self, patience: float = _PATIENCE) -> None:
        """Say nothing until the other side gives up."""
        with contextlib.suppress(OSError):
            self.sock.settimeout(patience)
            while self.sock.recv(262144):
                pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
        self.sock.close()


class Listener(ABC):
    """Listens on a port of its own, with a thread for each connection."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self._wires: set[Wire] = set()
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)
        self._busy = 0
        self._socket = self._bind(0)
        self.port: int = self._socket.getsockname()[1]
        self._listen()

    @abstractmethod
    def serve(self, client: Wire) -> None:
        """Talk to one client until it leaves."""

    def connect(self) -> Wire:
        """A connection to the server."""
        wire = Wire(socket.create_connection(self.upstream))
        with self._lock:
            self._wires.add(wire)
        return wire

    def drop(self, wire: Wire) -> None:
        """Close a connection that is done with."""
        wire.close()
        with self._lock:
            self._wires.discard(wire)

    def refuse(self) -> None:
        """Refuse new connections, the port being kept; those that are open stay."""
        with self._lock:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # ends accept() in its thread
            self._socket.close()
            self._socket = self._bind(self.port)

    def listen_again(self) -> None:
        """Accept connections after ``refuse``."""
        with self._lock:
            if not self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._listen()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around each exchange, so that ``settle`` can wait for it."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._quiet:
                self._busy -= 1
                self._quiet.notify_all()

    def settle(self, patience: float = 2 * _PATIENCE) -> None:
        """Wait until nothing is under way any more, what is delivered late included."""
        with self._quiet:
            assert self._quiet.wait_for(lambda: self._busy == 0, patience), "the proxy is still busy"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            for wire in list(self._wires):
                wire.close()

    # -- the port ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _bind(port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        return bound

    def _listen(self) -> None:
        self._socket.listen(128)
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=self._serve, args=(Wire(sock),), daemon=True).start()

    def _serve(self, client: Wire) -> None:
        with self._lock:
            self._wires.add(client)
        try:
            with contextlib.suppress(OSError, EOFError, ValueError):
                self.serve(client)
        finally:
            self.drop(client)
