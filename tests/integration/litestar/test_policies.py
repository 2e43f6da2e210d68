"""What policies decide, over real requests: what is refused and how that is told, and where files go."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from litestar import Litestar, Request, post, put, route
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException

from granite_core import (
    AsyncStorageManager,
    Candidate,
    LocalStorageBackend,
    MemoryStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    ValidationFailedError,
)
from granite_core.events import object_id
from granite_core.testing import FaultyBackend
from granite_litestar import FileDownload, GraniteConfig, GranitePlugin, MultipartBody, RawUpload, Upload, UploadDTO
from tests.support.upload_apps import Conversation, eventually, make_app, serve, stored

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)


class Form(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload("files")]
    copies: int = 1


@post("/form")
async def take_form(data: MultipartBody[Form]) -> None:
    await data.file.keep()


@put("/raw")
async def take_raw(data: Annotated[StagedFile, RawUpload("files")]) -> None:
    await data.keep()


def make_manager(**options: Any) -> AsyncStorageManager:
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("files", "main", **options)])
    return AsyncStorageManager(manager)


@contextmanager
def client_of(manager: AsyncStorageManager, **options: Any) -> Iterator[httpx.Client]:
    handlers = options.pop("handlers", [take_form, take_raw])
    app = make_app(manager, handlers, logging_config=None, **options)
    with serve(app, "uvicorn-h11") as url, httpx.Client(base_url=url) as client:
        yield client


def tenant_of(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, str]:
    return {"tenant": connection.headers["x-tenant"]}


async def tenant_of_slowly(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, str]:
    return tenant_of(connection)


def test_a_file_that_is_not_what_it_is_called_is_refused_with_415() -> None:
    manager = make_manager(mismatch="refuse")
    with client_of(manager) as client:
        answers = [
            client.post("/form", data={"title": "a"}, files={"file": ("a.pdf", PNG, "application/pdf")}),
            client.put("/raw", content=PNG, headers={"Content-Type": "application/pdf"}),
        ]
        for answer, field in zip(answers, ("file", "data"), strict=True):
            assert answer.status_code == 415
            assert answer.json()["extra"] == {
                "code": "content_type_mismatch",
                "field": field,
                "limit": "image/png",
                "value": "application/pdf",
            }
        assert stored(manager) == []
        assert client.put("/raw?filename=a.png", content=PNG).status_code == 200


@pytest.mark.parametrize("find", [tenant_of, tenant_of_slowly])
def test_the_request_s_context_fills_the_keys_of_forms_and_raw_bodies(find: Any) -> None:
    manager = make_manager(key_template="{tenant}")
    with client_of(manager, context=find) as client:
        for tenant in ("acme", "../other"):
            headers = {"X-Tenant": tenant}
            form = client.post("/form", data={"title": "a"}, files={"file": ("a.txt", b"x")}, headers=headers)
            assert form.status_code == 201
            assert client.put("/raw", content=b"x", headers=headers).status_code == 200
    assert [key.split("/")[0] for key in stored(manager)] == ["%2E.%2Fother"] * 2 + ["acme"] * 2


async def test_the_context_is_found_after_the_guards_and_before_the_first_byte() -> None:
    asked: list[str] = []

    def only_members(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
        if "x-member" not in connection.headers:
            raise NotAuthorizedException

    @put("/guarded", guards=[only_members])
    async def guarded(request: Request[Any, Any, Any], data: Annotated[StagedFile, RawUpload("files")]) -> None:
        await data.keep()

    def of_members(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, str]:
        asked.append(str(connection.url.path))
        if connection.headers.get("x-tenant") is None:
            raise PermissionDeniedException("Which tenant?")
        return {"tenant": connection.headers["x-tenant"]}

    app = make_app(make_manager(key_template="{tenant}"), [guarded], context=of_members, logging_config=None)
    stranger = await Conversation(app, "PUT", "/guarded", chunks=[b"x"]).run()
    assert (stranger.status, stranger.receives, asked) == (401, 0, [])
    nobodys = await Conversation(app, "PUT", "/guarded", chunks=[b"x"], headers=[("X-Member", "1")]).run()
    assert (nobodys.status, nobodys.receives, asked) == (403, 0, ["/guarded"])
    assert b"Which tenant?" in nobodys.body


async def test_a_context_without_the_name_is_the_application_s_fault_and_tells_the_client_nothing() -> None:
    manager = make_manager(key_template="{tenant}")
    with client_of(manager, context=lambda _: {}) as client:
        answer = client.put("/raw", content=b"x")
        assert answer.status_code == 500
        assert "tenant" not in answer.text
        await eventually(lambda: stored(manager) == [])


def too_short(candidate: Candidate) -> None:
    if candidate.ref.size < 5:
        raise ValidationFailedError("too short to be read", code="too_short", limit=5, value=candidate.ref.size)


async def too_short_later(candidate: Candidate) -> None:
    async with await candidate.open_async() as reader:
        too_short(candidate)
        assert await reader.read() == b"long enough"


WRONG = {"field": "file", "code": "too_short", "message": "too short to be read", "limit": 5, "value": 3}


@pytest.mark.parametrize("validator", [too_short, too_short_later])
def test_what_a_validator_refuses_is_told_with_the_form_s_other_errors(validator: Any) -> None:
    manager = make_manager(validators=[validator])
    with client_of(manager) as client:
        answer = client.post("/form", files=[("file", ("a.txt", b"abc")), ("copies", (None, "many"))])
        assert answer.status_code == 422
        errors = {each["field"]: each for each in answer.json()["extra"]}
        assert set(errors) == {"title", "file", "copies"}
        assert errors["file"] == WRONG
        raw = client.put("/raw", content=b"abc")
        assert raw.status_code == 422
        assert raw.json()["detail"] == "data: too short to be read"
        assert raw.json()["extra"] == {"code": "too_short", "field": "data", "limit": 5, "value": 3}
        assert stored(manager) == []
        ok = client.post("/form", data={"title": "a"}, files={"file": ("a.txt", b"long enough")})
        assert ok.status_code == 201
        assert len(stored(manager)) == 1


CONTENT = random.Random(3).randbytes(300_000)
FEW_BYTES = ("Range", "bytes=10-14")


class VerifiedWorld:
    """One file under a policy with ``verify_reads``, on a disk where a bit can be flipped."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.backend = FaultyBackend(LocalStorageBackend(folder))
        policies = [StoragePolicy("files", "main", verify_reads=True)]
        self.manager = AsyncStorageManager(StorageManager({"main": self.backend}, policies))
        self.ref = self.manager.sync.put_bytes("files", content=content, original_filename="a.bin")
        self.path = folder / self.ref.location

        @route("/", http_method=["GET", "HEAD"])
        async def download() -> FileDownload:
            return FileDownload(self.ref)

        plugin = GranitePlugin(GraniteConfig(manager=self.manager.sync, gc=None))
        self.app = Litestar([download], plugins=[plugin], logging_config=None)

    def flip_a_bit(self, at: int = -1) -> None:
        data = bytearray(self.path.read_bytes())
        data[at] ^= 1
        self.path.write_bytes(data)


@pytest.mark.parametrize("server", ["uvicorn-h11", "granian"])
@pytest.mark.parametrize("content", [CONTENT, CONTENT[:100]], ids=["large", "small"])
def test_a_file_that_changed_on_disk_is_never_served_whole(
    tmp_path: Path, server: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world = VerifiedWorld(tmp_path, content)
    with serve(world.app, server) as url, httpx.Client(base_url=url) as client:
        good = client.get("/")
        part = client.get("/", headers=[FEW_BYTES])
        parts = client.get("/", headers={"Range": "bytes=1-2,50-59"})
        assert (good.content, part.content) == (content, content[10:15])
        assert (part.status_code, parts.status_code) == (206, 206)
        assert content[50:60] in parts.content
        world.flip_a_bit()
        with caplog.at_level(logging.ERROR):
            if content == CONTENT:
                with pytest.raises(httpx.HTTPError):
                    client.get("/")
            else:
                assert client.get("/").status_code == 500
        assert any(object_id(world.ref.location) in each.getMessage() for each in caplog.records)
        wrong = client.get("/", headers=[FEW_BYTES])
        assert wrong.status_code == 500
        assert "etag" not in wrong.headers
        assert world.ref.location not in wrong.text
        # What no byte is sent for is known from the row.
        assert client.head("/").headers["etag"] == good.headers["etag"]
        assert client.get("/", headers={"If-None-Match": good.headers["etag"]}).status_code == 304
        world.flip_a_bit()
        assert client.get("/").content == content
    assert world.backend.open_readers == 0


def test_several_ranges_read_the_whole_once(tmp_path: Path) -> None:
    world = VerifiedWorld(tmp_path, CONTENT)
    with serve(world.app, "uvicorn-h11") as url:
        answer = httpx.get(url, headers={"Range": "bytes=0-9,100000-100009,200000-200009"})
    assert answer.status_code == 206
    assert world.backend.calls["open_reader"] == 1 + 3
    assert world.backend.open_readers == 0


async def test_a_client_that_leaves_stops_the_reading_before_its_range(tmp_path: Path) -> None:
    world = VerifiedWorld(tmp_path, CONTENT * 40)
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    world.backend.call("read", lambda: loop.call_soon_threadsafe(left.set), at=2)

    async def chunks() -> Any:
        yield b""
        await left.wait()

    answer = await Conversation(world.app, "GET", headers=[FEW_BYTES], chunks=chunks, leaves=True).run()
    assert (answer.status, answer.body) == (0, b"")
    assert world.backend.calls["read"] < 8
    assert world.backend.open_readers == 0
