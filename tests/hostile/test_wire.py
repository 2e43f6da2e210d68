"""Over real sockets to real servers: bytes that no client library would send, and clients that take their time."""

from __future__ import annotations

import gzip
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.hostile.world import MAX_SIZE, SECRET, World
from tests.support.upload_apps import SERVERS, serve

SLOW = 60
BOMB = gzip.compress(bytes(10_000_000))


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    with serve(world.app, request.param) as address:
        yield address


@pytest.fixture(scope="module")
def letter(world: World) -> str:
    return f"/letters/{world.put(b'content ' * 30_000)}/file"


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def said(connection: socket.socket, patience: float) -> bytes:
    """All that the server says until it is silent or closes."""
    out = b""
    connection.settimeout(patience)
    with suppress(TimeoutError, ConnectionError):
        while data := connection.recv(65536):
            out += data
            connection.settimeout(0.3)
    return out


def exchange(url: str, request: bytes, *, patience: float = 0.7) -> bytes:
    """Send some bytes, and hear what is answered; a server that waits for more learns that there is none."""
    with connected(url) as connection:
        with suppress(ConnectionError):  # refused already
            connection.sendall(request)
        if answer := said(connection, patience):
            return answer
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return said(connection, 20)


def line(target: bytes, method: bytes = b"GET", headers: bytes = b"", body: bytes = b"") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n" + body


FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
TARGETS = [
    b"/../../../../etc/passwd",
    b"/letters/../../../etc/passwd",
    b"/letters/%2e%2e/%2e%2e/etc/passwd",
    b"/letters/%2e%2e%2f%2e%2e%2fetc%2fpasswd/file",
    b"/letters/%252e%252e%252fetc%252fpasswd/file",
    b"/slugs/%00/file",
    b"/slugs/a%00b/file",
    b"/slugs/..%5c..%5cboot.ini/file",
    b"/slugs/%ff%fe/file",
    b"/slugs/%ed%a0%80/file",
    b"/slugs/%/file",
    b"/slugs/%zz/file",
    b"/slugs/\xff\xfe/file",
    b"/slugs/\\..\\..\\x/file",
    b"/slugs/a%0d%0aSet-Cookie:%20x=1/file",
    b"/slugs/" + b"a" * 60_000 + b"/file",
    b"/numbers/" + b"9" * 6000 + b"/file",
    b"/numbers/%d9%a1/file",
    b"/files/%2e%2e/%2e%2e",
    b"/files/" + b"A" * 9000 + b"/x",
    b"/files/AAAA/../../etc/passwd",
    b"//letters//x//file",
    b"/./letters/./x/file",
    b"http://elsewhere/letters/x/file",
    b"file:///etc/passwd",
    b"*",
    b"",
    b"letters",
    b"/?" + b"a=b&" * 10_000,
    b"/bodies?filename=" + b"%2e%2e%2f" * 3000,
    b"/#fragment",
]
BROKEN = [
    b"\0\0\0\0",
    b"GET",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX\0Y: z\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    line(b"/bodies", b"POST", b"Content-Length: -1\r\n", b"x"),
    line(b"/bodies", b"POST", b"Content-Length: " + b"9" * 5000 + b"\r\n", b"x"),
    line(b"/bodies", b"POST", b"Content-Length: 1\r\nContent-Length: 2\r\n", b"xx"),
    line(b"/bodies", b"POST", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    line(b"/bodies", b"POST", b"Transfer-Encoding: chunked\r\n", b"zz\r\nx\r\n0\r\n\r\n"),
    line(b"/bodies", b"POST", b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n"),
    line(b"/bodies", b"POST", b"Transfer-Encoding: chunked\r\n", b"1;" + b"x" * 100_000 + b"\r\nx\r\n0\r\n\r\n"),
    line(b"/bodies", b"POST", b"Transfer-Encoding: chunked\r\n", b"5\r\nx"),
    line(b"/bodies", b"POST", b"Transfer-Encoding: gzip, chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"),
    line(b"/bodies", b"POST", b"Expect: the-unexpected\r\nContent-Length: 1\r\n", b"x"),
    line(b"/letters", b"POST", FORM + b"Content-Length: 500\r\n", PART + b"x"),
    line(b"/letters", b"POST", FORM + b"Content-Length: 5\r\n", PART + b"x\r\n--b--\r\n"),
    line(b"/bodies", b"POST", b'Content-Disposition: x; filename="a\xff\xfe\xe9"\r\nContent-Length: 1\r\n', b"x"),
    line(b"/bodies", b"POST", b"Content-Type: text/html; charset=\xff\r\nContent-Length: 1\r\n", b"x"),
    line(b"/bodies", b"POST", b"Repr-Digest: sha-256=:\xe9\xe9:\r\nContent-Length: 1\r\n", b"x"),
]


@pytest.mark.parametrize("index", range(len(TARGETS) + len(BROKEN)))
def test_no_bytes_are_a_server_error(world: World, url: str, index: int) -> None:
    request = line(TARGETS[index]) if index < len(TARGETS) else BROKEN[index - len(TARGETS)]
    answer = exchange(url, request)
    status = answer.split(b" ", 2)[1:2]
    assert not answer or status[0][:1] in (b"2", b"3", b"4"), answer[:500]
    for never in (b"root:x", b"Traceback", SECRET.encode(), str(world.root.parent).encode()):
        assert never not in answer
    assert b"\nset-cookie" not in answer.lower()


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_body_that_would_have_to_be_unpacked_is_refused(url: str, encoding: str) -> None:
    tracemalloc.start()
    try:
        for path in ("/bodies", "/letters"):
            headers = {"Content-Encoding": encoding, "Content-Type": "multipart/form-data; boundary=b"}
            assert httpx.post(url + path, content=BOMB, headers=headers, timeout=30).status_code == 415
        assert tracemalloc.get_traced_memory()[1] < 5 * len(BOMB) + 5_000_000
    finally:
        tracemalloc.stop()


def test_slow_clients_hold_nobody_up(world: World, url: str, letter: str) -> None:
    """Sixty that send a byte now and then, and as many that do not read what they asked for."""
    threads = threading.active_count()
    form = line(b"/letters", b"POST", FORM + b"Content-Length: 100000\r\n", PART + b"slowly")
    body = line(b"/bodies", b"POST", b"Content-Length: 100000\r\n", b"slowly")
    head = b"POST /letters HTTP/1.1\r\nHost: x\r\nX-Slow"
    with ExitStack() as clients:
        slow = [clients.enter_context(connected(url)) for _ in range(2 * SLOW)]
        for index, client in enumerate(slow[:SLOW]):
            client.sendall((form, body, head)[index % 3])
        for client in slow[SLOW:]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.sendall(line(letter.encode()))
        with httpx.Client(base_url=url, timeout=30) as quick:
            for round_ in range(5):
                for client in slow[:SLOW]:
                    client.sendall(b"y")
                assert quick.get(letter).status_code == 200
                made = quick.post("/letters", files={"file": b"quick"})
                assert (made.status_code, made.json()["file"]["size"]) == (201, 5), round_
        # The pools of the backend and of AnyIO, whatever the number of clients.
        assert threading.active_count() - threads < SLOW


def test_clients_at_once_get_what_a_single_one_gets(world: World, url: str) -> None:
    """A burst of what is refused late, between what is accepted."""
    too_large = line(b"/bodies", b"POST", b"Content-Length: %d\r\n" % (MAX_SIZE * 4), b"x" * 4096)
    nonsense = line(b"/letters", b"POST", FORM + b"Content-Length: 9\r\n", b"nonsense!")
    answers: list[bytes] = []

    def attack() -> None:
        for _ in range(5):
            answers.extend(exchange(url, each, patience=30)[:12] for each in (too_large, nonsense))

    attackers = [threading.Thread(target=attack) for _ in range(8)]
    for each in attackers:
        each.start()
    with httpx.Client(base_url=url, timeout=30) as client:
        fine = [client.post("/bodies", content=b"fine").status_code for _ in range(20)]
    for each in attackers:
        each.join()
    assert set(fine) == {201}
    assert set(answers) == {b"HTTP/1.1 413", b"HTTP/1.1 400"}
