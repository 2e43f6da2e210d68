"""What the API's description says happens, and nothing else: every status of every kind of route, over a socket."""

from __future__ import annotations

import base64
import copy
import enum
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, MediaType, post, put, route
from litestar.connection import ASGIConnection
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath, FromQuery
from litestar.testing import TestClient
from openapi_spec_validator import validate
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    Announcement,
    BackendError,
    MemoryStorageBackend,
    StagedFile,
    StorageFullError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UploadDeniedError,
)
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_core.testing import FaultyBackend, Operation
from granite_litestar import (
    FileDownload,
    FileRoute,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    Upload,
    UploadDTO,
    UploadRoute,
    item_id,
)
from tests.support.described import Described

from .downloads_support import client_of

PDF = b"%PDF-1.7\n" + b"x" * 900
MAX = 1000


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "described_letter"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str] = mapped_column(default="")
    file: Mapped[StoredObjectRef | None] = file_field("letters")
    pages: Mapped[list[StoredObjectRef]] = files_field("letters")


class NewLetter(UploadDTO, forbid_unknown_fields=True):
    """A letter as it comes in."""

    title: Annotated[str, msgspec.Meta(min_length=2, max_length=40)]
    file: Annotated[StagedFile, Upload(Letter.file)]
    pages: Annotated[list[StagedFile], Upload(Letter.pages, max_count=2)] = []
    copies: Annotated[int, msgspec.Meta(ge=1)] | None = None


TOKEN = SecurityScheme("apiKey", name="user", security_scheme_in="header")


class Clock:
    """Runs ahead by what a test adds: as if a client had been that slow."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def wait(self, hours: float) -> None:
        self.ahead += timedelta(hours=hours)


@dataclass
class World:
    """A served application, its description, and what a case needs to know of its rows."""

    client: httpx.Client
    described: Described
    backend: FaultyBackend
    ids: dict[str, UUID]
    refs: dict[str, StoredObjectRef]

    def ask(self, method: str, path: str, user: str | None = "ann", **options: Any) -> httpx.Response:
        headers = {**({"user": user} if user else {}), **options.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **options)

    def file(self, name: str = "full") -> str:
        return f"/letters/{self.ids[name]}/file"

    def pages(self, name: str = "full") -> str:
        return f"/letters/{self.ids[name]}/pages"

    def page(self, number: int = 0) -> str:
        return f"{self.pages()}/{item_id(self.refs['page'])}" if number == 0 else f"{self.pages()}/none"

    @property
    def etag(self) -> str:
        return f'"{self.refs["full"].checksum.removeprefix("sha256:")}"'

    def broken(self, operation: Operation, error: Exception | None = None) -> World:
        self.backend.fail(operation, error)
        return self


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = Clock()
    backend = FaultyBackend(MemoryStorageBackend())
    policies = [StoragePolicy("letters", "main", max_size=MAX, content_types=["application/pdf", "text/*"])]
    manager = StorageManager({"main": backend}, policies, grace=timedelta(hours=2), now=clock)
    refs = {
        "full": manager.put_bytes("letters", content=PDF, original_filename="letter.pdf"),
        "page": manager.put_bytes("letters", content=b"page " * 100, original_filename="page.txt"),
        "missing": manager.put_bytes("letters", content=b"gone", original_filename="gone.txt"),
        "short": manager.put_bytes("letters", content=b"short", original_filename="short.txt"),
    }
    backend.inner.delete(refs["missing"].location)
    refs["short"] = StoredObjectRef.from_dict({**refs["short"].to_dict(), "size": 6})
    ids = {name: uuid4() for name in ("full", "missing", "short", "empty")}
    engine = sa.create_engine(f"sqlite:///{tmp_path}/letters.db")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for name, letter_id in ids.items():
            pages = [refs["page"]] if name == "full" else []
            connection.execute(sa.insert(Letter).values(id=letter_id, file=refs.get(name), pages=pages))
    engine.dispose()

    app = make_app(tmp_path, manager, clock, refs)
    with client_of(app) as client:
        described = Described(client.get("/schema/openapi.json").json())
        yield World(client, described, backend, ids, refs)


def only_ann(letter: Letter, connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    if "user" not in connection.headers:
        raise NotAuthorizedException
    return connection.headers["user"] == "ann"


def make_app(folder: Path, manager: StorageManager, clock: Clock, refs: dict[str, StoredObjectRef]) -> Litestar:
    def slowly(letter: Letter, connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
        # Asked before the body is read and again after.
        clock.wait(float(connection.headers.get("hours", "0")))
        return only_ann(letter, connection)

    @post("/letters")
    async def create(
        data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession], hours: FromQuery[int] = 0
    ) -> UUID:
        clock.wait(hours)
        letter = Letter(title=data.title, file=data.file, pages=data.pages)
        db_session.add(letter)
        await db_session.commit()
        return letter.id

    @post("/titles", media_type=MediaType.TEXT)
    async def title(
        data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession], hours: FromQuery[int] = 0
    ) -> str:
        await create.fn(data, db_session, hours)
        return data.title

    @put("/letters/{letter_id:uuid}/pages")
    async def append(
        letter_id: FromPath[UUID],
        data: Annotated[StagedFile, RawUpload(Letter.pages)],
        db_session: NamedDependency[AsyncSession],
        hours: FromQuery[int] = 0,
    ) -> StagedFile:
        clock.wait(hours)
        letter = await db_session.get_one(Letter, letter_id)
        letter.pages.append(data)
        await db_session.commit()
        return data

    @route(
        "/copies/{name:str}",
        http_method=["GET", "HEAD", "POST"],
        response_headers=[ResponseHeader(name="X-Shelf", value="7")],
    )
    async def shelf(name: FromPath[str], number: FromQuery[int] = 1) -> FileDownload:
        return FileDownload(refs[name])

    alchemy = SQLAlchemyAsyncConfig(
        connection_string=f"sqlite+aiosqlite:///{folder}/letters.db",
        session_config=AsyncSessionConfig(expire_on_commit=False),
        metadata=Base.metadata,
    )
    refuses: Any = {"raises": [NotAuthorizedException], "security": [{"token": []}]}
    config = GraniteConfig(
        manager,
        downloads=[
            FileRoute("/letters/{id:uuid}/file", Letter.file, authorize=only_ann, **refuses),
            FileRoute("/letters/{id:uuid}/pages/{item:str}", Letter.pages, public=True),
        ],
        uploads=[UploadRoute("/letters/{id:uuid}/file", Letter.file, authorize=slowly, **refuses)],
        gc=None,
    )
    return Litestar(
        [create, title, append, shelf],
        plugins=[SQLAlchemyPlugin(alchemy), GranitePlugin(config)],
        openapi_config=OpenAPIConfig(
            "Letters",
            "1",
            components=Components(
                security_schemes={"token": SecurityScheme("apiKey", name="user", security_scheme_in="header")}
            ),
        ),
        logging_config=None,
    )


# ------------------------------------------------------------------------------------------------------------- cases
Ask = Callable[[World], httpx.Response]
"""One request; the number of the status that it is answered with stands beside it."""

DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(b'other').digest()).decode()}:"


def conditional(method: str, path: Callable[[World], str]) -> list[tuple[int, Ask]]:
    """What GET and HEAD answer alike."""

    def with_header(name: str, value: str) -> Ask:
        return lambda world: world.ask(method, path(world), headers={name: value})

    return [
        (200, lambda world: world.ask(method, path(world))),
        (304, with_header("If-None-Match", "*")),
        (412, with_header("If-Match", '"other"')),
    ]


def ranges(path: Callable[[World], str]) -> list[tuple[int, Ask]]:
    """What GET alone answers."""

    def with_range(value: str) -> Ask:
        return lambda world: world.ask("GET", path(world), headers={"Range": value})

    return [
        (206, with_range("bytes=1-4")),
        (206, with_range("bytes=0-1,5-6")),
        (416, with_range("bytes=5000-")),
        (500, lambda world: world.broken("open_reader", BackendError("a secret")).ask("GET", path(world))),
        (503, lambda world: world.broken("open_reader").ask("GET", path(world))),
    ]


def of_rows(method: str) -> list[tuple[int, Ask]]:
    return [
        (401, lambda world: world.ask(method, world.file(), user=None)),
        (403, lambda world: world.ask(method, world.file(), user="bob")),
        (404, lambda world: world.ask(method, world.file("empty"))),
        (404, lambda world: world.ask(method, f"/letters/{uuid4()}/file")),
        (404, lambda world: world.ask(method, "/letters/no-uuid/file")),
    ]


def form(path: str, success: int) -> list[tuple[int, Ask]]:
    pdf = ("letter.pdf", PDF, "application/pdf")

    def send(*, title: str = "Invoice", file: Any = pdf, query: str = "", **options: Any) -> Ask:
        files = [("file", file), *options.pop("files", [])]
        data = {"title": title, **options.pop("data", {})}
        return lambda world: world.ask("POST", path + query, data=data, files=files, **options)

    def failing(operation: Operation, error: Exception | None = None) -> Ask:
        return lambda world: send()(world.broken(operation, error))

    return [
        (success, send()),
        (success, send(files=[("pages", ("a.txt", b"a")), ("pages", ("b.txt", b"b"))], data={"copies": "2"})),
        (400, send(query="?hours=soon")),
        (400, lambda world: world.ask("POST", path, content=b"no form", headers=_type("multipart/form-data"))),
        (409, send(query="?hours=1")),
        (413, send(file=("letter.pdf", PDF + b"x" * MAX))),
        (413, send(title="x" * 300_000)),
        (415, send(file=("picture.png", b"\x89PNG\r\n\x1a\n" + b"x" * 20))),
        (415, lambda world: world.ask("POST", path, json={"title": "x"})),
        (415, send(headers={"Content-Encoding": "gzip"})),
        (422, lambda world: world.ask("POST", path, files={"title": (None, "Invoice")})),
        (422, send(title="x", data={"copies": "0", "more": "1"})),
        (422, send(files=[("pages", ("a.txt", b"a"))] * 3)),
        (500, failing("open_writer", BackendError("a secret"))),
        (503, failing("commit")),
        (507, failing("write", StorageFullError("a secret"))),
    ]


def raw(path: Callable[[World], str]) -> list[tuple[int, Ask]]:
    """What every raw body may be answered with."""

    def send(content: bytes = PDF, **headers: str) -> Ask:
        return lambda world: world.ask("PUT", path(world), content=content, headers=headers)

    def failing(operation: Operation, error: Exception | None = None) -> Ask:
        return lambda world: send()(world.broken(operation, error))

    return [
        (200, send()),
        (200, send(b"text", **_type("text/plain"))),
        (400, send(**{"Content-Range": "bytes 0-1/2"})),
        (400, send(**{"Repr-Digest": "sha-256=:short:"})),
        (413, send(PDF + b"x" * MAX)),
        (415, send(b"\x89PNG\r\n\x1a\n" + b"x" * 20)),
        (415, send(**_type("multipart/form-data; boundary=x"))),
        (415, send(**{"Content-Encoding": "gzip"})),
        (422, send(**{"Repr-Digest": DIGEST})),
        (500, failing("open_writer", BackendError("a secret"))),
        (503, failing("commit")),
        (507, failing("write", StorageFullError("a secret"))),
    ]


def _type(value: str) -> dict[str, str]:
    return {"Content-Type": value}


OPERATIONS: dict[tuple[str, str], list[tuple[int, Ask]]] = {
    ("GET", "/letters/{id}/file"): [
        *conditional("GET", World.file),
        *ranges(World.file),
        *of_rows("GET"),
        (404, lambda world: world.ask("GET", world.file("missing"))),
        (500, lambda world: world.ask("GET", world.file("short"))),
    ],
    ("HEAD", "/letters/{id}/file"): [
        *conditional("HEAD", World.file),
        *of_rows("HEAD"),
        (200, lambda world: world.ask("HEAD", world.file(), headers={"Range": "bytes=0-1"})),
        (200, lambda world: world.ask("HEAD", world.file("missing"))),
    ],
    ("GET", "/letters/{id}/pages/{item}"): [
        *conditional("GET", World.page),
        *ranges(World.page),
        (404, lambda world: world.ask("GET", world.page(1))),
    ],
    ("HEAD", "/letters/{id}/pages/{item}"): [
        *conditional("HEAD", World.page),
        (404, lambda world: world.ask("HEAD", world.page(1))),
    ],
    ("GET", "/copies/{name}"): [
        *conditional("GET", lambda world: "/copies/full"),
        *ranges(lambda world: "/copies/full"),
        (400, lambda world: world.ask("GET", "/copies/full?number=many")),
        (404, lambda world: world.ask("GET", "/copies/missing")),
    ],
    ("HEAD", "/copies/{name}"): [
        *conditional("HEAD", lambda world: "/copies/full"),
        (400, lambda world: world.ask("HEAD", "/copies/full?number=many")),
    ],
    ("POST", "/copies/{name}"): [
        (200, lambda world: world.ask("POST", "/copies/full", headers={"If-None-Match": "*", "Range": "bytes=0-1"})),
        (400, lambda world: world.ask("POST", "/copies/full?number=many")),
        (404, lambda world: world.ask("POST", "/copies/missing")),
        (500, lambda world: world.ask("POST", "/copies/short")),
        (503, lambda world: world.broken("open_reader").ask("POST", "/copies/full")),
    ],
    ("POST", "/letters"): form("/letters", 201),
    ("POST", "/titles"): form("/titles", 201),
    ("PUT", "/letters/{letter_id}/pages"): [
        *raw(World.pages),
        (400, lambda world: world.ask("PUT", f"{world.pages()}?hours=soon", content=PDF)),
        (409, lambda world: world.ask("PUT", f"{world.pages()}?hours=1", content=PDF)),
    ],
    ("PUT", "/letters/{id}/file"): [
        *raw(World.file),
        *[case for case in of_rows("PUT") if case[0] != 404],
        (201, lambda world: world.ask("PUT", world.file("empty"), content=PDF, headers={"If-None-Match": "*"})),
        (200, lambda world: world.ask("PUT", world.file("short"), content=PDF, headers={"If-Match": "*"})),
        (404, lambda world: world.ask("PUT", f"/letters/{uuid4()}/file", content=PDF)),
        (409, lambda world: world.ask("PUT", world.file(), content=PDF, headers={"hours": "1"})),
        (412, lambda world: world.ask("PUT", world.file(), content=PDF, headers={"If-None-Match": "*"})),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("method", "template"), OPERATIONS)
def test_what_is_described_happens_and_nothing_else(world: World, method: str, template: str) -> None:
    for status, ask in OPERATIONS[method, template]:
        response = ask(world)
        assert response.status_code == status, f"{method} {template}: {response.status_code}: {response.text[:500]}"
        assert "a secret" not in response.text
        world.described.check(template, response)
        world.backend.heal()
    seen = {status for *_, status in world.described.seen}
    assert seen == world.described.statuses(method, template)


def test_every_operation_is_in_the_table(world: World) -> None:
    paths = world.described.document["paths"]
    described = {(method.upper(), template) for template, item in paths.items() for method in item}
    assert described == set(OPERATIONS)


def test_the_document_is_valid(world: World) -> None:
    validate(world.described.document)


def test_what_a_description_promises_is_missed_where_it_does_not_come(world: World) -> None:
    template = "/letters/{id}/file"
    answer = world.ask("GET", world.file())
    described = world.described.operation("GET", template)["responses"]["200"]
    headers, content = described["headers"], described["content"]
    for wrong, complaint in [
        ({"headers": {**headers, "X-Promised": {"required": True, "schema": {}}}}, "x-promised is missing"),
        ({"headers": {**headers, "ETag": {"required": True, "schema": {"pattern": "^W/"}}}}, "does not match"),
        ({"headers": {name: each for name, each in headers.items() if name != "ETag"}}, "etag is not described"),
        ({"content": {"image/png": content["*/*"]}}, "application/pdf is not among"),
        ({"content": {"*/*": {"schema": {"$ref": "#/components/schemas/FileView"}}}}, "Expecting value|is not of type"),
        ({"content": None}, "a body is not described"),
    ]:
        document = copy.deepcopy(world.described.document)
        document["paths"][template]["get"]["responses"]["200"] |= wrong
        with pytest.raises((AssertionError, ValueError), match=complaint):
            Described(document).check(template, answer)


# ------------------------------------------------------------------------------------------------------------ requests
def test_the_limits_that_are_described_are_the_limits(world: World) -> None:
    properties = world.described.body("POST", "/letters")["properties"]
    file, pages, title = properties["file"], properties["pages"], properties["title"]

    def send(letters: str, *sizes: int, page_size: int = 1) -> httpx.Response:
        files = [("file", ("a.txt", b"x" * sizes[0])), *[("pages", ("p.txt", b"x" * page_size))] * (len(sizes) - 1)]
        return world.ask("POST", "/letters", data={"title": letters}, files=files)

    fine, most = "x" * title["maxLength"], file["maxLength"]
    assert send(fine, most, *[1] * pages["maxItems"], page_size=pages["items"]["maxLength"]).status_code == 201
    too_much = send(fine, most + 1)
    assert (too_much.status_code, too_much.json()["extra"]["limit"]) == (413, most)
    for wrong in (send("x" * (title["minLength"] - 1), 1), send(fine + "x", 1)):
        assert [each["field"] for each in wrong.json()["extra"]] == ["title"]
    [too_many] = send(fine, 1, *[1] * (pages["maxItems"] + 1)).json()["extra"]
    assert (too_many["code"], too_many["limit"]) == ("too_many", pages["maxItems"])

    body = world.described.body("PUT", "/letters/{id}/file")
    for size, status in [(body["maxLength"], 200), (body["maxLength"] + 1, 413)]:
        assert world.ask("PUT", world.file(), content=b"x" * size).status_code == status


def test_what_headers_are_described_with_can_be_sent(world: World) -> None:
    for path in world.described.document["paths"].values():
        for operation in path.values():
            for each in operation.get("parameters", ()):
                assert each["in"] != "header" or str(each.get("example", "")).isascii(), each


def test_the_types_that_are_described_are_accepted(world: World) -> None:
    content = world.described.operation("POST", "/letters")["requestBody"]["content"]["multipart/form-data"]
    assert content["encoding"] == {name: {"contentType": "application/pdf, text/*"} for name in ("file", "pages")}
    samples = {"application/octet-stream": PDF, "application/pdf": PDF, "text/*": b"text"}
    bodies = world.described.operation("PUT", "/letters/{id}/file")["requestBody"]["content"]
    assert list(bodies) == list(samples)
    for media_type, sample in samples.items():
        headers = _type(media_type.replace("*", "plain"))
        assert world.ask("PUT", world.file(), content=sample, headers=headers).status_code == 200


def test_fields_that_are_required_are_the_ones_that_are_missed(world: World) -> None:
    schema = world.described.body("POST", "/letters")
    nothing = world.ask("POST", "/letters", files={"more": ("", b"")})
    errors = nothing.json()["extra"]
    assert {each["field"] for each in errors if each["code"] == "required"} == set(schema["required"])
    assert schema["additionalProperties"] is False
    assert {each["field"] for each in errors if each["code"] == "unknown"} == {"more"}


class Shade(enum.Enum):
    LIGHT = "light"
    DARK = "dark"


class Box(msgspec.Struct):
    width: int


class Parcel(UploadDTO):
    shade: Shade
    kind: Literal["letter", "parcel"]
    boxes: list[Box]
    names: Annotated[list[Annotated[str, msgspec.Meta(pattern="^[a-z]+$")]], msgspec.Meta(max_length=3)]
    photos: Annotated[list[StagedFile], msgspec.Meta(min_length=2, max_length=4), Upload("photos", max_count=9)]
    cover: Annotated[StagedFile, Upload("anything")]
    scan: Annotated[StagedFile, Upload("anything", description="The scan.")] = msgspec.field(name="theScan")
    weight: Annotated[float, msgspec.Meta(gt=0, description="In kilograms")] | None = None
    fragile: bool = False
    number: Annotated[int | str, msgspec.Meta(title="Number")] = 7
    day: date | None = None


def test_every_kind_of_field_is_described_as_it_is_checked() -> None:
    policies = [StoragePolicy("photos", "main", content_types=["image/jpeg"]), StoragePolicy("anything", "main")]
    manager = StorageManager({"main": MemoryStorageBackend()}, policies)

    @post("/")
    async def send(data: MultipartBody[Parcel]) -> None: ...

    app = Litestar([send], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])
    document = app.openapi_schema.to_schema()
    validate(document)
    described = Described(document)
    schema = described.body("POST", "/")
    photo = {
        "type": "string",
        "format": "binary",
        "contentMediaType": "image/jpeg",
        "description": "Of type image/jpeg",
    }
    anything = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    assert schema["required"] == ["shade", "kind", "boxes", "names", "photos", "cover", "theScan"]
    assert schema["properties"] == {
        "shade": {"$ref": "#/components/schemas/Shade"},
        "kind": {"type": "string", "enum": ["letter", "parcel"]},
        "boxes": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Box"}},
        "names": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string", "pattern": "^[a-z]+$"}},
        "photos": {"type": "array", "minItems": 2, "maxItems": 4, "items": photo},
        "cover": anything,
        "theScan": {**anything, "description": "The scan."},
        "weight": {"type": "number", "exclusiveMinimum": 0, "description": "In kilograms"},
        "fragile": {"type": "boolean", "default": False},
        "number": {"anyOf": [{"type": "integer"}, {"type": "string"}], "title": "Number", "default": 7},
        "day": {"type": "string", "format": "date"},
    }
    encoding = described.operation("POST", "/")["requestBody"]["content"]["multipart/form-data"]["encoding"]
    assert encoding == {
        "photos": {"contentType": "image/jpeg"},
        "cover": {"contentType": "*/*"},
        "theScan": {"contentType": "*/*"},
    }


def test_an_application_that_names_its_operations_itself_names_ours_too() -> None:
    def name(handler: HTTPRouteHandler, method: Any, _: Any) -> str:
        return f"{HttpMethod(method).value} {handler.name}"

    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("letters", "main")])
    config = GraniteConfig(
        manager,
        downloads=[FileRoute("/{id:uuid}", Letter.file, public=True, name="letter")],
        uploads=[UploadRoute("/{id:uuid}", Letter.file, public=True)],
        gc=None,
    )
    ids = []
    for openapi in (OpenAPIConfig("x", "1"), OpenAPIConfig("x", "1", operation_id_creator=name)):
        app = Litestar(plugins=[GranitePlugin(config)], openapi_config=openapi)
        operations = app.openapi_schema.to_schema()["paths"]["/{id}"].values()
        ids.append({each["operationId"] for each in operations})
    assert ids == [
        {"getLetter", "headLetter", "putLetterFile"},
        {"GET letter", "HEAD letter", "PUT Letter.file:upload"},
    ]


def test_who_is_refused_shows_as_far_as_the_route_tells() -> None:
    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None: ...

    told: Any = {"raises": [NotAuthorizedException]}
    refused = {
        ("403",): {"authorize": only_ann},
        (): {"authorize": only_ann, "denied": 404},
        ("401", "403"): {"authorize": only_ann, **told},
        ("401",): {"guards": [guard], **told},
    }
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("letters", "main")])
    for make in (FileRoute, UploadRoute):
        for statuses, access in [*refused.items(), (("403",), {"guards": [guard]}), ((), {"public": True})]:
            route = make("/{id:uuid}", Letter.file, **access)
            config = GraniteConfig(manager, gc=None, **{"downloads" if make is FileRoute else "uploads": [route]})
            [item] = Litestar(plugins=[GranitePlugin(config)]).openapi_schema.to_schema()["paths"].values()
            for operation in item.values():
                assert {"401", "403"} & operation["responses"].keys() == set(statuses)


class DeniedForm(UploadDTO):
    letter: Annotated[StagedFile, Upload("letters")]


def test_what_a_hook_denies_shows() -> None:
    def closed(announcement: Announcement) -> None:
        raise UploadDeniedError("closed for today")

    manager = StorageManager(
        {"main": MemoryStorageBackend()}, [StoragePolicy("letters", "main", before_upload=[closed])]
    )

    @post("/forms")
    async def take(data: MultipartBody[DeniedForm]) -> None: ...

    @put("/raw")
    async def replace(data: Annotated[StagedFile, RawUpload("letters")]) -> None: ...

    app = Litestar([take, replace], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])
    described = Described(app.openapi_schema.to_schema())
    with TestClient(app) as client:
        for method, path, sent in [
            ("POST", "/forms", {"files": {"letter": b"x"}}),
            ("PUT", "/raw", {"content": b"x"}),
        ]:
            answer = client.request(method, path, **sent)
            assert answer.status_code == 403
            assert answer.json()["extra"]["code"] == "upload_denied"
            described.check(path, answer)
            assert "`upload_denied`" in described.operation(method, path)["responses"]["403"]["description"]
