"""The IETF's draft of resumable uploads over real sockets: every status, every header, each version that is spoken."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from granite_core.integrations.sqlalchemy import db_now
from tests.support.resumable_app import LIMIT, ORIGIN
from tests.support.resumable_server import change, count, row, serving

PARTIAL = {"Content-Type": "application/partial-upload"}
TUS = {"Tus-Resumable": "1.0.0"}
TYPES = "https://iana.org/assignments/http-problem-types#"

DEEP = os.environ.get("GRANITE_DEEP") == "1"
every_version = pytest.mark.parametrize("version", [5, 6, 7, 8, None] if DEEP else [5, 6, None])
"""What clients speak, and what they will; 7 and 8 are answered as None is, almost."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with serving(tmp_path_factory.mktemp("draft")) as server:
        yield server


@pytest.fixture
def client(server: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[0], timeout=60) as client:
        yield client


class Speaker:
    """A client of one version; None says of itself what one of the RFC will say."""

    def __init__(self, client: httpx.Client, version: int | None, user: str = "ann") -> None:
        self.client = client
        self.version = version
        said = {} if version is None else {"Upload-Draft-Interop-Version": str(version)}
        self.headers = {"Authorization": f"Bearer {user}", **said}

    def post(self, content: Any = None, complete: str | None = "?0", path: str = "/uploads", **headers: str) -> Any:
        said = {} if complete is None else {"Upload-Complete": complete}
        return self.client.post(path, content=content, headers={**self.headers, **said, **headers})

    def create(self, length: int | None = 10, **headers: str) -> str:
        answer = self.post(**({} if length is None else {"Upload-Length": str(length)}), **headers)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["location"])

    def patch(self, url: str, offset: int, content: Any, complete: str | None = "?0", **headers: str) -> Any:
        said = {**PARTIAL, "Upload-Offset": str(offset), **({} if complete is None else {"Upload-Complete": complete})}
        return self.client.patch(url, content=content, headers={**self.headers, **said, **headers})

    def head(self, url: str, **headers: str) -> httpx.Response:
        return self.client.head(url, headers={**self.headers, **headers})

    def delete(self, url: str, **headers: str) -> httpx.Response:
        return self.client.delete(url, headers={**self.headers, **headers})

    def attach(self, answer: httpx.Response) -> Any:
        token = answer.headers["granite-upload-token"]
        return self.client.post("/videos", json={"token": token}, headers=self.headers).json()


def pieces(*content: bytes) -> Iterator[bytes]:
    yield from content


def stands(answer: httpx.Response) -> tuple[str | None, str | None]:
    return answer.headers.get("upload-offset"), answer.headers.get("upload-complete")


@every_version
def test_an_upload_in_parts_is_attached_by_its_token(client: httpx.Client, version: int | None) -> None:
    speaker = Speaker(client, version)
    made = speaker.post(
        b"he",
        **{
            "Upload-Length": "10",
            "Content-Type": "video/mp4",
            "Content-Disposition": "inline; filename=\"x\"; filename*=UTF-8''tr%C3%A4ume.mp4",
        },
    )
    assert (made.status_code, *stands(made), made.content) == (201, "2", "?0", b"")
    assert "tus-resumable" not in made.headers
    url = made.headers["location"]
    more = speaker.patch(url, 2, b"llo")
    assert (more.status_code, *stands(more)) == (204 if version in (7, 8, None) else 201, "5", "?0")
    assert "granite-upload-token" not in more.headers
    asked = speaker.head(url)
    assert (asked.status_code, *stands(asked)) == (204, "5", "?0")
    assert asked.headers["upload-length"] == "10"
    assert asked.headers["cache-control"] == "no-store"
    last = speaker.patch(url, 5, b"world", "?1")
    assert (last.status_code, *stands(last)) == (201, "10", "?1")
    assert stands(speaker.head(url)) == ("10", "?1")
    again = speaker.patch(url, 10, b"", "?1")
    assert (again.status_code, *stands(again)) == (201, "10", "?1"), "the answer may have been lost"
    video = speaker.attach(last)
    assert video["checksum"] == f"sha256:{hashlib.sha256(b'helloworld').hexdigest()}"
    assert (video["name"], video["size"]) == ("träume.mp4", 10)
    assert speaker.head(url).status_code == 404


@every_version
@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_may_come_whole(client: httpx.Client, version: int | None, announced: bool) -> None:
    speaker = Speaker(client, version)
    for content in (b"hello", b""):
        made = speaker.post(content if announced else pieces(content), "?1")
        assert (made.status_code, *stands(made)) == (201, str(len(content)), "?1")
        assert made.headers["location"].startswith("/uploads/")
        assert speaker.attach(made)["size"] == len(content)


@every_version
def test_a_length_need_not_be_known_before_the_end(client: httpx.Client, version: int | None) -> None:
    speaker = Speaker(client, version)
    for ending in (pieces(b"world"), b"world"):
        url = speaker.create(None)
        assert "upload-length" not in speaker.head(url).headers
        assert stands(speaker.patch(url, 0, pieces(b"he", b"llo"))) == ("5", "?0")
        last = speaker.patch(url, 5, ending, "?1")
        assert (last.status_code, *stands(last)) == (201, "10", "?1")
        assert speaker.attach(last)["checksum"] == f"sha256:{hashlib.sha256(b'helloworld').hexdigest()}"
    url = speaker.create(None)
    speaker.patch(url, 0, b"hello")
    assert stands(speaker.patch(url, 5, b"", "?1")) == ("5", "?1")


@every_version
def test_limits_are_told(client: httpx.Client, version: int | None) -> None:
    speaker = Speaker(client, version)
    made = speaker.post(**{"Upload-Length": "1"})
    told = made.headers.get("upload-limit")
    if version == 5:
        assert told is None
    else:
        name = "expires" if version == 6 else "max-age"
        size, _, age = told.partition(", ")
        assert size == f"max-size={LIMIT}"
        assert age.partition("=")[0] == name
        assert 86000 < int(age.partition("=")[2]) <= 86400
    for path in ("/uploads", "/uploads/x"):
        asked = client.options(path)
        assert asked.headers["upload-limit"] == f"max-size={LIMIT}"
        assert "application/partial-upload" in asked.headers["accept-patch"]


@every_version
def test_what_is_cancelled_is_gone(client: httpx.Client, version: int | None) -> None:
    speaker = Speaker(client, version)
    url = speaker.create()
    assert speaker.delete(url).status_code == 204
    assert speaker.head(url).status_code == 404
    assert speaker.delete(url).status_code == 404


def test_neither_protocol_finds_the_uploads_of_the_other(client: httpx.Client) -> None:
    speaker = Speaker(client, 8)
    ann = {**TUS, "Authorization": "Bearer ann"}
    assert client.head(speaker.create(), headers=ann).status_code == 404
    of_tus = client.post("/uploads", headers={**ann, "Upload-Length": "1"}).headers["location"]
    assert speaker.head(of_tus).status_code == 404


def test_a_method_may_be_overridden(client: httpx.Client) -> None:
    speaker = Speaker(client, 8)
    url = speaker.create(5)
    said = {**PARTIAL, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert speaker.post(b"hello", "?1", url, **said).status_code == 201
    assert client.get(url, headers=speaker.headers).headers["upload-complete"] == "?1"


def test_digests_are_verified(client: httpx.Client, server: tuple[str, str]) -> None:
    speaker = Speaker(client, 8)

    def digest(content: bytes) -> str:
        return f"sha-512=:AAAA:, sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"

    url = speaker.create(10, **{"Repr-Digest": digest(b"helloworld")})
    wrong = speaker.patch(url, 0, b"hellO", **{"Content-Digest": digest(b"hello")})
    assert (wrong.status_code, wrong.headers["upload-complete"]) == (422, "?0")
    assert stands(speaker.head(url)) == ("0", "?0"), "none of it is kept"
    assert speaker.patch(url, 0, b"hello", **{"Content-Digest": digest(b"hello")}).status_code == 204
    last = speaker.patch(url, 5, b"world", "?1")
    assert speaker.attach(last)["size"] == 10
    url = speaker.create(5, **{"Repr-Digest": digest(b"hello")})
    other = speaker.patch(url, 0, b"hallo", "?1")
    assert (other.status_code, other.headers["upload-complete"]) == (422, "?1")
    assert "granite-upload-token" not in other.headers
    assert speaker.head(url).status_code == 404
    for ask in (lambda url: speaker.patch(url, 5, b"", "?1"), speaker.head):  # its worker died before it looked
        url = speaker.post(b"hello", "?1", **{"Repr-Digest": digest(b"hello")}).headers["location"]
        kept = row(server[1], url).details.replace(hashlib.sha256(b"hello").hexdigest(), "00" * 32)
        change(server[1], url, details=kept)
        answer = ask(url)
        assert answer.status_code == 422
        assert "granite-upload-token" not in answer.headers
    before = count(server[1])
    assert speaker.post(b"hallo", "?1", **{"Repr-Digest": digest(b"hello")}).status_code == 422
    assert speaker.post(b"hallo", "?1", **{"Content-Digest": digest(b"hello")}).status_code == 422
    assert speaker.post(b"hallo", "?1", **{"Content-Digest": "sha-256=:AAAA:"}).status_code == 400
    assert count(server[1]) == before


def _refusals(
    client: httpx.Client, database: str, version: int | None
) -> Iterator[tuple[int, str | None, httpx.Response]]:
    speaker, bob = Speaker(client, version), Speaker(client, version, "bob")
    old, mismatch, inconsistent = version in (5, 6), "mismatching-upload-offset", "inconsistent-upload-length"
    url = speaker.create()
    # 400
    if version is not None:
        yield 400, None, speaker.post(complete=None)
        yield 400, None, speaker.post(complete="yes")
        for other in ("3", "9", "x"):
            yield 400, None, speaker.post(**{"Upload-Draft-Interop-Version": other})
    yield 400, inconsistent, speaker.post(b"hello", "?1", **{"Upload-Length": "6"})
    yield 400, inconsistent, speaker.post(pieces(b"hello"), "?1", **{"Upload-Length": "6"})
    yield 400, inconsistent, speaker.post(pieces(b"hello"), "?0", **{"Upload-Length": "4"})
    yield 400, inconsistent, speaker.post(b"hello", "?0", **{"Upload-Length": "4"})
    yield 400, inconsistent, speaker.patch(url, 0, b"x" * 11)
    yield 400, inconsistent, speaker.patch(url, 0, b"x", "?1")
    yield 400, inconsistent, speaker.patch(url, 0, b"x", **{"Upload-Length": "9"})
    yield 400, None, client.patch(url, content=b"x", headers={**speaker.headers, **PARTIAL, "Upload-Complete": "?0"})
    yield 400, None, speaker.patch(url, 0, b"x", **{"Upload-Offset": "-1"})
    said = [*{**speaker.headers, **PARTIAL, "Upload-Complete": "?0"}.items(), ("Upload-Offset", "0")]
    yield 400, None, client.patch(url, content=b"x", headers=[*said, ("Upload-Offset", "5")])
    if not old:
        yield 400, None, speaker.patch(url, 0, b"x", complete=None)
    else:
        for name in ("Upload-Offset", "Upload-Complete", "Upload-Length"):
            yield 400, None, speaker.head(url, **{name: "0"})
        yield 400, None, speaker.delete(url, **{"Upload-Offset": "0"})
    short = speaker.create(3)
    yield 400, inconsistent, speaker.patch(short, 0, pieces(b"x"), "?1")
    assert stands(speaker.head(short)) == ("1", "?0"), "what came is kept"
    over = speaker.create(3)
    yield 400, inconsistent, speaker.patch(over, 0, pieces(b"xx", b"xx"))
    assert speaker.head(over).status_code == (204 if old else 404), "it may not go on"
    whole = speaker.post(b"hello", "?1").headers["location"]
    yield 400, "completed-upload", speaker.patch(whole, 5, b"more")
    # 401: the guard's own, and nothing was read
    yield 401, None, client.post("/uploads", headers={"Upload-Complete": "?0"})
    # 404
    yield 404, None, speaker.patch("/uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa", 0, b"x")
    yield 404, None, bob.patch(url, 0, b"x")
    for no_id in ("%00", "a%00b", "x" * 300):
        yield 404, None, speaker.patch(f"/uploads/{no_id}", 0, b"x")
        yield 404, None, speaker.head(f"/uploads/{no_id}")
    # 405
    yield 405, None, client.put(url, headers={**speaker.headers, "Upload-Complete": "?0"})
    # 409
    yield 409, mismatch, speaker.patch(url, 3, b"x")
    yield 409, mismatch, speaker.patch(whole, 1, b"x")
    # 410
    gone = speaker.create()
    change(database, gone, expires_at=db_now() - 1)
    yield 404 if old else 410, None, speaker.patch(gone, 0, b"x")
    # 413
    yield 413, None, speaker.post(**{"Upload-Length": str(LIMIT + 1)})
    yield 413, None, speaker.patch(speaker.create(None), 0, b"x", **{"Upload-Length": str(LIMIT + 1)})
    # 415
    if version != 5:
        yield 415, None, speaker.patch(url, 0, b"x", **{"Content-Type": "application/offset+octet-stream"})
    yield 415, None, speaker.patch(url, 0, b"x", **{"Content-Encoding": "gzip"})
    yield 415, None, speaker.post(b"text", "?1", "/pictures", **{"Content-Type": "image/png"})
    # 423
    change(database, url, holder="somebody", held_until=db_now() + 60_000)
    yield 423, None, speaker.patch(url, 0, b"x")
    yield 423, None, speaker.patch(url, 3, b"x")
    yield 423, None, speaker.head(url)
    change(database, url, holder=None, held_until=0)


@every_version
def test_every_refusal_has_its_status(client: httpx.Client, server: tuple[str, str], version: int | None) -> None:
    seen = set()
    for number, (status, kind, answer) in enumerate(_refusals(client, server[1], version)):
        request = answer.request
        assert answer.status_code == status, (number, request.method, dict(request.headers), answer.text)
        if request.method != "HEAD" and status not in (401, 405, 404, 410, 413, 415):
            problem = json.loads(answer.content)
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["type"] == ("about:blank" if kind is None else TYPES + kind)
            assert problem["status"] == status
        if kind == "mismatching-upload-offset":
            assert problem["expected-offset"] == int(answer.headers["upload-offset"])
            assert problem["provided-offset"] == int(request.headers["upload-offset"])
            assert answer.headers["upload-complete"] == "?0"
        if status == 413 and version != 5:
            assert answer.headers["upload-limit"].startswith(f"max-size={LIMIT}")
        if status == 423:
            assert answer.headers["retry-after"] == "1"
        active = request.method == "PATCH" and status not in (401, 404, 405, 410)
        if version in (5, 6) and active:
            assert answer.headers["upload-offset"].isdecimal(), "each answer about what goes on tells it"
        elif status in (413, 415, 423):
            assert "upload-offset" not in answer.headers
        seen.add(status)
    assert seen >= {400, 401, 404, 405, 409, 413, 415, 423}


def test_a_refused_creation_leaves_no_upload(client: httpx.Client, server: tuple[str, str]) -> None:
    before = count(server[1])
    speaker = Speaker(client, 8)
    assert speaker.post(pieces(b"hello"), "?1", **{"Upload-Length": "6"}).status_code == 400
    assert speaker.post(pieces(b"hello"), "?0", **{"Upload-Length": "4"}).status_code == 400
    assert speaker.post(b"text", "?1", "/pictures", **{"Content-Type": "image/png"}).status_code == 415
    assert count(server[1]) == before


def test_what_the_policy_refuses_is_over(client: httpx.Client) -> None:
    for version, complete, told in ((8, "?1", "?1"), (8, "?0", "?1"), (7, "?1", "?1"), (7, "?0", "?0")):
        speaker = Speaker(client, version)
        url = speaker.post(path="/pictures").headers["location"]
        refused = speaker.patch(url, 0, b"text" * 4096, complete)
        assert (refused.status_code, refused.headers["upload-complete"]) == (415, told)
        assert speaker.head(url).status_code in (404, 410)
    encoded = speaker.patch(speaker.create(), 0, b"x", **{"Content-Encoding": "gzip"})
    assert (encoded.status_code, encoded.headers["upload-complete"]) == (415, "?0")


def test_pages_of_other_origins_may_speak_it(client: httpx.Client) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
    allowed = (
        client.options("/uploads/abcdefghijklmnopqrstuv2345", headers=asked)
        .headers["access-control-allow-headers"]
        .split(", ")
    )
    assert {"Upload-Draft-Interop-Version", "Upload-Complete", "Upload-Offset"} <= set(allowed)
    made = Speaker(client, 8).post(Origin=ORIGIN)
    assert {"Upload-Complete", "Upload-Limit"} <= set(made.headers["access-control-expose-headers"].split(", "))
