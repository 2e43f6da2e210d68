"""Clients that cost little, so that what is measured is the server.

wrk, where it is installed, asks for small things; without it, and for HEAD, which it cannot do, a small client of our
own does. Large bodies are sent from a file by the kernel, and thrown away by the kernel as they arrive.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.parts import find_program

__all__ = ["digest", "discard", "hammer", "send"]

BUFFER = bytearray(4 * 1024 * 1024)
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n")
PATIENCE = 60
"""Seconds without any answer after which a server is given up."""


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
        return own.run(connections, seconds)
    own.run(1, 0)  # once: wrk only tells errors from other answers
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
    """Connections that ask again as soon as they were answered; no event loop, which would cost more than a server."""

    def __init__(self, port: int, request: bytes, expect: int, method: str) -> None:
        self.port = port
        self.request = request
        self.status = b" %d " % expect
        self.bodiless = method == "HEAD" or expect == 304

    def run(self, connections: int, seconds: float) -> int:
        """Ask for so many seconds, at least once, and return how many were answered.

        Raises:
            RuntimeError: An answer had another status, or none came.
        """
        with ExitStack() as stack:
            waiting = stack.enter_context(select.epoll())
            asked: dict[int, tuple[socket.socket, _Answer]] = {}
            for _ in range(connections):
                line = stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting.register(line, select.EPOLLIN)
                asked[line.fileno()] = line, _Answer(self.status, self.bodiless)
                line.sendall(self.request)
            done, end = 0, time.perf_counter() + seconds
            while asked:
                ready = waiting.poll(PATIENCE)
                if not ready:
                    raise RuntimeError(f"no answer within {PATIENCE} seconds")
                again = time.perf_counter() < end
                for number, _ in ready:
                    line, answer = asked[number]
                    if not answer.take(line.recv(65536)):
                        continue
                    done += 1
                    if again:
                        line.sendall(self.request)
                    else:
                        waiting.unregister(line)
                        del asked[number]
        return done


class _Answer:
    """What has come of the answers on one connection."""

    def __init__(self, status: bytes, bodiless: bool) -> None:
        self.status = status
        self.bodiless = bodiless
        self.head = b""
        self.left = 0

    def take(self, data: bytes) -> bool:
        """Take the next bytes, and tell whether an answer is complete.

        Raises:
            RuntimeError: The answer has another status, or ended early.
        """
        if not data:
            raise RuntimeError("the server closed a connection before it had answered")
        if self.left:
            self.left -= len(data)
        else:
            data = self.head + data
            end = data.find(b"\r\n\r\n")
            self.head = data if end < 0 else b""
            if end < 0:
                return False
            if self.status not in data[:16]:
                raise RuntimeError(f"answered {data.splitlines()[0]!r}")
            if not self.bodiless and (length := LENGTH.search(data, 0, end + 2)):
                self.left = int(length[1]) - (len(data) - end - 4)
        return self.left <= 0


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
