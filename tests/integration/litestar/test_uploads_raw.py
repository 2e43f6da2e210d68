"""Raw bodies: the request is the file."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from litestar import Litestar, post, put
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.params import FromPath
from litestar.testing import TestClient
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import AsyncStorageManager, ConfigurationError, MemoryStorageBackend, StagedFile, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import RawUpload
from tests.support.upload_apps import MB, Conversation, make_app, make_manager, stored


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "raw_document"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")


@pytest.fixture
def manager() -> AsyncStorageManager:
    return make_manager(MemoryStorageBackend())


@put("/documents/{number:int}/file")
async def replace(number: FromPath[int], data: Annotated[StagedFile, RawUpload(Document.file)]) -> StagedFile:
    return data


@post("/texts")
async def text(data: Annotated[StagedFile, RawUpload("texts", field="text", description="Plain text")]) -> None: ...


@put("/kept")
async def keep(data: Annotated[StagedFile, RawUpload("anything")]) -> int:
    await data.keep()
    return data.size


PATH = "/documents/1/file"


def client_of(manager: AsyncStorageManager, *handlers: Any) -> TestClient[Litestar]:
    app = make_app(manager, handlers or [replace, text, keep], logging_config=None)
    return TestClient(app, raise_server_exceptions=False)


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


# ---------------------------------------------------------------------------------------------------------- arriving
def test_the_body_is_the_file(manager: AsyncStorageManager) -> None:
    with client_of(manager) as client:
        response = client.put(PATH, content=b"hello", headers={"Content-Type": "text/plain; charset=utf-8"})
    assert response.status_code == 200, response.text
    shown = response.json()
    assert (shown["size"], shown["content_type"], shown["filename"]) == (5, "text/plain", None)
    assert stored(manager) == [], "what the handler does not keep goes"


@pytest.mark.parametrize("size", [0, 1, 20_000_000])
def test_a_body_of_any_size_is_stored_as_it_was_sent(manager: AsyncStorageManager, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with client_of(manager) as client:
        assert client.put("/kept", content=content).text == str(size)
    [location] = stored(manager)
    assert manager.sync.get_backend("main").get(location) == content


@pytest.mark.parametrize(
    ("disposition", "query", "filename"),
    [
        ('attachment; filename="a b.txt"', "", "a b.txt"),
        ("attachment; filename=plain.txt", "?filename=other.txt", "plain.txt"),
        (r'attachment; filename="quo\"te.txt"', "", 'quo"te.txt'),
        ("attachment; filename=\"x\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.txt", "", "日本.txt"),
        ('attachment; filename="naïve.txt"'.encode().decode("latin-1"), "", "naïve.txt"),
        ('attachment; filename="na\xefve.txt"', "", "naïve.txt"),
        ("", "?filename=%E6%97%A5%E6%9C%AC.txt", "日本.txt"),
        ("", "?filename=..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("", "?other=1", None),
        ("attachment", "", None),
    ],
)
async def test_the_name_is_in_the_header_or_the_query(
    manager: AsyncStorageManager, disposition: str, query: str, filename: str | None
) -> None:
    names: list[str | None] = []

    @put("/")
    async def handle(data: Annotated[StagedFile, RawUpload("documents")]) -> None:
        names.append(data.original_filename)

    headers = [("Content-Disposition", disposition)] if disposition else []
    talk = await Conversation(make_app(manager, [handle]), "PUT", f"/{query}", chunks=[b"x"], headers=headers).run()
    assert (talk.status, names) == (200, [filename])


@pytest.mark.parametrize("header", ["Repr-Digest", "Content-Digest"])
def test_an_announced_digest_is_verified(manager: AsyncStorageManager, header: str) -> None:
    with client_of(manager) as client:
        good = client.put(PATH, content=b"hello", headers={header: f"md5=:AAAA:, {digest(b'hello')}"})
        bad = client.put(PATH, content=b"hello", headers={header: digest(b"other")})
        none = client.put(PATH, content=b"hello", headers={header: "md5=:AAAA:"})
        malformed = [
            client.put(PATH, content=b"hello", headers={header: f"sha-256=:{text}:"}) for text in ("!", "AAAA", "")
        ]
    assert (good.status_code, bad.status_code, none.status_code) == (200, 422, 200)
    assert bad.json()["extra"]["code"] == "checksum_mismatch"
    assert {each.status_code for each in malformed} == {400}
    assert stored(manager) == []


# ----------------------------------------------------------------------------------------------------------- refused
async def test_a_guard_refuses_before_the_first_byte(manager: AsyncStorageManager) -> None:
    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
        raise NotAuthorizedException

    @put("/", guards=[guard])
    async def handle(data: Annotated[StagedFile, RawUpload("documents")]) -> None: ...

    talk = await Conversation(make_app(manager, [handle]), "PUT", chunks=[b"x"]).run()
    assert (talk.status, talk.receives) == (401, 0)


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ([("Content-Length", str(MB + 1))], 413, b'"field":"data","limit":1048576,"value":1048577'),
        ([("Content-Encoding", "gzip")], 415, b"Content-Encoding"),
        ([("Content-Type", "multipart/form-data; boundary=x")], 415, b"not a form"),
        ([("Content-Range", "bytes 0-4/10")], 400, b"Content-Range"),
        ([("Content-Length", "9" * 5000)], 400, b"ength"),
        ([("Content-Length", "5"), ("Content-Length", "6")], 400, b"Content-Length"),
        ([("Content-Encoding", "gzip"), ("Content-Encoding", "identity")], 415, b"Content-Encoding"),
        ([("Repr-Digest", "sha-256=:\xe9\xe9\xe9\xe9:")], 400, b"Repr-Digest"),
    ],
)
async def test_what_the_head_shows_is_refused_before_the_first_byte(
    manager: AsyncStorageManager, headers: list[tuple[str, str]], status: int, told: bytes
) -> None:
    talk = await Conversation(make_app(manager, [replace]), "PUT", PATH, chunks=[b"x"], headers=headers).run()
    assert (talk.status, talk.receives) == (status, 0)
    assert told in talk.body


async def test_a_body_that_is_too_large_stops_at_once(manager: AsyncStorageManager) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    talk = await Conversation(make_app(manager, [replace]), "PUT", PATH, chunks=chunks).run()
    assert (talk.status, talk.receives) == (413, 17)
    assert stored(manager) == []


def test_a_type_that_is_not_accepted_is_told(manager: AsyncStorageManager) -> None:
    with client_of(manager) as client:
        response = client.post("/texts", content=b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    assert response.status_code == 415
    assert response.json()["extra"]["field"] == "text"


async def test_a_limit_that_the_user_set_holds(manager: AsyncStorageManager) -> None:
    @put("/", request_max_body_size=10)
    async def handle(data: Annotated[StagedFile, RawUpload("anything")]) -> None: ...

    talk = await Conversation(make_app(manager, [handle]), "PUT", chunks=[b"x" * 11]).run()
    assert talk.status == 413
    assert b'"limit":10' in talk.body


async def test_a_client_that_leaves_leaves_nothing(manager: AsyncStorageManager) -> None:
    app = make_app(manager, [replace])
    talk = await Conversation(app, "PUT", PATH, chunks=[b"x" * 300_000], leaves=True).run()
    assert talk.status == 400
    assert stored(manager) == []


async def test_a_cancelled_request_leaves_nothing(manager: AsyncStorageManager) -> None:
    reached = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Conversation(make_app(manager, [replace]), "PUT", PATH, chunks=chunks).run())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(manager) == []


def test_a_handler_that_fails_leaves_nothing(manager: AsyncStorageManager) -> None:
    @put("/")
    async def handle(data: Annotated[StagedFile, RawUpload("documents")]) -> None:
        raise RuntimeError("mine")

    with client_of(manager, handle) as client:
        assert client.put("/", content=b"x").status_code == 500
    assert stored(manager) == []


# ---------------------------------------------------------------------------------------------------------- start-up
def test_what_cannot_work_is_refused_at_start_up(manager: AsyncStorageManager) -> None:
    @put("/1")
    async def unknown(data: Annotated[StagedFile, RawUpload("no such policy")]) -> None: ...

    @put("/2")
    async def untargeted(data: Annotated[StagedFile, RawUpload()]) -> None: ...

    @put("/3")
    async def as_bytes(data: Annotated[bytes, RawUpload("documents")]) -> None: ...

    for handler, message in [
        (unknown, "no such policy"),
        (untargeted, "neither a storage_key nor a mapped file field"),
        (as_bytes, "goes with StagedFile"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            make_app(manager, [handler])


def test_the_body_is_documented(manager: AsyncStorageManager) -> None:
    with client_of(manager) as client:
        paths = client.get("/schema/openapi.json").json()["paths"]
    operation = paths["/documents/{number}/file"]["put"]
    body = {
        "schema": {
            "type": "string",
            "format": "binary",
            "maxLength": 1048576,
            "description": "At most 1048576 bytes",
        }
    }
    assert operation["requestBody"]["content"] == {"application/octet-stream": body, "*/*": body}
    assert {"413", "415", "422"} <= set(operation["responses"])
    bodies = paths["/texts"]["post"]["requestBody"]["content"]
    assert list(bodies) == ["application/octet-stream", "text/plain"]
    for body in bodies.values():
        assert body["schema"]["description"] == "Plain text. At most 1048576 bytes; of type text/plain"
