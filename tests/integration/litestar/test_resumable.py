"""tus 1.0 over real sockets: every status, every header that the protocol asks for."""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from granite_core.integrations.sqlalchemy import db_now
from tests.support.resumable_app import LIMIT, ORIGIN
from tests.support.resumable_server import change, count, row, serving

TUS = {"Tus-Resumable": "1.0.0"}
ANN = {**TUS, "Authorization": "Bearer ann"}
BOB = {**TUS, "Authorization": "Bearer bob"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
UNKNOWN = {"Upload-Checksum": "crc32 AAAA"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with serving(tmp_path_factory.mktemp("resumable")) as server:
        yield server


@pytest.fixture
def client(server: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[0], timeout=60) as client:
        yield client


def create(client: httpx.Client, length: int | None = 10, **headers: str) -> str:
    said = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    answer = client.post("/uploads", headers={**ANN, **said, **headers})
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert "upload-expires" in answer.headers
    return str(answer.headers["location"])


def send(client: httpx.Client, url: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    return client.patch(url, content=data, headers={**ANN, **BYTES, "Upload-Offset": str(offset), **headers})


def offset_of(client: httpx.Client, url: str) -> int:
    answer = client.head(url, headers=ANN)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def attach(client: httpx.Client, token: str, headers: dict[str, str] = ANN) -> httpx.Response:
    return client.post("/videos", json={"token": token}, headers=headers)


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def test_an_upload_in_two_goes_is_attached_by_its_token(client: httpx.Client) -> None:
    name = base64.b64encode("träume.mp4".encode()).decode()
    url = create(client, 10, **{"Upload-Metadata": f"filename {name},filetype dmlkZW8vbXA0,private"})
    first = send(client, url, 0, b"hello")
    assert (first.status_code, first.headers["upload-offset"], first.content) == (204, "5", b"")
    assert "granite-upload-token" not in first.headers
    head = client.head(url, headers=ANN)
    assert head.headers["upload-offset"] == "5"
    assert head.headers["upload-length"] == "10"
    assert head.headers["upload-metadata"] == f"filename {name},filetype dmlkZW8vbXA0,private"
    last = send(client, url, 5, b"world")
    assert (last.status_code, last.headers["upload-offset"]) == (204, "10")
    token = last.headers["granite-upload-token"]
    assert client.head(url, headers=ANN).headers["granite-upload-token"]
    assert attach(client, token, BOB).status_code == 404
    video = attach(client, token)
    assert video.json()["checksum"] == f"sha256:{hashlib.sha256(b'helloworld').hexdigest()}"
    assert video.json()["name"] == "träume.mp4"
    assert attach(client, token).status_code in (404, 410), "a token is good once"
    assert client.head(url, headers=ANN).status_code == 404


def test_what_the_server_can_do_is_told_without_credentials(client: httpx.Client) -> None:
    for path in ("/uploads", "/uploads/x"):
        answer = client.options(path)
        assert answer.status_code == 204
        assert answer.headers["tus-version"] == "1.0.0"
        assert set(answer.headers["tus-extension"].split(",")) == {
            *("creation", "creation-with-upload", "creation-defer-length", "expiration", "checksum", "termination"),
            "concatenation",
        }
        assert answer.headers["tus-max-size"] == str(LIMIT)
        assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256,md5"


def _chunked(data: bytes) -> Iterator[bytes]:
    yield data


def _refusals(client: httpx.Client, database: str) -> Iterator[tuple[int, httpx.Response]]:
    def post(**headers: str) -> httpx.Response:
        return client.post("/uploads", headers={**ANN, **headers})

    # 400
    yield 400, post()
    yield 400, post(**{"Upload-Length": "-1"})
    yield 400, post(**{"Upload-Length": "ten"})
    yield 400, post(**{"Upload-Defer-Length": "2"})
    yield 400, post(**{"Upload-Defer-Length": "1", "Upload-Length": "1"})
    yield 400, post(**{"Upload-Length": "1", "Upload-Metadata": "filename no-base64!"})
    yield 400, post(**{"Upload-Length": "1", "Upload-Metadata": "a YQ==,a YQ=="})
    yield 400, post(**{"Upload-Length": "1", "Upload-Metadata": "a YQ==,,b YQ=="})
    yield 400, post(**{"Upload-Concat": "some;/uploads/a"})
    yield 400, post(**{"Upload-Concat": "final;"})
    yield 400, post(**{"Upload-Concat": "final;/uploads/a", "Upload-Length": "1"})
    yield 400, post(**{"Upload-Concat": "final;/uploads/a http://elsewhere.example/uploads/a/"})
    url = create(client)
    yield 400, client.patch(url, content=b"x", headers={**ANN, **BYTES})
    yield 400, send(client, url, 0, b"x", **UNKNOWN)
    yield 400, send(client, url, 0, b"x", **{"Upload-Checksum": "sha1 AAAA"})
    yield 400, send(client, url, 0, b"x", **{"Upload-Length": "x"})
    twice = [*{**ANN, **BYTES}.items(), ("Upload-Offset", "0"), ("Upload-Offset", "5")]
    yield 400, client.patch(url, content=b"x", headers=twice)
    whole = create(client, 0)
    yield 400, post(**{"Upload-Concat": f"final;{whole}"})
    yield 400, client.post("/uploads", content=b"x", headers={**ANN, **BYTES, "Upload-Length": "1", **UNKNOWN})
    yield 400, client.post("/uploads", headers={**TUS, "Authorization": f"Bearer {'x' * 256}", "Upload-Length": "1"})
    # 401: the guard's own, and nothing was read
    yield 401, client.post("/uploads", headers={**TUS, "Upload-Length": "1"})
    yield 401, client.head(url, headers=TUS)
    # 403
    part = create(client, 0, **{"Upload-Concat": "partial"})
    final = client.post("/uploads", headers={**ANN, "Upload-Concat": f"final;{part}"})
    assert final.status_code == 201
    yield 403, send(client, final.headers["location"], 0, b"x")
    # 404
    yield 404, client.head("/uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa", headers=ANN)
    yield 404, client.head(url, headers=BOB)
    yield 404, client.delete(url, headers=BOB)
    yield 404, client.patch(url, headers={**BOB, **BYTES, "Upload-Offset": "0"}, content=b"x")
    yield 404, client.head(url.replace("/uploads/", "/pictures/"), headers=TUS)
    yield 404, post(**{"Upload-Concat": "final;/uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa"})
    for no_id in ("%00", "a%00b", "%F0%9F%92%A9", "x" * 300):
        yield 404, client.head(f"/uploads/{no_id}", headers=ANN)
        yield 404, client.delete(f"/uploads/{no_id}", headers=ANN)
        yield 404, client.head(f"/uploads/{no_id}", headers={"Authorization": "Bearer ann"})
        yield 404, post(**{"Upload-Concat": f"final;/uploads/{no_id}"})
    # 409
    yield 409, send(client, url, 3, b"x")
    yield 409, send(client, whole, 1, b"x")
    half = create(client, 2, **{"Upload-Concat": "partial"})
    yield 409, post(**{"Upload-Concat": f"final;{half}"})
    later = create(client, None)
    assert send(client, later, 0, b"ab").status_code == 204
    yield 400, send(client, later, 2, b"", **{"Upload-Length": "1"})
    assert send(client, later, 2, b"", **{"Upload-Length": "5"}).status_code == 204
    yield 400, send(client, later, 2, b"x", **{"Upload-Length": "6"})
    # 410
    gone = create(client)
    change(database, gone, expires_at=db_now() - 1)
    yield 410, client.head(gone, headers=ANN)
    yield 410, send(client, gone, 0, b"x")
    yield 410, client.delete(gone, headers=ANN)
    # 412
    for version in ({}, {"Tus-Resumable": "0.2.2"}):
        for method in ("HEAD", "PATCH", "DELETE"):
            yield 412, client.request(method, url, headers={"Authorization": "Bearer ann", **version})
        yield 412, client.post("/uploads", headers={"Authorization": "Bearer ann", "Upload-Length": "1", **version})
    # 413
    yield 413, post(**{"Upload-Length": str(LIMIT + 1)})
    yield 413, send(client, url, 0, b"x" * 11)
    yield 413, client.patch(url, content=_chunked(b"x" * 11), headers={**ANN, **BYTES, "Upload-Offset": "0"})
    yield 413, send(client, create(client, None), 0, b"", **{"Upload-Length": str(LIMIT + 1)})
    big = client.post("/pictures", headers={**TUS, "Upload-Defer-Length": "1"}).headers["location"]
    yield (
        413,
        client.patch(big, content=PNG + bytes(200_000), headers={**TUS, **BYTES, "Upload-Offset": "0"}),
    )
    yield 404, client.head(big, headers=TUS)
    # 415
    yield 415, client.patch(url, content=b"x", headers={**ANN, "Upload-Offset": "0", "Content-Type": "text/plain"})
    yield 415, client.post("/uploads", content=b"x", headers={**ANN, "Upload-Length": "1"})
    packed = {"Content-Encoding": "gzip"}
    yield 415, send(client, url, 0, b"x", **packed)
    yield 415, client.post("/uploads", content=b"x", headers={**ANN, **BYTES, "Upload-Length": "1", **packed})
    assert offset_of(client, url) == 0
    text = client.post("/pictures", headers={**TUS, "Upload-Length": "4"}).headers["location"]
    yield 415, client.patch(text, content=b"text", headers={**TUS, **BYTES, "Upload-Offset": "0"})
    yield 404, client.head(text, headers=TUS)
    # 423
    change(database, url, holder="somebody", held_until=db_now() + 60_000)
    yield 423, send(client, url, 0, b"x")
    change(database, url, holder=None, held_until=0)
    judged = create(client)
    change(database, judged, received=10, holder="somebody", held_until=db_now() + 60_000)
    answer = client.head(judged, headers=ANN)
    assert "upload-offset" not in answer.headers, "a client takes that for the end of the upload"
    assert answer.headers["retry-after"] == "1"
    yield 423, answer
    # 460
    post_checksum = {**BYTES, "Upload-Length": "1", "Upload-Checksum": checksum("sha1", b"y")}
    yield 460, client.post("/uploads", content=b"x", headers={**ANN, **post_checksum})
    for algorithm in ("sha1", "sha256", "md5"):
        yield 460, send(client, url, 0, b"x", **{"Upload-Checksum": checksum(algorithm, b"y")})
        assert offset_of(client, url) == 0
    # 405
    for other in ("BREW", "", "HEAD"):
        override = client.post("/uploads", headers={**ANN, "X-HTTP-Method-Override": other})
        assert override.headers["allow"] == "OPTIONS, POST"
        yield 405, override
    # what HEAD is answered has no body, though POST was sent
    asks = {**ANN, "X-HTTP-Method-Override": "HEAD"}
    yield 404, client.post("/uploads/unknown", headers=asks)
    yield 401, client.post(url, headers={**TUS, "X-HTTP-Method-Override": "HEAD"})
    yield 412, client.post(url, headers={**asks, "Tus-Resumable": "0.2.2"})
    for path, method in (
        ("/uploads", "PATCH"),
        ("/uploads", "HEAD"),
        ("/uploads", "PUT"),
        ("/uploads", "DELETE"),
        (url, "PUT"),
        (url, "GET"),
        (url, "POST"),
    ):
        answer = client.request(method, path, headers=ANN)
        assert answer.headers["allow"] == ("OPTIONS, POST" if path == "/uploads" else "OPTIONS, HEAD, PATCH, DELETE")
        yield 405, answer


def test_every_refusal_has_its_status(client: httpx.Client, server: tuple[str, str]) -> None:
    seen = set()
    for number, (wanted, answer) in enumerate(_refusals(client, server[1])):
        request = answer.request
        assert answer.status_code == wanted, (number, request.method, request.url, dict(request.headers), answer.text)
        assert answer.headers["tus-resumable"] == "1.0.0"
        if wanted == 412:
            assert answer.headers["tus-version"] == "1.0.0"
        if wanted == 404 and request.method == "HEAD":
            assert "upload-offset" not in answer.headers
        seen.add(wanted)
    assert seen == {400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 423, 460}


def test_bytes_may_come_with_the_creation(client: httpx.Client) -> None:
    whole = client.post("/uploads", content=b"hello", headers={**ANN, **BYTES, "Upload-Length": "5"})
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, "5")
    assert attach(client, whole.headers["granite-upload-token"]).status_code == 201
    half = client.post("/uploads", content=b"hello", headers={**ANN, **BYTES, "Upload-Length": "10"})
    assert (half.status_code, half.headers["upload-offset"]) == (201, "5")
    assert send(client, half.headers["location"], 5, b"world").headers["upload-offset"] == "10"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (413, b"x" * 6, {}),
        (413, [b"xxx", b"xxx"], {}),
        (460, b"x" * 5, {"Upload-Checksum": checksum("sha1", b"y" * 5)}),
        (415, b"x" * 5, {"Content-Encoding": "gzip"}),
    ],
    ids=["too long", "too long, unannounced", "other bytes", "encoded"],
)
def test_a_creation_whose_bytes_are_refused_leaves_no_upload(
    client: httpx.Client, server: tuple[str, str], status: int, body: Any, headers: dict[str, str]
) -> None:
    before = count(server[1])
    content = iter(body) if isinstance(body, list) else body
    answer = client.post("/uploads", content=content, headers={**ANN, **BYTES, "Upload-Length": "5", **headers})
    assert answer.status_code == status
    assert count(server[1]) == before


def test_a_creation_that_is_cut_leaves_no_upload(client: httpx.Client, server: tuple[str, str]) -> None:
    before = count(server[1])
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /uploads HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\nAuthorization: Bearer ann\r\n"
            "Content-Type: application/offset+octet-stream\r\nUpload-Length: 10\r\nContent-Length: 10\r\n\r\nhello"
        )
        connection.sendall(head.encode())
        _until(lambda: count(server[1]) == before + 1)
    _until(lambda: count(server[1]) == before)


def test_bytes_that_come_with_the_creation_are_checked(client: httpx.Client) -> None:
    said = {**ANN, **BYTES, "Upload-Length": "5", "Upload-Checksum": checksum("sha256", b"hello")}
    whole = client.post("/uploads", content=b"hello", headers=said)
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, "5")


def test_another_length_is_refused_with_the_offset_that_holds(client: httpx.Client) -> None:
    url = create(client, 5)
    assert send(client, url, 0, b"he").status_code == 204
    refused = send(client, url, 2, b"llo", **{"Upload-Length": "7"})
    assert (refused.status_code, refused.headers["upload-offset"]) == (400, "2")
    moved = send(client, url, 0, b"llo")
    assert (moved.status_code, moved.headers["upload-offset"]) == (409, "2")
    assert send(client, url, 2, b"llo", **{"Upload-Length": "5"}).status_code == 204


def test_guards_see_the_method_that_is_meant(client: httpx.Client) -> None:
    made = client.post("/kept", headers={**TUS, "Upload-Length": "1"})
    url = made.headers["location"]
    assert client.delete(url, headers=TUS).status_code == 403
    assert client.post(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 403
    assert client.post(url, headers={**TUS, "X-HTTP-Method-Override": "head"}).headers["upload-offset"] == "0"
    for method in ("GET", "PUT", "PATCH", "DELETE"):  # the actual method is ignored
        answer = client.request(method, url, headers={**TUS, "X-HTTP-Method-Override": "HEAD"})
        assert (answer.status_code, answer.headers["upload-offset"], answer.content) == (200, "0", b"")
    assert client.head(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 403
    described = client.post(url, headers={**TUS, "X-HTTP-Method-Override": "OPTIONS"})
    assert (described.status_code, described.headers["tus-version"]) == (204, "1.0.0")
    assert client.head(url, headers=TUS).status_code == 200, "to ask what can be done changes nothing"


def test_an_empty_upload_is_complete_at_once(client: httpx.Client) -> None:
    answer = client.post("/uploads", headers={**ANN, "Upload-Length": "0"})
    assert attach(client, answer.headers["granite-upload-token"]).json()["size"] == 0


def test_a_length_may_be_told_later(client: httpx.Client) -> None:
    url = create(client, None)
    assert client.head(url, headers=ANN).headers["upload-defer-length"] == "1"
    assert send(client, url, 0, b"hello").status_code == 204
    last = send(client, url, 5, b"world", **{"Upload-Length": "10"})
    assert "granite-upload-token" in last.headers
    head = client.head(url, headers=ANN)
    assert head.headers["upload-length"] == "10"
    assert "upload-defer-length" not in head.headers


def test_a_method_may_be_overridden(client: httpx.Client) -> None:
    url = create(client, 5)
    sent = client.post(
        url,
        content=b"hello",
        headers={**ANN, **BYTES, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"},
    )
    assert (sent.status_code, sent.headers["upload-offset"]) == (204, "5")
    assert client.post(url, headers={**ANN, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert client.head(url, headers=ANN).status_code == 404
    left = create(client, 5)
    assert client.request("OPTIONS", left, headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert client.head(left, headers=ANN).status_code == 200, "what needs no credentials changes nothing"


def test_what_is_terminated_is_gone(client: httpx.Client) -> None:
    url = create(client)
    send(client, url, 0, b"hello")
    assert client.delete(url, headers=ANN).status_code == 204
    assert client.head(url, headers=ANN).status_code == 404
    assert client.delete(url, headers=ANN).status_code == 404


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_right_checksum_lets_bytes_in(client: httpx.Client, algorithm: str) -> None:
    url = create(client, 10)
    wrong = send(client, url, 0, b"hellO", **{"Upload-Checksum": checksum(algorithm, b"hello")})
    assert wrong.status_code == 460
    for offset, data in ((0, b"hello"), (5, b"world")):
        sent = send(client, url, offset, data, **{"Upload-Checksum": checksum(algorithm, data)})
        assert (sent.status_code, sent.headers["upload-offset"]) == (204, str(offset + 5))
    assert attach(client, sent.headers["granite-upload-token"]).json()["size"] == 10


def test_parts_are_joined_and_go(client: httpx.Client) -> None:
    parts = [create(client, 5, **{"Upload-Concat": "partial"}) for _ in range(2)]
    for url, data in zip(parts, (b"hello", b"world"), strict=True):
        assert "granite-upload-token" not in send(client, url, 0, data).headers
        assert client.head(url, headers=ANN).headers["upload-concat"] == "partial"
    concat = f"final;{parts[0]} http://elsewhere.example{parts[1]}"
    final = client.post("/uploads", headers={**ANN, "Upload-Concat": concat})
    assert final.status_code == 201
    head = client.head(final.headers["location"], headers=ANN)
    assert (head.headers["upload-length"], head.headers["upload-offset"]) == ("10", "10")
    assert head.headers["upload-concat"] == concat
    video = attach(client, head.headers["granite-upload-token"]).json()
    assert video["checksum"] == f"sha256:{hashlib.sha256(b'helloworld').hexdigest()}"
    assert client.head(parts[0], headers=ANN).status_code == 404


def test_pages_of_other_origins_may_upload_where_they_are_named(client: httpx.Client) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
    preflight = client.options("/uploads/abcdefghijklmnopqrstuv2345", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "Upload-Offset" in preflight.headers["access-control-allow-headers"]
    made = client.post("/uploads", headers={**ANN, "Upload-Length": "1", "Origin": ORIGIN})
    assert made.headers["access-control-allow-origin"] == ORIGIN
    assert {"Location", "Upload-Offset", "Granite-Upload-Token"} <= set(
        made.headers["access-control-expose-headers"].split(", ")
    )
    other = client.post("/uploads", headers={**ANN, "Upload-Length": "1", "Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = client.post("/uploads", headers={**TUS, "Upload-Length": "1", "Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "a page must be able to read why"


def _raw(server: str, url: str, offset: int, announced: int) -> socket.socket:
    host, port = server.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = (
        f"PATCH {url} HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\nAuthorization: Bearer ann\r\n"
        f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n"
        f"Content-Length: {announced}\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def _until(reached: Any) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_came_before_a_cut_is_kept(client: httpx.Client, server: tuple[str, str]) -> None:
    url = create(client, 1_000_000)
    with _raw(server[0], url, 0, 1_000_000) as connection:
        connection.sendall(b"x" * 300_001)
        time.sleep(0.2)
    _until(lambda: offset_of(client, url) == 300_001)
    sent = send(client, url, 300_001, b"y" * 699_999)
    assert attach(client, sent.headers["granite-upload-token"]).json()["size"] == 1_000_000


def test_a_silent_connection_keeps_nobody_out_and_may_go_on(client: httpx.Client, server: tuple[str, str]) -> None:
    url = create(client, 20)
    with _raw(server[0], url, 0, 20) as silent:
        silent.sendall(b"hello")
        _until(lambda: offset_of(client, url) == 5)
        assert send(client, url, 0, b"HELLO").status_code == 409
        _until(lambda: send(client, url, 5, b"WORLD").status_code == 204)
        silent.sendall(b"world")
        assert b" 409 " in silent.recv(100), "somebody went on meanwhile"
    assert offset_of(client, url) == 10
    with _raw(server[0], url, 10, 10) as silent:
        silent.sendall(b"abcde")
        _until(lambda: offset_of(client, url) == 15)
        silent.sendall(b"fghij")
        assert b" 204 " in silent.recv(100)


def test_of_two_clients_at_once_one_wins(client: httpx.Client, server: tuple[str, str]) -> None:
    url = create(client, 400_000)
    with _raw(server[0], url, 0, 400_000) as first:
        first.sendall(b"x" * 200_000)
        _until(lambda: row(server[1], url).holder is not None or offset_of(client, url))
        assert send(client, url, 0, b"y" * 400_000).status_code in (409, 423)
        first.sendall(b"x" * 200_000)
        answer = first.recv(2000)
        assert b" 204 " in answer
    video = attach(client, client.head(url, headers=ANN).headers["granite-upload-token"]).json()
    assert video["checksum"] == f"sha256:{hashlib.sha256(b'x' * 400_000).hexdigest()}"
