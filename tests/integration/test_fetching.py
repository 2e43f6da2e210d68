"""Files at URLs, fetched from real servers on loopback: allowed there by name, as an inner host is."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from granite_core import (
    AsyncStorageManager,
    ContentRejectedError,
    ContentTooLargeError,
    ContentTypeNotAllowedError,
    FetchRules,
    MemoryStorageBackend,
    RemoteRefusedError,
    RemoteUnavailableError,
    StagedFile,
    StorageManager,
    StoragePolicy,
    from_url,
)
from tests.support.answers import Server, Talk, ok, serving, to

MB = 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\0" * 5000
RULES: Any = {"allow": ["127.0.0.1"], "ports": None}


class Shop:
    """A manager in both colours."""

    def __init__(self, **rules: Any) -> None:
        self.backend = MemoryStorageBackend()
        policies = [
            StoragePolicy("pictures", content_types=["image/*"], max_size=MB),
            StoragePolicy("any"),
        ]
        self.manager = StorageManager({"main": self.backend}, policies, fetch=FetchRules(**{**RULES, **rules}))

    def put(self, colour: str, url: str, storage_key: str = "any", **options: Any) -> StagedFile:
        if colour == "sync":
            return self.manager.put_url(storage_key, url, **options)
        return asyncio.run(AsyncStorageManager(self.manager).put_url(storage_key, url, **options))

    @property
    def is_empty(self) -> bool:
        return not [*self.backend.iter_locations()]


both = pytest.mark.parametrize("colour", ["sync", "async"])


@both
def test_a_file_is_fetched_with_its_name_and_judged_on_its_bytes(colour: str) -> None:
    told: list[tuple[int, int | None]] = []
    with serving(ok(PNG, "Content-Type: text/html", 'Content-Disposition: x; filename="../../a.png"')) as server:
        stored = Shop().put(
            colour, f"http://127.0.0.1:{server.port}/x/y?q=1#z", "pictures", progress=lambda *at: told.append(at)
        )
    assert (stored.size, stored.content_type, stored.original_filename) == (len(PNG), "image/png", "a.png")
    assert (told[0], told[-1]) == ((0, len(PNG)), (len(PNG), len(PNG)))
    head = server.asked[0].decode()
    assert head.startswith(f"GET /x/y?q=1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n")
    assert "Accept-Encoding: identity" in head
    assert not any(name in head.lower() for name in ("cookie", "authorization", "referer"))


@pytest.mark.parametrize(
    ("fields", "path", "name"),
    [
        ([], "/a/caf%C3%A9.png", "café.png"),
        (["Content-Disposition: attachment; filename*=UTF-8''caf%C3%A9.png"], "/x", "café.png"),
        (["Content-Disposition: attachment; filename=b.png"], "/x", "b.png"),
        (["Content-Disposition: inline"], "/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ([], "/", None),
    ],
)
def test_the_name_comes_from_the_answer_else_from_the_url(fields: list[str], path: str, name: str | None) -> None:
    with serving(ok(PNG, *fields)) as server:
        assert Shop().put("sync", f"http://127.0.0.1:{server.port}{path}").original_filename == name


@both
@pytest.mark.parametrize("hints", [1, 3])
def test_what_is_said_before_the_answer_is_not_the_answer(colour: str, hints: int) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nContent-Length: 5\r\n\r\n"
    with serving(early * hints + b"HTTP/1.1 100 Continue\r\n\r\n" + early + ok(PNG)) as server:
        assert Shop().put(colour, f"http://127.0.0.1:{server.port}/a").size == len(PNG)


def test_a_server_that_never_comes_to_its_answer_is_given_up() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with serving(early * 10_000) as server, pytest.raises(RemoteUnavailableError, match="no answer"):
        Shop().put("sync", f"http://127.0.0.1:{server.port}/a")
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"
    with serving(switching) as server, pytest.raises(RemoteUnavailableError, match="answered 101"):
        Shop().put("sync", f"http://127.0.0.1:{server.port}/a")


@both
def test_redirects_are_followed_and_counted(colour: str) -> None:
    def talk(connection: socket.socket, head: bytes) -> None:
        step = int(head.split()[1][1:])
        connection.sendall(ok(PNG) if step == 5 else to(f"/{step + 1}", (301, 302, 303, 307, 308)[step % 5]))

    with serving(talk) as server:
        shop = Shop()
        assert shop.put(colour, f"http://127.0.0.1:{server.port}/0").original_filename == "5"
        with pytest.raises(RemoteRefusedError, match="more than 4 times") as caught:
            Shop(max_redirects=4).put(colour, f"http://127.0.0.1:{server.port}/0")
    assert caught.value.limit == 4


SECRETS = [
    *("http://169.254.169.254/latest/meta-data/", "http://0:{port}/"),
    *("http://0.0.0.0:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/"),
    *("http://0177.0.0.1:{port}/", "http://017700000001:{port}/", "http://[::1]:{port}/", "http://[::]:{port}/"),
    *("http://[::ffff:127.0.0.2]:{port}/", "http://[::ffff:7f00:2]:{port}/", "http://[64:ff9b::7f00:2]:{port}/"),
    *("http://[2002:7f00:2::]:{port}/", "http://[fe80::1%25lo]:{port}/", "http://127.0.0.2:{port}/"),
    *(
        "http://１２７.０.０.２:{port}/",
        "http://127。0。0。2:{port}/",
        "http://u:p@127.0.0.1:{port}/",
        "file:///etc/passwd",
    ),
    *(
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://100.100.100.200/",
        "http://[fd00:ec2::254]/",
        "//0x7f.2:{port}/",
    ),
]


@pytest.mark.parametrize("secret", SECRETS)
def test_nobody_is_steered_inside_by_a_url_or_a_redirect(secret: str) -> None:
    with serving(ok(b"secret")) as inner, serving(lambda c, _: c.sendall(to(url))) as server:
        url = secret.format(port=inner.port)
        shop = Shop()
        for given in (url, f"http://127.0.0.1:{server.port}/"):
            if given.startswith("//"):
                continue
            with pytest.raises(RemoteRefusedError) as caught:
                shop.put("sync", given, field="avatar")
            assert caught.value.field == "avatar"
            for address in ("127.0.0", "169.254", "localhost", "10.0.0", "::1"):
                assert address not in caught.value.public_message
                assert address not in str(caught.value.value)
        assert not inner.asked
        assert shop.is_empty


@both
def test_a_name_is_looked_up_once_and_what_was_judged_is_connected_to(colour: str) -> None:
    """DNS rebinding: a name whose answer changes between look-ups."""
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], []]
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    with serving(ok(PNG)) as server:
        shop = Shop(resolve=resolve)
        url = f"http://rebinding.example:{server.port}/a.png"
        assert shop.put(colour, url).size == len(PNG)
        assert asked == ["rebinding.example"]
        assert f"Host: rebinding.example:{server.port}".encode() in server.asked[0]
        for _ in range(3):  # inside; one of two inside; nothing
            with pytest.raises(RemoteRefusedError, match="nothing can be fetched") as caught:
                shop.put(colour, url)
            assert "rebinding" not in caught.value.public_message
        assert len(server.asked) == 1


def test_the_system_s_names_for_this_machine_lead_inside() -> None:
    with serving(ok(b"secret")) as inner:
        with pytest.raises(RemoteRefusedError, match="loopback"):
            Shop(allow=[]).put("sync", f"http://localhost:{inner.port}/")
        assert not inner.asked


def test_names_that_are_not_and_names_that_lead_inside_look_alike() -> None:
    def resolve(host: str, port: int) -> list[str]:
        if host == "missing.internal":
            raise socket.gaierror("no such name")
        return ["10.0.0.7"]

    told = set()
    for host in ("missing.internal", "db.internal"):
        with pytest.raises(RemoteRefusedError) as caught:
            Shop(resolve=resolve).put("sync", f"http://{host}/", field="file")
        told.add((caught.value.public_message, caught.value.code, caught.value.limit, caught.value.value))
    assert len(told) == 1
    assert "10.0.0.7" in str(caught.value)  # for operators


def test_an_inner_host_can_be_allowed_by_name() -> None:
    with serving(ok(PNG)) as server:
        shop = Shop(allow=["files.internal"], resolve=lambda host, port: ["127.0.0.1"])
        assert shop.put("sync", f"http://files.internal:{server.port}/").size == len(PNG)
        with pytest.raises(RemoteRefusedError):
            shop.put("sync", f"http://127.0.0.1:{server.port}/")


@both
def test_what_is_too_large_is_refused_before_it_is_read(colour: str) -> None:
    with serving(lambda c, _: (c.sendall(ok(PNG, length=MB + 1)), c.recv(1))) as server:
        for storage_key, rules in (("pictures", {}), ("any", {"max_size": 1000})):
            shop = Shop(**rules)
            with pytest.raises(ContentTooLargeError) as caught:
                shop.put(colour, f"http://127.0.0.1:{server.port}/", storage_key, field="f")
            assert (caught.value.field, caught.value.value) == ("f", MB + 1)
            assert shop.is_empty


@both
def test_an_endless_body_ends_at_the_limit(colour: str) -> None:
    def talk(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"14\r\n" + PNG[:20] + b"\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    with serving(talk) as server:
        for storage_key, rules in (("pictures", {}), ("any", {"max_size": MB})):
            shop = Shop(**rules)
            with pytest.raises(ContentTooLargeError):
                shop.put(colour, f"http://127.0.0.1:{server.port}/", storage_key)
            assert shop.is_empty
        assert server.broken_off.wait(10)


def drip(head: bytes, every: float = 0.05) -> Talk:
    def talk(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(every)

    return talk


SHORT = {"read_timeout": timedelta(seconds=1), "total_timeout": timedelta(seconds=2)}


@both
@pytest.mark.parametrize("slow", ["silent", "head", "body", "chunks"])
def test_a_server_that_takes_its_time_is_left(colour: str, slow: str) -> None:
    talk = {
        "silent": lambda c, _: c.recv(1),
        "head": drip(b"HTTP/1.1 200 OK\r\nX: "),
        "body": drip(ok(b"", length=10**9)),
        "chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"),
    }[slow]
    with serving(talk) as server:
        shop = Shop(**SHORT)
        with pytest.raises(RemoteUnavailableError, match="too long") as caught:
            shop.put(colour, f"http://127.0.0.1:{server.port}/")
        assert caught.value.limit in (1.0, 2.0)
        assert shop.is_empty


def test_a_slow_look_up_is_left() -> None:
    go = threading.Event()
    shop = Shop(resolve=lambda host, port: [str(go.wait(20))], connect_timeout=timedelta(seconds=0.2))
    with pytest.raises(RemoteUnavailableError, match="looked up in time"):
        shop.put("sync", "http://slow.example/")
    go.set()


@both
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ok(PNG, length=len(PNG) + 1), "less than it announced"),
        (ok(b"", length=5), "less than it announced"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nshort", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "encoded"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxx", "no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nxx", "no length"),
        (ok(gzip.compress(b"\0" * 10 * MB), "Content-Encoding: gzip"), "encoded"),
        (ok(b"x", "Content-Encoding: identity, br"), "encoded"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "does not speak HTTP"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\nsecret", "answered 404"),
        (b"HTTP/1.1 206 Part\r\nContent-Length: 1\r\n\r\nx", "answered 206"),
        (b"HTTP/1.1 302 Elsewhere\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", "answered 500"),
    ],
)
def test_half_a_file_is_no_file(colour: str, answer: bytes, reason: str) -> None:
    with serving(answer) as server:
        shop = Shop()
        with pytest.raises(RemoteUnavailableError, match=reason) as caught:
            shop.put(colour, f"http://127.0.0.1:{server.port}/", field="photo")
        assert caught.value.public_message.startswith("photo: ")
        assert "127.0.0.1" not in caught.value.public_message
        assert shop.is_empty


@both
def test_a_body_without_a_length_ends_with_its_connection(colour: str) -> None:
    with serving(b"HTTP/1.0 200 OK\r\n\r\n" + PNG) as server:
        assert Shop().put(colour, f"http://127.0.0.1:{server.port}/").size == len(PNG)


def test_what_cannot_be_reached_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RemoteUnavailableError, match="cannot be reached") as caught:
        Shop().put("sync", f"http://127.0.0.1:{port}/")
    assert caught.value.retryable


def test_the_policy_rules_what_is_fetched_too() -> None:
    with serving(ok(b"<html>", "Content-Type: image/png")) as server:
        shop = Shop()
        with pytest.raises(ContentTypeNotAllowedError):
            shop.put("sync", f"http://127.0.0.1:{server.port}/a.png", "pictures")
        assert shop.is_empty


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ok(PNG)) as server, serving(ok(b"proxied")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert Shop().put("sync", f"http://127.0.0.1:{server.port}/").size == len(PNG)
        assert not proxy.asked


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(3000):
        if happened():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def test_a_cancelled_fetch_lets_go_at_once() -> None:
    shop = Shop(read_timeout=timedelta(seconds=60))
    with serving(lambda c, _: (c.sendall(ok(PNG, length=10**6)), c.recv(1))) as server:
        put = AsyncStorageManager(shop.manager).put_url("any", f"http://127.0.0.1:{server.port}/")
        task = asyncio.create_task(put)
        await until(lambda: bool(server.asked))
        await asyncio.sleep(0.1)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 30
    assert shop.is_empty


async def test_slow_servers_hold_no_thread_of_the_backend() -> None:
    shop = Shop(read_timeout=timedelta(seconds=60))
    files = AsyncStorageManager(shop.manager)
    with serving(lambda c, _: (c.sendall(ok(PNG, length=10**6)), c.recv(1))) as server:
        url = f"http://127.0.0.1:{server.port}/"
        tasks = [asyncio.create_task(files.put_url("any", url)) for _ in range(shop.backend.max_workers + 4)]
        await until(lambda: len(server.asked) >= 16)
        stored = await files.put("any", b"others go on")
        assert await files.get(stored) == b"others go on"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_file_can_be_fetched_again_and_its_checksum_be_asked_for() -> None:
    import hashlib

    with serving(ok(PNG)) as server:
        shop, source = Shop(), from_url(f"http://127.0.0.1:{server.port}/a.png")
        first = shop.manager.put("any", source, checksum=f"sha256:{hashlib.sha256(PNG).hexdigest()}")
        assert shop.manager.put("any", source).checksum == first.checksum


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own making for ``files.example``, and its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=files.example"]
    argv += ["-addext", "subjectAltName=DNS:files.example", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(argv, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@contextmanager
def tls_server(certificate: Path, talk: Talk | bytes) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(talk, context=context) as server:
        yield server


def test_a_certificate_is_held_against_the_name(certificate: Path) -> None:
    believed = ssl.create_default_context(cafile=str(certificate))
    resolve = lambda host, port: ["127.0.0.1"]  # noqa: E731 - a resolver
    with tls_server(certificate, ok(PNG)) as server:
        shop = Shop(resolve=resolve, ssl_context=believed)
        assert shop.put("async", f"https://files.example:{server.port}/").size == len(PNG)
        for url, rules in (
            (f"https://other.example:{server.port}/", {"ssl_context": believed}),
            (f"https://127.0.0.1:{server.port}/", {"ssl_context": believed}),
            (f"https://files.example:{server.port}/", {}),
        ):
            with pytest.raises(RemoteUnavailableError, match="certificate") as caught:
                Shop(resolve=resolve, **rules).put("sync", url)
            assert "127.0.0.1" not in caught.value.public_message


def test_a_connection_that_somebody_cut_is_no_end_of_a_file(certificate: Path) -> None:
    def cut(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + PNG)
        socket.socket(fileno=connection.detach()).close()  # no close_notify

    with tls_server(certificate, cut) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        shop = Shop(resolve=lambda host, port: ["127.0.0.1"], ssl_context=context)
        with pytest.raises(RemoteUnavailableError, match="broke off"):
            shop.put("sync", f"https://files.example:{server.port}/")
        assert shop.is_empty


def test_a_redirect_does_not_lead_out_of_tls(certificate: Path) -> None:
    with serving(ok(PNG)) as plain, tls_server(certificate, to(f"http://127.0.0.1:{plain.port}/")) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        shop = Shop(resolve=lambda host, port: ["127.0.0.1"], ssl_context=context)
        with pytest.raises(RemoteRefusedError, match="from https to http"):
            shop.put("sync", f"https://files.example:{server.port}/")
        assert not plain.asked


def test_an_error_tells_its_event_once() -> None:
    events: list[Any] = []
    shop = Shop()
    shop.manager.listen(events.append)
    with pytest.raises(ContentRejectedError):
        shop.put("sync", "http://10.0.0.1/", field="avatar")
    assert [(each.name, each.code, each.field) for each in events] == [("refused", "remote_refused", "avatar")]
