"""Uploads through Litestar, message by message: what is read when, what is told, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import uuid
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from litestar import Controller, Litestar, Request, Response, Router, get, patch, post
from litestar.background_tasks import BackgroundTask
from litestar.config.csrf import CSRFConfig
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.dto import DataclassDTO
from litestar.exceptions import NotAuthorizedException
from litestar.logging import LoggingConfig
from litestar.middleware import ASGIMiddleware
from litestar.middleware.logging import LoggingMiddlewareConfig
from litestar.params import FromPath, JSONBody
from litestar.testing import TestClient
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Meta

from granite_core import (
    AsyncStorageManager,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    ContentTooLargeError,
    MemoryStorageBackend,
    StagedFile,
)
from granite_core.testing import FaultyBackend
from granite_litestar import FormLimits, MultipartBody, Upload, UploadDTO
from granite_litestar.multipart import encode_text_parts
from tests.support.upload_apps import MB, Conversation, make_app, make_manager, stored

BOUNDARY = b"a-boundary"
FORM_TYPE = ("Content-Type", "multipart/form-data; boundary=a-boundary")


class NewDocument(UploadDTO):
    """A document to be filed."""

    title: Annotated[str, Meta(min_length=2)]
    file: Annotated[StagedFile, Upload("documents", description="The scan")]
    extra: Annotated[StagedFile | None, Upload("documents")] = None
    pages: Annotated[list[StagedFile], Upload("pages", max_count=2)] = []
    copies: int = 1
    due: dt.date | None = None
    owner: uuid.UUID | None = None
    tags: list[str] = []


class Unlimited(UploadDTO):
    file: Annotated[StagedFile, Upload("anything")]


def part(name: str, data: bytes, filename: str | None = "a.txt", content_type: str = "") -> bytes:
    head = f'--a-boundary\r\nContent-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    if content_type:
        head += f"\r\nContent-Type: {content_type}"
    return head.encode() + b"\r\n\r\n" + data + b"\r\n"


END = b"--a-boundary--\r\n"
TITLE = part("title", b"Invoice", None)


@pytest.fixture
def manager() -> AsyncStorageManager:
    return make_manager(MemoryStorageBackend())


@post("/")
async def create(data: MultipartBody[NewDocument]) -> dict[str, Any]:
    return {name: getattr(data, name) for name in data.__struct_fields__}


@post("/kept")
async def create_and_keep(data: MultipartBody[NewDocument]) -> None:
    await data.file.keep()


def client_of(manager: AsyncStorageManager, *handlers: Any, **options: Any) -> TestClient[Litestar]:
    options.setdefault("logging_config", None)
    return TestClient(
        make_app(manager, handlers or [create, create_and_keep], **options), raise_server_exceptions=False
    )


# ---------------------------------------------------------------------------------------------------------- arriving
def test_a_form_arrives_with_its_files_stored(manager: AsyncStorageManager) -> None:
    with client_of(manager) as client:
        response = client.post(
            "/",
            data={"title": "Ünvoice", "copies": "3", "due": "2024-02-29", "owner": "", "tags": ["a", "b"]},
            files=[
                ("file", ("../../日本.txt", b"hello", "text/plain")),
                ("pages", ("1.txt", b"one")),
                ("pages", ("2.txt", b"two")),
            ],
        )
    assert response.status_code == 201, response.text
    form = response.json()
    assert (form["title"], form["copies"], form["due"], form["owner"]) == ("Ünvoice", 3, "2024-02-29", None)
    assert (form["tags"], form["extra"]) == (["a", "b"], None)
    assert [page["filename"] for page in form["pages"]] == ["1.txt", "2.txt"]
    assert form["file"] == {
        "filename": "日本.txt",
        "size": 5,
        "content_type": "text/plain",
        "checksum": "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "id": form["file"]["id"],
    }


def test_the_stored_bytes_are_those_that_were_sent(manager: AsyncStorageManager) -> None:
    content = bytes(range(256)) * 4000
    with client_of(manager) as client:
        assert client.post("/kept", data={"title": "xx"}, files={"file": content}).status_code == 201
    [location] = stored(manager)
    assert manager.sync.get_backend("main").get(location) == content


def test_an_empty_file_is_a_file_and_an_empty_input_is_none(manager: AsyncStorageManager) -> None:
    body = TITLE + part("file", b"", "empty.txt") + part("extra", b"", "", "application/octet-stream")
    with client_of(manager) as client:
        response = client.post("/", content=body + part("pages", b"", "") + END, headers=[FORM_TYPE])
        assert response.status_code == 201, response.text
        form = response.json()
        assert (form["file"]["size"], form["file"]["filename"]) == (0, "empty.txt")
        assert (form["extra"], form["pages"]) == (None, [])
        response = client.post("/", content=TITLE + part("file", b"", "") + END, headers=[FORM_TYPE])
    assert response.json()["extra"] == [{"field": "file", "code": "required", "message": "this field is required"}]


@pytest.mark.parametrize("spelling", ["marked", "bare"])
@pytest.mark.parametrize("kind", ["async", "sync", "thread"])
def test_every_kind_of_handler_takes_forms(manager: AsyncStorageManager, spelling: str, kind: str) -> None:
    annotation: Any = MultipartBody[NewDocument] if spelling == "marked" else NewDocument
    if kind == "async":

        async def handle(data: Any) -> int:
            return data.file.size  # type: ignore[no-any-return]
    else:

        def handle(data: Any) -> int:  # type: ignore[misc]
            return data.file.size  # type: ignore[no-any-return]

    handle.__annotations__ = {"data": annotation, "return": int}
    handler = post("/", sync_to_thread=None if kind == "async" else kind == "thread")(handle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of other tests, whose objects may be collected here
        app = make_app(manager, [handler])
    with TestClient(app) as client:
        assert client.post("/", data={"title": "xx"}, files={"file": b"abc"}).text == "3"
        assert client.post("/", data={"title": "x"}, files={"file": b"abc"}).status_code == 422


async def test_reading_waits_for_storing(manager: AsyncStorageManager) -> None:
    """What the client sent and nobody has taken yet stays at most a buffer ahead of what is stored."""
    written = 0
    sent = 0

    class Slow(MemoryStorageBackend):
        def open_writer(self, *args: Any, **options: Any) -> Any:
            writer = super().open_writer(*args, **options)
            original = writer.write

            def write(data: Any) -> None:
                nonlocal written
                assert sent - written < MB
                original(data)
                written += len(data)

            writer.write = write  # type: ignore[method-assign]
            return writer

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"").removesuffix(b"\r\n")
        for _ in range(160):
            sent += 65536
            yield b"x" * 65536
        yield b"\r\n" + END

    @post("/")
    async def handle(data: MultipartBody[Unlimited]) -> int:
        return data.file.size

    app = make_app(make_manager(Slow()), [handle])
    talk = await Conversation(app, chunks=chunks, headers=[FORM_TYPE]).run()
    assert (talk.status, talk.body, sent) == (201, str(160 * 65536).encode(), 160 * 65536)


async def test_many_forms_at_once_do_not_mix(manager: AsyncStorageManager) -> None:
    app = make_app(manager, [create])

    async def one(index: int) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield part("title", f"number {index}".encode(), None) + part("file", b"").removesuffix(b"\r\n")
            for _ in range(20):
                yield bytes([index]) * 1000
                await asyncio.sleep(0)
            yield b"\r\n" + END

        talk = await Conversation(app, chunks=chunks, headers=[FORM_TYPE]).run()
        assert talk.status == 201
        assert f'"number {index}"'.encode() in talk.body
        assert b'"size":20000' in talk.body

    await asyncio.gather(*(one(index) for index in range(50)))
    assert stored(manager) == []


# ----------------------------------------------------------------------------------------------------------- guards
async def test_a_guard_refuses_before_the_first_byte(manager: AsyncStorageManager) -> None:
    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
        raise NotAuthorizedException

    @post("/", guards=[guard])
    async def handle(data: MultipartBody[NewDocument]) -> None: ...

    talk = await Conversation(make_app(manager, [handle]), chunks=[TITLE], headers=[FORM_TYPE]).run()
    assert (talk.status, talk.receives) == (401, 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Content-Type", "application/json")], 415),
        ([("Content-Type", "application/x-www-form-urlencoded")], 415),
        ([], 415),
        ([("Content-Type", "multipart/form-data")], 400),
        ([FORM_TYPE, ("Content-Encoding", "gzip")], 415),
        ([FORM_TYPE, ("Content-Length", str(10**12))], 413),
        ([FORM_TYPE, ("Content-Length", "many")], 400),
    ],
)
async def test_what_the_head_shows_is_refused_before_the_first_byte(
    manager: AsyncStorageManager, headers: list[tuple[str, str]], status: int
) -> None:
    talk = await Conversation(make_app(manager, [create]), chunks=[TITLE], headers=headers).run()
    assert (talk.status, talk.receives) == (status, 0)


# ---------------------------------------------------------------------------------------------- refused, nothing left
def test_everything_that_is_wrong_is_told_at_once(manager: AsyncStorageManager) -> None:
    pages = [("pages", ("p", b"x"))] * 3
    with client_of(manager) as client:
        response = client.post("/", data={"title": "x", "copies": "many"}, files=pages)
    assert response.status_code == 422
    body = response.json()
    assert body["detail"] == "The form is not valid: title, file, pages, copies"
    assert [(each["field"], each["code"]) for each in body["extra"]] == [
        ("title", "invalid"),
        ("file", "required"),
        ("pages", "too_many"),
        ("copies", "invalid"),
    ]
    assert (body["extra"][2]["limit"], body["extra"][2]["value"]) == (2, 3)
    assert stored(manager) == []


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        (part("file", b"some text", None), ("file", "not_a_file")),
        (part("title", b"a file", "a.txt") + part("file", b"x"), ("title", "not_text")),
        (part("file", b"x") + part("file", b"y"), ("file", "duplicate")),
        (part("title", b"one more", None) + part("file", b"x"), ("title", "duplicate")),
    ],
)
def test_parts_of_the_wrong_kind_are_told(manager: AsyncStorageManager, parts: bytes, error: tuple[str, str]) -> None:
    with client_of(manager) as client:
        response = client.post("/", content=TITLE + parts + END, headers=[FORM_TYPE])
    assert response.status_code == 422
    assert error in [(each["field"], each["code"]) for each in response.json()["extra"]]
    assert stored(manager) == []


async def test_a_file_that_is_too_large_stops_at_once(manager: AsyncStorageManager) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield TITLE + part("extra", b"stored before") + part("file", b"").removesuffix(b"\r\n")
        while True:
            yield b"x" * 65536

    talk = await Conversation(make_app(manager, [create]), chunks=chunks, headers=[FORM_TYPE]).run()
    assert talk.status == 413
    assert b'"extra":{"code":"content_too_large","field":"file","limit":1048576,"value":' in talk.body
    assert talk.receives <= 20
    assert stored(manager) == []


def test_a_type_that_is_not_accepted_is_told(manager: AsyncStorageManager) -> None:
    class Texts(UploadDTO):
        file: Annotated[StagedFile, Upload("texts")]

    @post("/")
    async def handle(data: MultipartBody[Texts]) -> None: ...

    with client_of(manager, handle, signature_namespace={"Texts": Texts}) as client:
        response = client.post("/", files={"file": ("a.txt", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "text/plain")})
    assert response.status_code == 415
    assert response.json()["extra"] == {
        "code": "content_type_not_allowed",
        "field": "file",
        "limit": ["text/plain"],
        "value": "image/png",
    }
    assert stored(manager) == []


@pytest.mark.parametrize(
    ("limits", "body", "field"),
    [
        (FormLimits(max_field_size=10), part("title", b"x" * 11, None), "title"),
        (FormLimits(max_text_size=20), part("tags", b"x" * 15, None) * 2, "tags"),
        (FormLimits(max_text_size=20), part("unknown", b"x" * 21, None), "unknown"),
        (FormLimits(max_ignored_size=10), part("unknown", b"x" * 11), "unknown"),
        (FormLimits(max_parts=2), part("tags", b"", None) * 3, None),
    ],
)
def test_what_a_form_costs_beside_its_files_is_limited(
    manager: AsyncStorageManager, limits: FormLimits, body: bytes, field: str | None
) -> None:
    with client_of(manager, limits=limits) as client:
        response = client.post("/", content=body + part("file", b"x") + END, headers=[FORM_TYPE])
    assert response.status_code == 413, response.text
    assert response.json()["extra"].get("field") == field
    assert stored(manager) == []


def test_a_form_may_have_more_parts_than_litestar_allows(manager: AsyncStorageManager) -> None:
    with client_of(manager, limits=FormLimits(max_parts=2000)) as client:
        body = TITLE + part("tags", b"x", None) * 1500 + part("file", b"x") + END
        response = client.post("/", content=body, headers=[FORM_TYPE])
    assert response.status_code == 201, response.text
    assert len(response.json()["tags"]) == 1500


async def test_a_form_that_is_wrong_already_is_not_read_to_its_end(manager: AsyncStorageManager) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield part("title", b"x", None) + part("file", b"").removesuffix(b"\r\n")
        while True:
            yield b"x" * 65536

    talk = await Conversation(make_app(manager, [create]), chunks=chunks, headers=[FORM_TYPE]).run()
    assert talk.status == 422
    assert b'"field":"title"' in talk.body


@pytest.mark.parametrize("cut", [0, 1, 60, 200])
async def test_a_form_that_ends_early_is_malformed(manager: AsyncStorageManager, cut: int) -> None:
    body = (TITLE + part("extra", b"y" * 100) + part("file", b"x" * 100))[: -cut or None]
    talk = await Conversation(make_app(manager, [create]), chunks=[body], headers=[FORM_TYPE]).run()
    assert talk.status == 400
    assert b"malformed" in talk.body
    assert stored(manager) == []


@pytest.mark.parametrize("size", [0, 100, 300_000])
async def test_a_client_that_leaves_leaves_nothing(manager: AsyncStorageManager, size: int) -> None:
    handled = False

    @post("/")
    async def handle(data: MultipartBody[NewDocument]) -> None:
        nonlocal handled
        handled = True

    chunks = [TITLE, part("extra", b"stored before"), part("file", b"x" * size).removesuffix(b"\r\n")]
    app = make_app(manager, [handle])
    await Conversation(app, chunks=chunks, headers=[FORM_TYPE], leaves=True).run()
    assert not handled
    assert stored(manager) == []


async def test_a_cancelled_request_leaves_nothing(manager: AsyncStorageManager) -> None:
    reached = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield TITLE + part("extra", b"stored before") + part("file", b"x" * 300_000).removesuffix(b"\r\n")
        yield b"x"
        reached.set()
        await asyncio.Event().wait()

    talk = Conversation(make_app(manager, [create]), chunks=chunks, headers=[FORM_TYPE])
    task = asyncio.create_task(talk.run())
    await reached.wait()
    assert len(stored(manager)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(manager) == []


async def test_a_handler_that_is_cancelled_leaves_nothing(manager: AsyncStorageManager) -> None:
    reached = asyncio.Event()

    @post("/")
    async def handle(data: MultipartBody[NewDocument]) -> None:
        reached.set()
        await asyncio.Event().wait()

    talk = Conversation(make_app(manager, [handle]), chunks=[TITLE + part("file", b"x") + END], headers=[FORM_TYPE])
    task = asyncio.create_task(talk.run())
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(manager) == []


@pytest.mark.parametrize("error", [RuntimeError("mine"), NotAuthorizedException(), BackendError("no")])
def test_a_handler_that_fails_leaves_nothing(manager: AsyncStorageManager, error: Exception) -> None:
    @post("/")
    async def handle(data: MultipartBody[NewDocument]) -> None:
        raise error

    with client_of(manager, handle) as client:
        response = client.post("/", data={"title": "xx"}, files={"file": b"x"})
    assert response.status_code in (401, 500)
    assert stored(manager) == []


def test_parameters_that_are_wrong_leave_nothing(manager: AsyncStorageManager) -> None:
    @post("/{number:str}")
    async def handle(number: FromPath[int], data: MultipartBody[NewDocument]) -> None: ...

    with client_of(manager, handle) as client:
        response = client.post("/x", data={"title": "xx"}, files={"file": b"x"})
    assert response.status_code == 400
    assert stored(manager) == []


def test_what_the_handler_keeps_stays_and_the_rest_goes(manager: AsyncStorageManager) -> None:
    with client_of(manager) as client:
        files = {"file": b"kept", "extra": b"not kept"}
        assert client.post("/kept", data={"title": "xx"}, files=files).status_code == 201
    [location] = stored(manager)
    assert manager.sync.get_backend("main").get(location) == b"kept"


def test_a_background_task_may_still_keep_the_file(manager: AsyncStorageManager) -> None:
    @post("/")
    async def handle(data: MultipartBody[NewDocument]) -> Response[None]:
        async def later() -> None:
            await data.file.keep()

        return Response(None, background=BackgroundTask(later))

    with client_of(manager, handle) as client:
        client.post("/", data={"title": "xx"}, files={"file": b"x"})
    assert len(stored(manager)) == 1


@pytest.mark.parametrize(("error", "status"), [(BackendUnavailableError("down"), 503), (BackendError("full"), 500)])
def test_a_backend_that_fails_is_told_without_details(error: Exception, status: int) -> None:
    class Failing(MemoryStorageBackend):
        def open_writer(self, *args: Any, **options: Any) -> Any:
            raise error

    with client_of(make_manager(Failing())) as client:
        response = client.post("/", data={"title": "xx"}, files={"file": b"x"})
    assert response.status_code == status
    assert str(error) not in response.text


def test_a_backend_that_fails_at_letting_go_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Clinging(MemoryStorageBackend):
        def delete(self, location: str) -> None:
            raise BackendUnavailableError("down")

    manager = make_manager(Clinging())
    with client_of(manager) as client, caplog.at_level(logging.WARNING, "granite"):
        files = {"file": b"x", "extra": b"y"}
        assert client.post("/", data={"title": "xx"}, files=files).status_code == 201
    assert len([each for each in caplog.records if "could not be let go" in each.getMessage()]) == 2


# ----------------------------------------------------------------------------------------------- limits of the body
class Reader(ASGIMiddleware):
    """Another middleware that wraps what it gets."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        await next_app(scope, receive, send)


def test_litestars_own_limit_is_lifted_by_what_the_policies_allow(manager: AsyncStorageManager) -> None:
    @post("/")
    async def handle(data: MultipartBody[Unlimited]) -> int:
        return data.file.size

    with client_of(manager, handle) as client:
        assert client.post("/", files={"file": b"x" * 11_000_000}).text == "11000000"


@pytest.mark.parametrize("layer", ["app", "router", "controller", "handler"])
async def test_a_limit_that_the_user_set_holds(manager: AsyncStorageManager, layer: str) -> None:
    limit: dict[str, Any] = {"request_max_body_size": 1000}

    @post("/", **(limit if layer == "handler" else {}))
    async def handle(data: MultipartBody[Unlimited]) -> None: ...

    handler: Any = handle
    if layer == "router":
        handler = Router("/", route_handlers=[handle], **limit)
    if layer == "controller":

        class Documents(Controller):
            path = "/"
            request_max_body_size = 1000

            @post("/")
            async def handle(self, data: MultipartBody[Unlimited]) -> None: ...

        handler = Documents
    app = make_app(manager, [handler], **(limit if layer == "app" else {}))
    body = part("file", b"x" * 2000) + END
    talk = await Conversation(app, chunks=[body[:900], body[900:]], headers=[FORM_TYPE]).run()
    assert (talk.status, talk.receives) == (413, 2)
    assert b'"limit":1000' in talk.body
    announced = [FORM_TYPE, ("Content-Length", str(len(body)))]
    talk = await Conversation(app, chunks=[body], headers=announced).run()
    assert (talk.status, talk.receives) == (413, 0)


# ---------------------------------------------------------------------------------------------- what stands beside it
def test_other_readers_of_the_form_find_its_texts(manager: AsyncStorageManager) -> None:
    async def form_of(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return dict(await request.form())

    @post("/", dependencies={"form": Provide(form_of)})
    async def handle(data: MultipartBody[NewDocument], form: NamedDependency[dict[str, Any]]) -> dict[str, Any]:
        return form

    with client_of(manager, handle) as client:
        response = client.post("/", data={"title": "Ünvoice", "other": "x"}, files={"file": b"x"})
    assert response.json() == {"title": "Ünvoice", "other": "x"}


def test_csrf_protection_finds_its_token_in_the_form(manager: AsyncStorageManager) -> None:
    @get("/")
    async def page() -> None: ...

    app = [create, page]
    with client_of(manager, *app, csrf_config=CSRFConfig(secret="secret")) as client:
        token = client.get("/").cookies["csrftoken"]
        good = client.post("/", data={"title": "xx", "_csrf_token": token}, files={"file": b"x"})
        bad = client.post("/", data={"title": "xx"}, files={"file": b"x"})
    assert (good.status_code, bad.status_code) == (201, 403)
    assert stored(manager) == []


def test_middleware_that_logs_bodies_logs_texts_alone(
    manager: AsyncStorageManager, caplog: pytest.LogCaptureFixture
) -> None:
    middleware = [LoggingMiddlewareConfig(request_log_fields=("body",)).middleware, Reader()]
    config = LoggingConfig(configure_root_logger=False)
    with client_of(manager, middleware=middleware, logging_config=config) as client:
        response = client.post("/", data={"title": "xx"}, files={"file": b"secret bytes"})
    assert response.status_code == 201
    assert response.json()["file"]["size"] == 12


def test_before_request_is_the_applications_own(manager: AsyncStorageManager) -> None:
    seen = []

    async def before(request: Request[Any, Any, Any]) -> None:
        seen.append(request.url.path)

    with client_of(manager, before_request=before) as client:
        assert client.post("/", data={"title": "xx"}, files={"file": b"x"}).status_code == 201
    assert seen == ["/"]


async def test_a_request_that_is_answered_before_its_handler_is_not_read(manager: AsyncStorageManager) -> None:
    async def before(request: Request[Any, Any, Any]) -> dict[str, str]:
        return {"instead": "of it"}

    app = make_app(manager, [create], before_request=before)
    talk = await Conversation(app, chunks=[TITLE], headers=[FORM_TYPE]).run()
    assert (talk.status, talk.receives) == (201, 0)


def test_dependencies_open_after_the_body_was_read(manager: AsyncStorageManager) -> None:
    order: list[str] = []

    async def session(state: State) -> AsyncIterator[str]:
        order.append(f"opened with {len(stored(manager))} stored")
        yield "session"
        order.append("closed")

    @post("/", dependencies={"session": Provide(session)})
    async def handle(data: MultipartBody[NewDocument], session: NamedDependency[str]) -> None:
        order.append("handled")

    with client_of(manager, handle) as client:
        assert client.post("/", data={"title": "xx"}, files={"file": b"x"}).status_code == 201
    assert order == ["opened with 1 stored", "handled", "closed"]


def test_other_handlers_are_left_alone(manager: AsyncStorageManager) -> None:
    @post("/json")
    async def plain(data: JSONBody[dict[str, int]]) -> dict[str, int]:
        return data

    with client_of(manager, plain, create) as client:
        assert client.post("/json", json={"a": 1}).json() == {"a": 1}


def test_handlers_on_several_paths_and_added_later_work(manager: AsyncStorageManager) -> None:
    @post(["/a", "/b"])
    async def handle(data: MultipartBody[Unlimited]) -> int:
        return data.file.size

    app = make_app(manager, [handle])
    app.register(create)
    with TestClient(app) as client:
        for path in ("/a", "/b"):
            assert client.post(path, files={"file": b"x" * 11_000_000}).text == "11000000"
        assert client.post("/", data={"title": "xx"}, files={"file": b"x"}).status_code == 201


def test_types_that_only_the_application_knows_are_decoded(manager: AsyncStorageManager) -> None:
    class Point:
        def __init__(self, text: str) -> None:
            self.x, self.y = map(int, text.split(","))

    class Marked(UploadDTO):
        at: Point
        file: Annotated[StagedFile, Upload("documents")]

    @post("/")
    async def handle(data: MultipartBody[Marked]) -> int:
        return data.at.x + data.at.y

    decoders = [(lambda kind: kind is Point, lambda kind, value: kind(value))]
    names = {"Marked": Marked, "Point": Point}
    with client_of(manager, handle, type_decoders=decoders, signature_namespace=names) as client:
        assert client.post("/", data={"at": "1,2"}, files={"file": b"x"}).text == "3"
        assert client.post("/", data={"at": "1,y"}, files={"file": b"x"}).status_code == 422


# ---------------------------------------------------------------------------------------------------------- start-up
def test_what_cannot_work_is_refused_at_start_up(manager: AsyncStorageManager) -> None:
    @dataclass
    class Other:
        a: int

    class NoPolicy(UploadDTO):
        file: Annotated[StagedFile, Upload("no such policy")]

    async def takes_upload(data: MultipartBody[NewDocument]) -> int:
        return 1

    @post("/1")
    async def unknown_policy(data: MultipartBody[NoPolicy]) -> None: ...

    @post("/2")
    async def as_json(data: JSONBody[NewDocument]) -> None: ...

    @post("/3")
    async def as_list(data: MultipartBody[list[NewDocument]]) -> None: ...

    @post("/4")
    async def as_union(data: MultipartBody[NewDocument | None]) -> None: ...

    @post("/5", dto=DataclassDTO[Other])
    async def hidden(data: MultipartBody[NewDocument]) -> None: ...

    @post("/6", dependencies={"number": Provide(takes_upload)})
    async def in_dependency(number: NamedDependency[int]) -> None: ...

    for handler, message in [
        (unknown_policy, r"NoPolicy\.file.*no such policy"),
        (as_json, r"MultipartBody\[NewDocument\]"),
        (as_list, "not a union or a list"),
        (as_union, "not a union or a list"),
        (hidden, "hides its upload|narrowed"),
        (in_dependency, "the dependency 'number'"),
    ]:
        with pytest.raises(Exception, match=message) as caught:
            make_app(manager, [handler], signature_namespace={"NoPolicy": NoPolicy})
        assert handler is hidden or isinstance(caught.value, ConfigurationError)


# ----------------------------------------------------------------------------------------------------- documentation
def test_the_form_is_documented(manager: AsyncStorageManager) -> None:
    @patch("/bare")
    async def bare(data: NewDocument) -> StagedFile:
        return data.file

    with client_of(manager, create, bare) as client:
        document = client.get("/schema/openapi.json").json()
    paths, components = document["paths"], document["components"]["schemas"]
    content = paths["/"]["post"]["requestBody"]["content"]
    assert content == {
        "multipart/form-data": {
            "schema": {"$ref": "#/components/schemas/NewDocument"},
            "encoding": {name: {"contentType": "*/*"} for name in ("file", "extra", "pages")},
        }
    }
    assert content == paths["/bare"]["patch"]["requestBody"]["content"]
    schema = components["NewDocument"]
    assert schema["description"].startswith("A document to be filed.\n\nTexts take at most 262144 bytes each")
    assert schema["required"] == ["title", "file"]
    properties = schema["properties"]
    assert properties["title"] == {"type": "string", "minLength": 2}
    assert properties["file"] == {
        "type": "string",
        "format": "binary",
        "contentMediaType": "application/octet-stream",
        "maxLength": MB,
        "description": "The scan. At most 1048576 bytes",
    }
    assert properties["pages"]["type"] == "array"
    assert (properties["pages"]["maxItems"], properties["pages"]["items"]["format"]) == (2, "binary")
    assert list(paths["/"]["post"]["responses"]) == ["201", "400", "409", "413", "415", "422", "500", "503", "507"]
    shown = paths["/bare"]["patch"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert shown == {"$ref": "#/components/schemas/FileView"}
    assert list(components["FileView"]["properties"]) == ["filename", "size", "content_type", "checksum", "id"]


async def test_whoever_reads_again_after_a_failure_learns_the_same(manager: AsyncStorageManager) -> None:
    """Half a body must never pass for a whole one."""
    errors: list[type[Exception]] = []

    class Twice(ASGIMiddleware):
        async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
            for _ in range(2):
                try:
                    await receive()
                except ContentTooLargeError as error:
                    errors.append(type(error))
            await next_app(scope, receive, send)

    app = make_app(manager, [create], middleware=[Twice()])
    body = TITLE + part("file", b"x" * (MB + 1)) + END
    talk = await Conversation(app, chunks=[body], headers=[FORM_TYPE]).run()
    assert (talk.status, len(errors)) == (413, 2)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(
    ("operation", "late"),
    [("open_writer", False), ("write", False), ("write", True), ("commit", False), ("commit", True)],
)
def test_a_fault_at_any_step_leaves_nothing(operation: Any, at: int, late: bool) -> None:
    backend = FaultyBackend(MemoryStorageBackend())
    backend.fail(operation, at=at, late=late)
    with client_of(make_manager(backend)) as client:
        files = {"file": b"x" * 600_000, "extra": b"y" * 600_000}
        response = client.post("/", data={"title": "xx"}, files=files)
    assert response.status_code == (503 if backend.calls[operation] >= at else 201)
    assert backend.open_writers == 0
    lost = late and operation == "commit" and response.status_code == 503
    # A commit that happened although its answer was lost is nobody's: that one the reconcile finds.
    assert len(list(backend.iter_locations())) <= lost


def test_the_stand_in_is_a_form_that_litestar_can_read() -> None:
    assert encode_text_parts(BOUNDARY, []) == END
