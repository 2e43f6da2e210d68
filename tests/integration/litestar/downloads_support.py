"""A served application with files in it, and a backend that counts what is read."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from litestar import Litestar

from granite_core import MemoryStorageBackend, ObjectReader, StoredObjectRef


@dataclass
class CountingBackend(MemoryStorageBackend):
    """In memory; every open and read is noted. ``fail_after`` bytes of an object its reads fail."""

    opened: list[tuple[int, int | None]] = field(default_factory=list)
    closed: int = 0
    bytes_read: int = 0
    sizes: list[int] = field(default_factory=list)
    fail_after: int | None = None
    end_after: int | None = None
    reported_size: int | None = None
    read_seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        reader = super().open_reader(location, offset=offset, length=length)
        self.opened.append((offset, length))
        return _CountingReader(self, reader)

    def forget(self) -> None:
        self.opened.clear()
        self.sizes.clear()
        self.closed = self.bytes_read = 0

    __hash__ = object.__hash__


class _CountingReader(ObjectReader):
    def __init__(self, backend: CountingBackend, reader: ObjectReader) -> None:
        self._backend = backend
        self._reader = reader
        self._read = 0
        self._closed = False
        self.size = reader.size if backend.reported_size is None else backend.reported_size

    def read(self, size: int = -1, /) -> bytes:
        backend = self._backend
        time.sleep(backend.read_seconds)
        if backend.fail_after is not None and self._read >= backend.fail_after:
            from granite_core import BackendUnavailableError

            raise BackendUnavailableError("the wire is cut", operation="read", location="secret/key")
        if backend.end_after is not None and self._read >= backend.end_after:
            return b""
        data = self._reader.read(size)
        self._read += len(data)
        backend.bytes_read += len(data)
        backend.sizes.append(len(data))
        return data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._backend.closed += 1
        self._reader.close()


def content_of(size: int) -> bytes:
    block = b"".join(hashlib.sha256(index.to_bytes(4)).digest() for index in range(2048))
    return (block * (size // len(block) + 1))[:size]


@contextmanager
def serving(app: Litestar, **options: object) -> Iterator[str]:
    """Serve an application with uvicorn on a socket of its own, and yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="on", **options)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        host, port = listener.getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextmanager
def client_of(app: Litestar, **options: object) -> Iterator[httpx.Client]:
    with serving(app, **options) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield client


def wait_until(condition: object, seconds: float = 5.0) -> bool:
    """Poll until it is true; what it was in the end."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


def raw_request(address: str, request: bytes, *, receive_buffer: int | None = None) -> socket.socket:
    """Send bytes as they are, and hand over the socket."""
    host, _, port = address.removeprefix("http://").partition(":")
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((host, int(port)))
    sock.sendall(request)
    return sock


def etag_of(ref: StoredObjectRef) -> str:
    return f'"{ref.checksum.removeprefix("sha256:")}"'
