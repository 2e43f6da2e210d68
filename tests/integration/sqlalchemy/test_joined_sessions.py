"""The testing kit in the usual place of tests: sessions joined to a transaction that is rolled back at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    CollectionRefusedError,
    ConfigurationError,
    LocalStorageBackend,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    unsaved,
)
from granite_core.events import Collected
from granite_core.integrations.sqlalchemy import file_field
from granite_core.testing import MemoryStorage, asweep_now, memory_manager, memory_storage, sweep_now
from tests.integration.sqlalchemy.world import Base, Document, World


@contextmanager
def a_test(world: World) -> Iterator[tuple[Session, MemoryStorage]]:
    """What fixtures of a synchronous test suite set up for each test."""
    with memory_storage(world.manager) as storage, world.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session:
            yield session, storage
        outer.rollback()


@asynccontextmanager
async def an_async_test(world: World) -> AsyncIterator[tuple[AsyncSession, MemoryStorage]]:
    """The same for an asynchronous one."""
    assert isinstance(world.any_engine, AsyncEngine)
    with memory_storage(world.manager) as storage:
        async with world.any_engine.connect() as connection:
            outer = await connection.begin()
            options: Any = {"join_transaction_mode": "create_savepoint", "expire_on_commit": False}
            async with AsyncSession(connection, **options) as session:
                yield session, storage
            await outer.rollback()
    await world.any_engine.dispose()


def check_that_nothing_is_left(world: World) -> None:
    def look() -> None:
        with world.engine.connect() as connection:
            for table in Base.metadata.sorted_tables:
                assert connection.scalar(select(func.count()).select_from(table)) == 0, table
        assert world.stored() == set()
        assert world.backend.log == []
        assert world.manager.take_notes() == []

    world.run(look)


def test_what_a_test_commits_is_stored_and_what_it_lets_go_is_collected(world: World) -> None:
    def scenario() -> None:
        for _ in range(2):  # the second test finds nothing of the first
            with a_test(world) as (session, storage):
                storage.assert_nothing_stored()
                document = Document(title="a", file=storage.put("documents"), pages=[page := storage.put("pages")])
                session.add(document)
                session.commit()
                first = document.file
                storage.assert_only_stored([first, page])
                document.file = second = storage.put("documents", "png")
                session.commit()
                storage.assert_only_stored([first, second, page])
                report = storage.sweep_now(session)
                assert report.deleted == 1
                storage.assert_only_stored([second, page])
                document.pages.remove(page)
                storage.sweep_now(session)
                storage.assert_only_stored([second])
                session.delete(document)
                session.commit()
                storage.sweep_now(session)
                storage.assert_nothing_stored()

    world.run(scenario)
    check_that_nothing_is_left(world)


def test_what_a_test_leaves_is_gone(world: World) -> None:
    def scenario() -> None:
        with a_test(world) as (session, storage):
            session.add(Document(title="a", file=unsaved(b"hello")))
            session.commit()
            storage.put("documents")
            assert len(storage.stored_objects()) == 2

    world.run(scenario)
    check_that_nothing_is_left(world)


def test_a_rollback_in_a_test_lets_go_of_what_it_had_stored(world: World) -> None:
    def scenario() -> None:
        with a_test(world) as (session, storage):
            kept = storage.put("documents")
            session.add(Document(title="kept", file=kept))
            session.commit()
            session.add(Document(title="undone", file=storage.put("documents", "pdf")))
            session.flush()
            session.rollback()
            session.scalars(select(Document)).one().file = storage.put("documents", "png")
            session.flush()
            session.rollback()
            assert len(storage.stored_objects()) == 3
            storage.sweep_now(session)
            storage.assert_only_stored([kept])
            assert session.scalars(select(Document)).one().file == kept

    world.run(scenario)
    check_that_nothing_is_left(world)


def test_a_savepoint_of_the_test_itself_is_heeded(world: World) -> None:
    def scenario() -> None:
        with a_test(world) as (session, storage):
            kept = storage.put("documents")
            session.add(Document(title="kept", file=kept))
            with pytest.raises(RuntimeError), session.begin_nested():
                session.add(Document(title="undone", file=storage.put("documents")))
                session.flush()
                raise RuntimeError
            session.commit()
            storage.sweep_now(session)
            storage.assert_only_stored([kept])

    world.run(scenario)
    check_that_nothing_is_left(world)


def test_files_that_bulk_statements_forget_are_found(world: World) -> None:
    def scenario() -> None:
        with a_test(world) as (session, storage):
            session.add(Document(title="a", file=storage.put("documents")))
            session.commit()
            session.execute(delete(Document))
            storage.sweep_now(session)
            storage.assert_nothing_stored()

    world.run(scenario)
    check_that_nothing_is_left(world)


def test_what_is_only_pending_counts_as_held(world: World) -> None:
    def scenario() -> None:
        with a_test(world) as (session, storage):
            file = storage.put("documents")
            session.add(Document(title="a", file=file))
            storage.sweep_now(session)
            storage.assert_only_stored([file])
            session.commit()

    world.run(scenario)


def test_a_retention_ends_when_so_much_time_is_asked_for(world: World) -> None:
    manager = memory_manager(StoragePolicy("documents", retention=timedelta(days=30)), "pages")

    def scenario() -> None:
        before = Base.metadata.info["granite_manager"]
        manager.register(Base)
        try:
            with world.engine.connect() as connection, connection.begin() as outer:
                with Session(connection, join_transaction_mode="create_savepoint") as session:
                    storage = MemoryStorage(manager)
                    document = Document(title="a", file=storage.put("documents"))
                    session.add(document)
                    session.commit()
                    session.delete(document)
                    session.commit()
                    assert storage.sweep_now(session).deleted == 0
                    assert storage.sweep_now(session, after=timedelta(days=31)).deleted == 1
                outer.rollback()
        finally:
            before.register(Base)

    world.run(scenario)


def test_a_connection_will_do(world: World) -> None:
    def scenario() -> None:
        with a_test(world) as (session, storage):
            session.add(Document(title="a", file=(kept := storage.put("documents"))))
            session.commit()
            storage.put("documents")
            assert sweep_now(world.manager, session.connection(), Base).deleted == 1
            storage.assert_only_stored([kept])

    world.run(scenario)


def test_with_an_engine_only_what_is_committed_counts(world: World) -> None:
    def scenario() -> None:
        heard: list[Any] = []
        world.manager.listen(heard.append, Collected)
        with memory_storage(world.manager) as storage:
            with world.session(expire_on_commit=False) as session:
                document = Document(title="a", file=storage.put("documents"))
                session.add(document)
                session.commit()
                storage.put("documents")
                sweep_now(world.manager, world.engine)
                storage.assert_only_stored([document.file])
                # Inside a session after that: the store has been marked as this database's.
                storage.put("documents")
                storage.sweep_now(session)
                storage.assert_only_stored([document.file])
                session.delete(document)
                session.commit()
                storage.sweep_now(world.engine, Base.metadata)
            storage.assert_nothing_stored()
        assert [each.kind for each in heard] == ["reconcile", "sweep"] * 3

    world.run(scenario)


@pytest.mark.parametrize("url", ["aiosqlite", "asyncpg"], indirect=True)
async def test_asynchronous_sessions_do_the_same(world: World) -> None:
    for _ in range(2):
        async with an_async_test(world) as (session, storage):
            storage.assert_nothing_stored()
            document = Document(title="a", file=await storage.aput("documents"))
            session.add(document)
            await session.commit()
            document.file = new = await storage.aput("documents", "png")
            await session.commit()
            session.add(Document(title="undone", file=unsaved(b"hello")))
            await session.flush()
            await session.rollback()
            assert len(storage.stored_objects()) == 3
            assert (await storage.asweep_now(session)).deleted == 2
            storage.assert_only_stored([new])
            await session.delete(await session.merge(document))
            await session.commit()
            await asweep_now(world.manager, await session.connection())
            storage.assert_nothing_stored()
    async with world.any_engine.connect() as connection:  # type: ignore[union-attr]
        for table in Base.metadata.sorted_tables:
            assert await connection.scalar(select(func.count()).select_from(table)) == 0, table
    await world.any_engine.dispose()  # type: ignore[misc]
    assert world.backend.log == []
    assert world.manager.take_notes() == []


@pytest.mark.parametrize("url", ["aiosqlite", "asyncpg"], indirect=True)
async def test_an_asynchronous_engine_will_do(world: World) -> None:
    assert isinstance(world.any_engine, AsyncEngine)
    with memory_storage(world.manager) as storage:
        async with AsyncSession(world.any_engine, expire_on_commit=False) as session:
            document = Document(title="a", file=await storage.aput("documents"))
            session.add(document)
            await session.commit()
        await storage.aput("documents")
        await storage.asweep_now(world.any_engine)
        storage.assert_only_stored([document.file])
    await world.any_engine.dispose()


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_store_that_is_not_in_memory_is_never_swept_like_that(world: World, tmp_path: Any) -> None:
    manager = StorageManager({"disk": LocalStorageBackend(tmp_path / "files")}, [StoragePolicy("documents")])
    with world.session() as session, pytest.raises(ConfigurationError, match="for stores in memory"):
        sweep_now(manager, session, Base)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_manager_that_no_model_uses_is_an_error(world: World) -> None:
    with world.session() as session, pytest.raises(ConfigurationError, match="no mapped class"):
        sweep_now(memory_manager("documents"), session)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_store_that_fails_is_no_clean_sweep(world: World) -> None:
    with world.session() as session:
        world.backend.fail("list", PermissionError("no"))
        with pytest.raises(PermissionError):
            sweep_now(world.manager, session)
        world.backend.fail("list")
        with pytest.raises(AssertionError, match="could not be looked through"):
            sweep_now(world.manager, session)


@pytest.mark.parametrize("url", ["sqlite", "aiosqlite"], indirect=True)
def test_without_granites_tables_it_works_too(world: World) -> None:
    class Plain(DeclarativeBase):
        pass

    Plain.metadata.info["granite_tables"] = False

    class Card(Plain):
        __tablename__ = "card"
        id: Mapped[int] = mapped_column(primary_key=True)
        face: Mapped[StoredObjectRef | None] = file_field("documents")

    def scenario() -> None:
        manager = memory_manager("documents")
        manager.register(Plain)
        storage = MemoryStorage(manager)
        with world.engine.connect() as connection, connection.begin() as outer:
            Plain.metadata.create_all(connection)
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                card = Card(face=storage.put("documents"))
                session.add(card)
                session.commit()
                storage.put("documents")
                storage.sweep_now(session)
                storage.assert_only_stored([card.face])
            outer.rollback()

    world.run(scenario)


def test_a_table_that_is_missing_is_told(world: World) -> None:
    class Other(DeclarativeBase):
        pass

    class Sheet(Other):
        __tablename__ = "sheet"
        id: Mapped[int] = mapped_column(primary_key=True)
        file: Mapped[StoredObjectRef | None] = file_field("documents")

    def scenario() -> None:
        manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents")])
        manager.register(Other)
        with world.session() as session, pytest.raises(CollectionRefusedError, match="sheet"):
            sweep_now(manager, session)

    world.run(scenario)
