"""Clients that cost little, so that what is measured is the server.

wrk, where it is installed, asks for small things; without it, and for HEAD, which it cannot do, a small client of our
own does. Large bodies are sent from a file by the kernel, and thrown away by the kernel as they arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.parts import find_program

__all__ = ["digest", "discard", "hammer", "send"]

BUFFER = bytearray(4 * 1024 * 1024)


def hammer(
    port: int,
    path: str,
    *,
    seconds: int,
    connections: int,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Path | None = None,
    expect: int = 200,
) -> int:
    """Send the same request again and again for so many seconds, and return how many were answered.

    Raises:
        RuntimeError: An answer had another status, or none came.
    """
    own = _Hammer(port, _request(method, path, headers or {}, body), expect, method)
    wrk = find_program("wrk")
    if wrk is None or method == "HEAD":
        return asyncio.run(own.run(connections, seconds))
    asyncio.run(own.run(1, 0))  # once: wrk only tells errors from other answers
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(method, headers or {}, body))
        script.flush()
        argv = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, f"http://127.0.0.1:{port}{path}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds + 60)
    found = re.search(r"^done (\d+) errors (\d+)", done.stdout, re.MULTILINE)
    if found is None or int(found[2]):
        raise RuntimeError(f"not every request was answered well: {done.stdout}{done.stderr}")
    return int(found[1])


def _script(method: str, headers: Mapping[str, str], body: Path | None) -> str:
    lines = [f"wrk.method = {json.dumps(method)}"]
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"local f = io.open({json.dumps(str(body))}, 'rb'); wrk.body = f:read('*a'); f:close()")
    lines.append(
        """
function done(summary, latency, requests)
    local e = summary.errors
    local errors = e.connect + e.read + e.write + e.timeout + e.status
    print(string.format("done %d errors %d", summary.requests, errors))
end"""
    )
    return "\n".join(lines)


def _request(method: str, path: str, headers: Mapping[str, str], body: Path | None) -> bytes:
    content = body.read_bytes() if body else b""
    head = {"Host": "127.0.0.1", **headers, **({"Content-Length": str(len(content))} if body else {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content


class _Hammer:
    """Connections that ask again as soon as they were answered."""

    def __init__(self, port: int, request: bytes, expect: int, method: str) -> None:
        self.port = port
        self.request = request
        self.status = f" {expect} ".encode()
        self.bodiless = method == "HEAD" or expect == 304
        self.done = 0
        self.error: str | None = None
        self.end = 0.0

    async def run(self, connections: int, seconds: float) -> int:
        loop = asyncio.get_running_loop()
        self.end = time.perf_counter() + seconds
        asking = [loop.create_connection(lambda: _Asker(self), "127.0.0.1", self.port) for _ in range(connections)]
        for _, asker in await asyncio.gather(*asking):
            await asker.closed.wait()
        if self.error:
            raise RuntimeError(self.error)
        return self.done


class _Asker(asyncio.Protocol):
    def __init__(self, hammer: _Hammer) -> None:
        self.hammer = hammer
        self.closed = asyncio.Event()
        self.head = b""
        self.left = 0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.hammer.request)

    def data_received(self, data: bytes) -> None:
        if self.left:
            self.left -= len(data)
        else:
            self.head += data
            head, mark, rest = self.head.partition(b"\r\n\r\n")
            if not mark:
                return
            if self.hammer.status not in head.split(b"\r\n", 1)[0]:
                self.hammer.error = f"answered {head.splitlines()[0]!r}"
                self.transport.close()
                return
            self.head = b""
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self.left = 0 if self.hammer.bodiless or length is None else int(length[1]) - len(rest)
        if self.left <= 0:
            self.left = 0
            self.hammer.done += 1
            if time.perf_counter() < self.hammer.end:
                self.transport.write(self.hammer.request)
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


def discard(port: int, path: str, *, headers: Mapping[str, str] | None = None, expect: int = 200) -> int:
    """Download without looking at it; return how many bytes the body had."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(_request("GET", path, {**(headers or {}), "Connection": "close"}, None))
        head, body = _head(line)
        if f" {expect} ".encode() not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"answered {head.splitlines()[0]!r}")
        size = len(body)
        while count := line.recv_into(BUFFER, len(BUFFER), socket.MSG_TRUNC):  # tcp(7): taken, and not copied
            size += count
    return size


def send(
    port: int, path: str, file: Path, *, method: str = "POST", headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Upload a file as the body and return the answer's JSON."""
    head = {"Host": "127.0.0.1", "Content-Length": str(file.stat().st_size), "Connection": "close", **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    with socket.create_connection(("127.0.0.1", port)) as line, file.open("rb") as body:
        line.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        line.sendfile(body)
        head_bytes, answer = _head(line)
        while data := line.recv(65536):
            answer += data
    if head_bytes.split(b" ", 2)[1] not in (b"200", b"201"):
        raise RuntimeError(f"answered {head_bytes.splitlines()[0]!r}: {answer[:500]!r}")
    found: dict[str, Any] = json.loads(answer)
    return found


def _head(line: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = line.recv(65536)
        if not more:
            raise RuntimeError(f"the server closed the connection after {data!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def digest(port: int, path: str, headers: Mapping[str, str] | None = None) -> str:
    """Download and return the SHA-256."""
    found = hashlib.sha256()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    line.request("GET", path, headers=dict(headers or {}))
    answer = line.getresponse()
    while data := answer.read(1024 * 1024):
        found.update(data)
    line.close()
    return found.hexdigest()
