"""Uploads that end in rows: the whole plugin beside advanced-alchemy's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar, post, put
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.testing import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    ConfigurationError,
    MemoryStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_core.testing import FaultyBackend
from granite_litestar import (
    FileRoute,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    Upload,
    UploadDTO,
    UploadRoute,
)
from tests.support.upload_apps import Conversation


class Base(DeclarativeBase):
    """A metadata of its own: other tests have file fields with other policies."""


class Letter(Base):
    __tablename__ = "upload_letter"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str] = mapped_column(unique=True)
    file: Mapped[StoredObjectRef | None] = file_field("letters")
    pages: Mapped[list[StoredObjectRef]] = files_field("letters")


class NewLetter(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Letter.file)]
    pages: Annotated[list[StagedFile], Upload(Letter.pages)] = []


@post("/letters")
async def create(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> UUID:
    letter = Letter(title=data.title, file=data.file, pages=list(data.pages))
    db_session.add(letter)
    await db_session.commit()
    return letter.id


@post("/forgotten")
async def forget(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> None:
    db_session.add(Letter(title=data.title, file=data.file))


@put("/letters/{letter_id:uuid}/file")
async def replace(
    letter_id: FromPath[UUID],
    data: Annotated[StagedFile, RawUpload(Letter.file)],
    db_session: NamedDependency[AsyncSession],
) -> StagedFile:
    letter = await db_session.get(Letter, letter_id)
    if letter is None:
        raise NotFoundException
    letter.file = data
    await db_session.commit()
    return data


@post("/sync", sync_to_thread=True)
def create_in_thread(data: MultipartBody[NewLetter], db_session: NamedDependency[Session]) -> UUID:
    letter = Letter(title=data.title, file=data.file)
    db_session.add(letter)
    db_session.commit()
    return letter.id


@pytest.fixture
def backend() -> MemoryStorageBackend:
    return MemoryStorageBackend()


@pytest.fixture
def plugin(backend: MemoryStorageBackend) -> GranitePlugin:
    policies = [StoragePolicy("letters", "main", max_size=1000)]
    return GranitePlugin(GraniteConfig(manager=StorageManager(backends={"main": backend}, policies=policies)))


@pytest.fixture
def alchemy(tmp_path: Path) -> SQLAlchemyAsyncConfig:
    return SQLAlchemyAsyncConfig(
        connection_string=f"sqlite+aiosqlite:///{tmp_path}/letters.db",
        session_config=AsyncSessionConfig(expire_on_commit=False),
        create_all=True,
        metadata=Base.metadata,
    )


@pytest.fixture
def client(alchemy: SQLAlchemyAsyncConfig, plugin: GranitePlugin) -> Iterator[TestClient[Litestar]]:
    app = Litestar(
        [create, forget, replace],
        plugins=[SQLAlchemyPlugin(alchemy), plugin],
        logging_config=None,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def rows(tmp_path: Path) -> list[Letter]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/letters.db")
    with Session(engine, expire_on_commit=False) as session:
        found = list(session.scalars(sa.select(Letter)))
    engine.dispose()
    return found


def keys(backend: MemoryStorageBackend) -> set[str]:
    return set(backend.iter_locations())


def test_what_was_committed_stays(client: TestClient[Litestar], backend: MemoryStorageBackend, tmp_path: Path) -> None:
    files = [("file", ("a.txt", b"letter")), ("pages", ("1.txt", b"one")), ("pages", ("2.txt", b"two"))]
    assert client.post("/letters", data={"title": "a"}, files=files).status_code == 201
    [letter] = rows(tmp_path)
    assert letter.file is not None
    assert backend.get(letter.file.location) == b"letter"
    assert [backend.get(page.location) for page in letter.pages] == [b"one", b"two"]
    assert keys(backend) == {letter.file.location, *(page.location for page in letter.pages)}


def test_what_was_never_flushed_goes(
    client: TestClient[Litestar], backend: MemoryStorageBackend, tmp_path: Path
) -> None:
    assert client.post("/forgotten", data={"title": "a"}, files={"file": b"x"}).status_code == 201
    assert (rows(tmp_path), keys(backend)) == ([], set())


def test_a_file_of_a_failed_commit_is_left_to_the_collector(
    client: TestClient[Litestar], backend: MemoryStorageBackend, tmp_path: Path
) -> None:
    """A flush has seen it: nobody but the sweep may say that no row holds it."""
    for status in (201, 500):
        assert client.post("/letters", data={"title": "same"}, files={"file": b"x"}).status_code == status
    assert len(rows(tmp_path)) == 1
    assert len(keys(backend)) == 2


def test_a_raw_body_replaces_a_file_and_one_for_no_row_goes(
    client: TestClient[Litestar], backend: MemoryStorageBackend, tmp_path: Path
) -> None:
    letter_id = client.post("/letters", data={"title": "a"}, files={"file": b"old"}).json()
    response = client.put(f"/letters/{letter_id}/file?filename=new.txt", content=b"new")
    assert (response.status_code, response.json()["filename"]) == (200, "new.txt")
    [letter] = rows(tmp_path)
    assert letter.file is not None
    assert backend.get(letter.file.location) == b"new"
    before = keys(backend)
    assert client.put(f"/letters/{UUID(int=1)}/file", content=b"for nobody").status_code == 404
    assert keys(backend) == before


def test_the_sync_handler_and_session_do_the_same(
    plugin: GranitePlugin, backend: MemoryStorageBackend, tmp_path: Path
) -> None:
    alchemy = SQLAlchemySyncConfig(
        connection_string=f"sqlite:///{tmp_path}/letters.db", create_all=True, metadata=Base.metadata
    )
    app = Litestar([create_in_thread], plugins=[plugin, SQLAlchemyPlugin(alchemy)], logging_config=None)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/sync", data={"title": "a"}, files={"file": b"x", "pages": b"unused"}).status_code == 201
    [letter] = rows(tmp_path)
    assert letter.file is not None
    assert keys(backend) == {letter.file.location}


async def test_a_guard_that_leaves_a_connection_open_is_named_once(
    alchemy: SQLAlchemyAsyncConfig, plugin: GranitePlugin, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow upload would hold the connection for as long as it takes."""

    async def may_write_letters(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
        session = alchemy.provide_session(connection.app.state, connection.scope)
        await session.execute(sa.text("select 1"))

    @post("/guarded", guards=[may_write_letters])
    async def guarded(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> None: ...

    app = Litestar([guarded, create], plugins=[SQLAlchemyPlugin(alchemy), plugin], logging_config=None)
    with TestClient(app) as client, caplog.at_level(logging.WARNING, "granite"):
        for _ in range(2):
            assert client.post("/guarded", data={"title": "a"}, files={"file": b"x"}).status_code == 201
        assert client.post("/letters", data={"title": "a"}, files={"file": b"x"}).status_code == 201
    [record] = [each for each in caplog.records if each.name == "granite.uploads"]
    assert "may_write_letters" in record.getMessage()
    assert "guarded" in record.getMessage()


# ------------------------------------------------------------------------------------------------------ upload routes
def owner_only(letter: Letter, connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    return connection.headers.get("user") == letter.title


@pytest.fixture(params=["async", "sync"])
def routed(request: pytest.FixtureRequest, backend: MemoryStorageBackend, tmp_path: Path) -> Iterator[Litestar]:
    """An application with ready-made routes, on both kinds of session."""
    policies = [StoragePolicy("letters", "main", max_size=1000)]
    plugin = GranitePlugin(
        GraniteConfig(
            manager=StorageManager(backends={"main": backend}, policies=policies),
            downloads=[FileRoute("/letters/{id:uuid}/file", Letter.file, public=True)],
            uploads=[
                UploadRoute("/letters/{id:uuid}/file", Letter.file, public=True),
                UploadRoute("/own/{title:str}", Letter.file, authorize=owner_only, name="own"),
                UploadRoute("/hidden/{title:str}", Letter.file, authorize=owner_only, denied=404, name="hidden"),
            ],
        )
    )
    database = f"{tmp_path}/letters.db"
    alchemy: Any = SQLAlchemySyncConfig(
        connection_string=f"sqlite:///{database}", create_all=True, metadata=Base.metadata
    )
    if request.param == "async":
        alchemy = SQLAlchemyAsyncConfig(
            connection_string=f"sqlite+aiosqlite:///{database}",
            session_config=AsyncSessionConfig(expire_on_commit=False),
            create_all=True,
            metadata=Base.metadata,
        )
    return Litestar([], plugins=[plugin, SQLAlchemyPlugin(alchemy)], logging_config=None)  # type: ignore[return-value]


def write_letter(tmp_path: Path, title: str = "mine") -> UUID:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/letters.db")
    with Session(engine) as session:
        letter = Letter(title=title)
        session.add(letter)
        session.commit()
        letter_id = letter.id
    engine.dispose()
    return letter_id


def test_a_route_puts_a_body_into_a_row(routed: Litestar, backend: MemoryStorageBackend, tmp_path: Path) -> None:
    with TestClient(routed) as client:
        url = f"/letters/{write_letter(tmp_path)}/file"
        first = client.put(f"{url}?filename=a.txt", content=b"first")
        assert (first.status_code, first.json()["filename"]) == (201, "a.txt")
        assert client.get(url).content == b"first"
        assert client.get(url).headers["etag"] == first.headers["etag"]
        second = client.put(url, content=b"second")
        assert (second.status_code, client.get(url).content) == (200, b"second")
    [letter] = rows(tmp_path)
    assert letter.file is not None
    assert letter.file.location in keys(backend)


def test_a_route_refuses_before_the_first_byte(routed: Litestar, backend: MemoryStorageBackend, tmp_path: Path) -> None:
    async def talk(path: str, **headers: str) -> tuple[int, int]:
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        done = await Conversation(routed, "PUT", path, chunks=[b"x"], headers=pairs).run()
        return done.status, done.receives

    with TestClient(routed) as client:
        letter_id = write_letter(tmp_path)

        def answer(path: str, **headers: str) -> tuple[int, int]:
            result: tuple[int, int] = client.blocking_portal.call(lambda: talk(path, **headers))
            return result

        assert answer("/own/mine") == (403, 0)
        assert answer("/hidden/mine") == (404, 0)
        assert answer("/own/other") == (404, 0)
        assert answer(f"/letters/{UUID(int=1)}/file") == (404, 0)
        assert answer(f"/letters/{letter_id}/file", if_match="*") == (412, 0)
        assert answer(f"/letters/{letter_id}/file", content_length="1001") == (413, 0)
        assert keys(backend) == set()
        assert answer("/own/mine", user="mine")[0] == 201


def test_nobody_overwrites_what_they_have_not_seen(routed: Litestar, tmp_path: Path) -> None:
    with TestClient(routed) as client:
        url = f"/letters/{write_letter(tmp_path)}/file"
        tag = client.put(url, content=b"1", headers={"If-None-Match": "*"}).headers["etag"]
        assert client.put(url, content=b"2", headers={"If-None-Match": "*"}).status_code == 412
        assert client.put(url, content=b"2", headers={"If-Match": f'"other", {tag}'}).status_code == 200
        assert client.put(url, content=b"3", headers={"If-Match": tag}).status_code == 412
        assert client.get(url).content == b"2"


def test_a_row_that_is_deleted_meanwhile_leaves_nothing(
    routed: Litestar, backend: MemoryStorageBackend, tmp_path: Path
) -> None:
    with TestClient(routed) as client:
        letter_id = write_letter(tmp_path)

        def delete_row(*_: Any) -> None:
            engine = sa.create_engine(f"sqlite:///{tmp_path}/letters.db")
            with engine.begin() as connection:
                connection.execute(sa.delete(Letter))
            engine.dispose()

        faulty = FaultyBackend(backend)
        faulty.call("commit", delete_row)
        manager = next(plugin for plugin in routed.plugins if isinstance(plugin, GranitePlugin)).config.manager
        with manager.override(main=faulty):
            assert client.put(f"/letters/{letter_id}/file", content=b"x").status_code == 404
    assert keys(backend) == set()


def test_routes_that_cannot_work_are_refused() -> None:
    for make, message in [
        (lambda: UploadRoute("/{id:uuid}", Letter.file), "nothing says who"),
        (lambda: UploadRoute("/{id:uuid}", Letter.file, public=True, authorize=owner_only), "contradicts"),
        (lambda: UploadRoute("/x", Letter.file, public=True).handler(), "one row of Letter"),
        (lambda: UploadRoute("/{id:uuid}", Letter.pages, public=True).handler(), "several files"),
        (lambda: UploadRoute("/{id:uuid}", Letter.title, public=True).handler(), "no file field"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            make()


def test_a_route_is_documented(routed: Litestar) -> None:
    with TestClient(routed) as client:
        operation = client.get("/schema/openapi.json").json()["paths"]["/letters/{id}/file"]["put"]
    assert list(operation["requestBody"]["content"]) == ["application/octet-stream", "*/*"]
    assert {"200", "404", "412", "413", "415", "422"} <= set(operation["responses"])
