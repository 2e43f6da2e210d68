"""Uploads that end in rows: the whole plugin beside advanced-alchemy's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from advanced_alchemy.base import UUIDBase
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
from sqlalchemy.orm import Mapped, Session, mapped_column

from granite_core import MemoryStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import GraniteConfig, GranitePlugin, MultipartBody, RawUpload, Upload, UploadDTO


class Letter(UUIDBase):
    __tablename__ = "upload_letter"
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
    alchemy = SQLAlchemySyncConfig(connection_string=f"sqlite:///{tmp_path}/letters.db", create_all=True)
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
    [record] = [each for each in caplog.records if each.name == "granite"]
    assert "may_write_letters" in record.getMessage()
    assert "guarded" in record.getMessage()
