"""`FileRoute`: who may have which row's file, and what a database and an API description see of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from granite_core import (
    AsyncStorageManager,
    ConfigurationError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import GraniteConfig, GranitePlugin
from granite_litestar.downloads import FileRoute, build_handlers, item_id
from tests.support.postgres import Database

from .downloads_support import CountingBackend, client_of, content_of, raw_request, serving, wait_until

BIG = 16 * 1024 * 1024


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "download_owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Document(Base):
    __tablename__ = "download_document"
    __table_args__ = (sa.UniqueConstraint("folder", "number"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str] = mapped_column(default="")
    folder: Mapped[int] = mapped_column(default=0)
    number: Mapped[int] = mapped_column(sa.BigInteger)
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("download_owner.id"))
    owner: Mapped[Owner] = relationship(lazy="select")
    file: Mapped[StoredObjectRef | None] = file_field("docs")
    pages: Mapped[list[StoredObjectRef]] = files_field("docs")


class Report(Document):
    """Joined to its parent's table, and unique by a pair of columns, one of them only where it is set."""

    __tablename__ = "download_report"
    id: Mapped[UUID] = mapped_column(sa.ForeignKey("download_document.id"), primary_key=True)
    year: Mapped[int]
    issue: Mapped[int]
    draft: Mapped[int]
    __table_args__ = (  # type: ignore[assignment]
        sa.Index("download_report_issue", "year", "issue", unique=True),
        sa.Index("download_report_draft", "draft", unique=True, sqlite_where=sa.text("draft > 0")),
    )


@dataclass
class World:
    backend: CountingBackend
    manager: StorageManager
    config: Any
    refs: dict[str, StoredObjectRef]
    ids: dict[str, UUID]

    def app(self, *routes: FileRoute, **options: Any) -> Litestar:
        app = Litestar(build_handlers(routes), plugins=[SQLAlchemyPlugin(self.config)], logging_config=None, **options)
        app.state["granite_manager"] = AsyncStorageManager(self.manager)
        return app

    def checked_out(self) -> int:
        engine = self.config.get_engine()
        pool = getattr(engine, "sync_engine", engine).pool
        return int(pool.checkedout())


@pytest.fixture(params=["async", "sync"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    backend = CountingBackend()
    manager = StorageManager({"main": backend}, [StoragePolicy("docs", "main")])
    database = tmp_path / "db.sqlite3"
    config: Any
    if request.param == "async":
        config = SQLAlchemyAsyncConfig(
            connection_string=f"sqlite+aiosqlite:///{database}",
            session_config=AsyncSessionConfig(expire_on_commit=False),
            metadata=Base.metadata,
        )
    else:
        config = SQLAlchemySyncConfig(connection_string=f"sqlite:///{database}", metadata=Base.metadata)
    refs: dict[str, StoredObjectRef] = {
        "text": manager.put_bytes("docs", content=b"hello", original_filename="hello.txt"),
        "big": manager.put_bytes("docs", content=content_of(BIG), original_filename="big.bin"),
        "one": manager.put_bytes("docs", content=b"page one", original_filename="1.txt"),
        "two": manager.put_bytes("docs", content=b"page two", original_filename="2.txt"),
    }
    engine = sa.create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    rows = {"text": ["one", "two"], "big": [], "none": []}
    ids = {}
    with engine.begin() as connection:
        connection.execute(sa.insert(Owner), [{"id": 1, "name": "ann"}])
        for number, (slug, pages) in enumerate(rows.items()):
            ids[slug] = uuid.uuid4()
            values = {"id": ids[slug], "slug": slug, "number": number, "owner_id": 1, "title": f"title of {slug}"}
            files = {"file": refs.get(slug), "pages": [refs[page] for page in pages]}
            connection.execute(sa.insert(Document).values(values | files))
    engine.dispose()
    return World(backend, manager, config, refs, ids)


def ask(app: Litestar, path: str, **options: Any) -> httpx.Response:
    with client_of(app) as client:
        return client.get(path, **options)


# -- finding the row ---------------------------------------------------------------------------------------------------


def test_the_path_names_the_row(world: World) -> None:
    routes = [
        FileRoute("/documents/{id:uuid}/file", Document.file, public=True),
        FileRoute("/by-slug/{slug:str}", Document.file, public=True, name="by-slug"),
        FileRoute("/by-place/{folder:int}/{number:int}", Document.file, public=True, name="by-place"),
        FileRoute("/owned/{owner_id:int}/{slug:str}", Document.file, public=True, name="owned"),
    ]
    with client_of(world.app(*routes)) as client:
        for path in (f"/documents/{world.ids['text']}/file", "/by-slug/text", "/by-place/0/0", "/owned/1/text"):
            answer = client.get(path)
            assert (answer.status_code, answer.content) == (200, b"hello"), path
            assert client.head(path).headers["content-length"] == "5"
        for path in (
            f"/documents/{uuid.uuid4()}/file",
            "/documents/nonsense/file",
            f"/documents/{world.ids['none']}/file",
            "/by-slug/nothing",
            "/by-slug/%00",
            "/by-place/0/99999999999999999999999",
            "/owned/2/text",
        ):
            assert client.get(path).status_code == 404, path
        put = client.put("/by-slug/text")
        assert put.status_code == 405
        assert {"GET", "HEAD"} <= set(put.headers["allow"].split(", "))
    assert world.checked_out() == 0


def test_ranges_and_conditions_work_on_a_route(world: World) -> None:
    with client_of(world.app(FileRoute("/d/{slug:str}", Document.file, public=True))) as client:
        part = client.get("/d/text", headers={"Range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, b"ell")
        assert client.get("/d/text", headers={"If-None-Match": part.headers["etag"]}).status_code == 304


def test_items_of_a_list_have_stable_ids_that_are_no_keys(world: World) -> None:
    route = FileRoute("/d/{slug:str}/pages/{item:str}", Document.pages, public=True)
    with client_of(world.app(route)) as client:
        for name, content in (("one", b"page one"), ("two", b"page two")):
            assert client.get(f"/d/text/pages/{item_id(world.refs[name])}").content == content
        assert client.get(f"/d/text/pages/{item_id(world.refs['big'])}").status_code == 404
        assert client.get(f"/d/none/pages/{item_id(world.refs['one'])}").status_code == 404
        assert client.get("/d/text/pages/0").status_code == 404
    assert item_id(world.refs["one"]) not in world.refs["one"].location


def test_download_on_demand(world: World) -> None:
    with client_of(world.app(FileRoute("/d/{slug:str}", Document.file, public=True))) as client:
        for query, kind in (
            ("", "inline"),
            ("?download", "attachment"),
            ("?download=1", "attachment"),
            ("?download=0", "inline"),
        ):
            assert client.get(f"/d/text{query}").headers["content-disposition"] == f'{kind}; filename="hello.txt"'


def test_a_session_of_ones_own(world: World, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    route = FileRoute("/d/{slug:str}", Document.file, public=True, session=lambda connection: Session(engine))
    app = Litestar(build_handlers([route]), logging_config=None)
    app.state["granite_manager"] = AsyncStorageManager(world.manager)
    assert ask(app, "/d/text").content == b"hello"
    engine.dispose()


def test_without_a_session_the_error_says_what_to_add(world: World) -> None:
    app = Litestar(build_handlers([FileRoute("/d/{slug:str}", Document.file, public=True)]), debug=True)
    app.state["granite_manager"] = AsyncStorageManager(world.manager)
    answer = ask(app, "/d/text")
    assert answer.status_code == 500
    assert "SQLAlchemyPlugin" in answer.text


# -- who may -----------------------------------------------------------------------------------------------------------

Connection = ASGIConnection[Any, Any, Any, Any]


def asks_as_ann(connection: Connection, _: BaseRouteHandler) -> None:
    if connection.headers.get("user") is None:
        raise NotAuthorizedException


def owner_only(document: Document, connection: Connection) -> bool:
    return document.owner.name == connection.headers.get("user")


async def owner_only_async(document: Document, connection: Connection) -> bool:
    return document.owner.name == connection.headers.get("user")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_guards_come_first_then_authorize_with_the_row(world: World, kind: str) -> None:
    route = FileRoute(
        "/d/{slug:str}",
        Document.file,
        guards=[asks_as_ann],
        authorize=owner_only if kind == "sync" else owner_only_async,
        options=[selectinload(Document.owner)] if kind == "async" else [],
    )
    with client_of(world.app(route)) as client:
        assert client.get("/d/text").status_code == 401
        assert client.get("/d/text", headers={"user": "bob"}).status_code == 403
        assert client.get("/d/none", headers={"user": "bob"}).status_code == 403
        assert client.get("/d/none", headers={"user": "ann"}).status_code == 404
        mine = client.get("/d/text", headers={"user": "ann"})
    assert (mine.status_code, mine.content) == (200, b"hello")
    assert mine.headers["cache-control"] == "private, no-cache"
    assert world.checked_out() == 0


def test_a_denial_can_hide_that_there_is_a_file(world: World) -> None:
    route = FileRoute("/d/{slug:str}", Document.file, authorize=owner_only, denied=404)
    with client_of(world.app(route)) as client:
        denied, absent = client.get("/d/text"), client.get("/d/nothing")
    assert denied.status_code == absent.status_code == 404
    assert denied.json() == absent.json()


def test_a_denial_comes_before_the_conditions_of_the_request(world: World) -> None:
    route = FileRoute("/d/{slug:str}", Document.file, authorize=owner_only)
    with client_of(world.app(route)) as client:
        assert client.get("/d/text", headers={"If-None-Match": "*"}).status_code == 403
        assert client.head("/d/text").status_code == 403
    assert world.backend.opened == []


def test_an_error_in_authorize_denies(world: World) -> None:
    def broken(document: Document, connection: Connection) -> bool:
        raise RuntimeError("broken")

    answer = ask(world.app(FileRoute("/d/{slug:str}", Document.file, authorize=broken)), "/d/text")
    assert answer.status_code == 500
    assert world.checked_out() == 0


def test_public_files_say_so_to_caches(world: World) -> None:
    public = FileRoute("/d/{slug:str}", Document.file, public=True)
    longer = FileRoute("/e/{slug:str}", Document.file, public=True, cache_control="public, max-age=60", name="e")
    with client_of(world.app(public, longer)) as client:
        assert client.get("/d/text").headers["cache-control"] == "public, no-cache"
        assert client.get("/e/text").headers["cache-control"] == "public, max-age=60"


# -- what the database sees --------------------------------------------------------------------------------------------


def test_no_connection_is_held_while_the_body_flows(world: World) -> None:
    route = FileRoute("/d/{slug:str}", Document.file, authorize=lambda document, connection: bool(document.owner))
    with serving(world.app(route)) as address:
        sock = raw_request(address, b"GET /d/big HTTP/1.1\r\nHost: x\r\n\r\n", receive_buffer=4096)
        try:
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            assert world.backend.closed == 0
            assert world.checked_out() == 0
        finally:
            sock.close()
        assert wait_until(lambda: world.backend.closed == 1)
        assert world.backend.bytes_read < BIG


def test_a_file_is_found_with_one_statement_for_one_column(world: World) -> None:
    statements: list[str] = []
    engine = world.config.get_engine()

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", note)
    assert ask(world.app(FileRoute("/d/{slug:str}", Document.file, public=True)), "/d/text").status_code == 200
    assert len(statements) == 1
    assert "title" not in statements[0]


# -- set-up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing says who may have"),
        ({"guards": []}, "nothing says who may have"),
        ({"public": True, "authorize": owner_only}, "contradicts"),
        ({"public": True, "guards": [asks_as_ann]}, "contradicts"),
        ({"public": True, "cache_control": "a\r\nb"}, "cache_control"),
        ({"authorize": owner_only, "denied": 401}, "denied"),
    ],
)
def test_a_route_that_does_not_say_who_may_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FileRoute("/d/{slug:str}", Document.file, **options)


@pytest.mark.parametrize(
    ("path", "field", "words"),
    [
        ("/d/{nothing:int}", Document.file, "no column 'nothing'"),
        ("/d/{owner:int}", Document.file, "no column 'owner'"),
        ("/d/{title:str}", Document.file, r"primary key \(id\)"),
        ("/d/{folder:int}", Document.file, r"primary key \(id\)"),
        ("/d", Document.file, r"primary key \(id\)"),
        ("/r/{year:int}", Report.file, r"primary key \(id\)"),
        ("/r/{draft:int}", Report.file, r"primary key \(id\)"),
        ("/d/{id:str}", Document.file, "holds UUID, its path parameter is str"),
        ("/d/{slug:str}", Document.title, "is no file field"),
        ("/d/{slug:str}", Document.owner, "is no file field"),
        ("/d/{slug:str}", Document.pages, "needs a parameter {item:str}"),
        ("/d/{slug:str}/{item:int}", Document.pages, "needs a parameter {item:str}"),
        ("/d/{slug:str}/{item:str}", Document.file, "has no use for a parameter {item:str}"),
    ],
)
def test_a_path_that_names_no_row_is_refused_at_start_up(path: str, field: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_handlers([FileRoute(path, field, public=True)])


@pytest.mark.parametrize("path", ["/r/{id:uuid}", "/r/{slug:str}", "/r/{year:int}/{issue:int}"])
def test_inherited_columns_and_unique_indexes_name_rows(path: str) -> None:
    assert build_handlers([FileRoute(path, Report.file, public=True)])


def test_two_routes_of_one_name_are_refused() -> None:
    routes = [
        FileRoute("/a/{slug:str}", Document.file, public=True),
        FileRoute("/b/{slug:str}", Document.file, public=True),
    ]
    with pytest.raises(ConfigurationError, match="name="):
        build_handlers(routes)


def test_routes_have_names_to_make_urls_from(world: World) -> None:
    app = world.app(FileRoute("/d/{slug:str}", Document.file, public=True))
    assert app.route_reverse("Document.file", slug="x") == "/d/x"


def test_handlers_opt_out_of_compression(world: World) -> None:
    handlers = build_handlers([FileRoute("/d/{slug:str}", Document.file, public=True)], "uncompressed")
    config = CompressionConfig(backend="gzip", minimum_size=1, exclude_opt_key="uncompressed")
    app = Litestar(handlers, plugins=[SQLAlchemyPlugin(world.config)], compression_config=config)
    app.state["granite_manager"] = AsyncStorageManager(world.manager)
    answer = ask(app, "/d/big", headers={"Accept-Encoding": "gzip", "Range": "bytes=1-"})
    assert (answer.status_code, len(answer.content)) == (206, BIG - 1)
    assert "content-encoding" not in answer.headers


def test_the_api_description_tells_of_ranges_and_conditions(world: World) -> None:
    app = world.app(FileRoute("/d/{id:uuid}", Document.file, authorize=owner_only, tags=["files"]))
    item = app.openapi_schema.to_schema()["paths"]["/d/{id}"]
    for operation in (item["get"], item["head"]):
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert {"id", "download", "If-None-Match"} <= names
        assert ("Range" in names) == (operation is item["get"])
        assert operation["tags"] == ["files"]
    assert list(item["get"]["responses"]) == ["200", "206", "304", "403", "404", "412", "416", "500", "503"]
    assert list(item["head"]["responses"]) == ["200", "304", "403", "404", "412"]
    assert {"ETag", "Content-Range", "Repr-Digest"} <= set(item["get"]["responses"]["206"]["headers"])
    assert not any("content" in response for response in item["head"]["responses"].values())
    assert (item["get"]["operationId"], item["head"]["operationId"]) == ("getDocumentFile", "headDocumentFile")


# -- with the plugin, and on PostgreSQL --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["granite", "alchemy"])
def test_the_plugin_serves_its_downloads_beside_compression_and_cors(world: World, first: str) -> None:
    route = FileRoute("/d/{slug:str}", Document.file, authorize=owner_only)
    plugins = [GranitePlugin(GraniteConfig(world.manager, downloads=[route])), SQLAlchemyPlugin(world.config)]
    app = Litestar(
        plugins=plugins if first == "granite" else plugins[::-1],
        compression_config=CompressionConfig(backend="gzip", minimum_size=1),
        cors_config=CORSConfig(allow_origins=["https://app.example"]),
        logging_config=None,
    )
    headers = {"user": "ann", "Accept-Encoding": "gzip", "Origin": "https://app.example"}
    with client_of(app) as client:
        part = client.get("/d/big", headers={**headers, "Range": "bytes=10-199999"})
        assert (part.status_code, part.content) == (206, content_of(BIG)[10:200_000])
        assert "content-range" in part.headers["access-control-expose-headers"].lower()
        assert client.get("/d/big").status_code == 403
        world.manager.delete(world.refs["text"])
        assert client.get("/d/text", headers=headers).status_code == 404


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_on_postgresql_values_that_no_column_holds_name_no_row(postgres_database: Database, driver: str) -> None:
    manager = StorageManager({"main": CountingBackend()}, [StoragePolicy("docs", "main")])
    engine = sa.create_engine(postgres_database.sync_url)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Owner).values(id=1, name="ann"))
        connection.execute(
            sa.insert(Document).values(
                slug="text",
                number=7,
                owner_id=1,
                file=manager.put_bytes("docs", content=b"hello", original_filename="a.txt"),
                pages=[],
            )
        )
    engine.dispose()
    config: Any
    if driver == "asyncpg":
        config = SQLAlchemyAsyncConfig(connection_string=postgres_database.async_url, metadata=Base.metadata)
    else:
        config = SQLAlchemySyncConfig(connection_string=postgres_database.sync_url, metadata=Base.metadata)
    routes = [
        FileRoute("/place/{folder:int}/{number:int}", Document.file, public=True, name="place"),
        FileRoute("/slug/{slug:str}", Document.file, authorize=lambda document, connection: document.title == ""),
    ]
    world = World(CountingBackend(), manager, config, {}, {})
    with client_of(world.app(*routes)) as client:
        assert client.get("/place/0/7").content == b"hello"
        assert client.get("/slug/text").content == b"hello"
        for path in ("/place/99999999999/7", "/place/0/99999999999999999999", "/slug/%00", "/slug/te%00xt"):
            assert client.get(path).status_code == 404, path
        assert client.get("/place/0/7").content == b"hello"
