"""Clients that take their time, a thousand of them in one process: python -m tests.benchmarks.trickle PORT COUNT WHAT.

`WHAT` is `down`, `raw`, `form` or several of them, separated by commas, among which the clients are shared out. Once a
second each takes, or sends, a KiB or two. `ready` is printed when the server has begun to answer, or to take in, every
one; they go on until the standard input ends. Then is printed how many were cut off by the server.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from typing import Any

PACE = 1.0
PIECE = 1024
LENGTH = 64 * 1024 * 1024
BOUNDARY = "slow"
PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'.encode()


class Slow(asyncio.Protocol):
    """One client."""

    def __init__(self, crowd: Crowd, what: str) -> None:
        self.crowd = crowd
        self.what = what
        self.begun = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.what == "down":
            transport.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        else:
            method, kind = (b"PUT", b"application/octet-stream") if self.what == "raw" else (b"POST", _FORM)
            transport.write(
                b"%s /%s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
                % (method, self.what.encode(), kind, LENGTH)
            )
            transport.write((PART if self.what == "form" else b"") + bytes(PIECE))
            self.begin()
        self.later()

    def later(self) -> None:
        asyncio.get_running_loop().call_later(PACE, self.tick)

    def tick(self) -> None:
        if self.transport.is_closing():
            return
        if self.what == "down":
            self.transport.resume_reading()
        else:
            self.transport.write(bytes(PIECE))
        self.later()

    def data_received(self, data: bytes) -> None:
        if not self.begun and b" 200 " not in data[:20]:
            self.crowd.cut += 1
        self.begin()
        self.transport.pause_reading()

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.crowd.waiting -= 1
            if not self.crowd.waiting:
                self.crowd.all_begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.crowd.ending:
            self.crowd.cut += 1
            self.begin()


_FORM = f"multipart/form-data; boundary={BOUNDARY}".encode()


class Crowd:
    """All of them."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cut = 0
        self.ending = False
        self.all_begun = asyncio.Event()

    async def run(self, port: int, count: int, kinds: list[str]) -> None:
        loop = asyncio.get_running_loop()
        clients = []
        self.waiting = count
        for number in range(count):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what the server sends is not taken for us
            line.setblocking(False)
            await loop.sock_connect(line, ("127.0.0.1", port))
            what = kinds[number % len(kinds)]
            clients.append(await loop.create_connection(lambda what=what: Slow(self, what), sock=line))
        await self.all_begun.wait()
        await asyncio.sleep(2 * PACE)  # now each is waiting for its client
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        self.ending = True
        print(self.cut, flush=True)
        for transport, _ in clients:
            transport.abort()


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port, count, kinds = sys.argv[1:4]
    asyncio.run(Crowd().run(int(port), int(count), kinds.split(",")))


if __name__ == "__main__":
    main()
