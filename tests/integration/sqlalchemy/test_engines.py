"""One session, several engines; and objects that go from one session to another."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient, mapped_column, scoped_session, sessionmaker

from granite_core import StoredObjectRef, unsaved
from granite_core.integrations.sqlalchemy import file_field, tables_of
from tests.integration.sqlalchemy.test_transactions import given_document, the_document
from tests.integration.sqlalchemy.world import QUARTER, Document, World, fix_pysqlite


class Split(DeclarativeBase):
    pass


class Here(Split):
    __tablename__ = "here"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")


class There(Split):
    __tablename__ = "there"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")


class TestTablesOnTwoEngines:
    @pytest.fixture(params=["by class", "by base", "by table"])
    def session(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
        engines = [create_engine(f"sqlite:///{tmp_path}/{name}.sqlite3") for name in ("here", "there")]
        tables = tables_of(Split.metadata)
        assert tables is not None
        for engine, model in zip(engines, (Here, There), strict=True):
            fix_pysqlite(engine)
            table: Any = model.__table__
            Split.metadata.create_all(engine, tables=[table, tables.tombstone, tables.column])
        binds: dict[str, dict[Any, Any]] = {
            "by class": {Here: engines[0], There: engines[1]},
            "by base": {Split: engines[0], There: engines[1]},
            "by table": {Here.__table__: engines[0], There.__table__: engines[1]},
        }
        self.engines = engines
        with Session(binds=binds[request.param]) as session:
            yield session
        for engine in engines:
            engine.dispose()

    @pytest.fixture
    def world(self, session: Session) -> World:
        return World(self.engines[0], base=Split)

    def test_a_file_is_shared_within_and_between_them(self, session: Session, world: World) -> None:
        session.add_all([Here(file=unsaved(b"here")), There(file=unsaved(b"there"))])
        session.commit()
        world.later(QUARTER)
        here, there = session.scalars(select(Here)).one(), session.scalars(select(There)).one()
        session.add_all([Here(file=here.file), There(file=there.file), Here(file=there.file), There(file=here.file)])
        session.commit()

    def test_tombstones_go_where_the_row_was(self, session: Session, world: World) -> None:
        session.add_all([Here(file=unsaved(b"here")), There(file=unsaved(b"there"))])
        session.commit()
        files = []
        for model in (Here, There):
            row: Any = session.scalars(select(model)).one()
            files.append(row.file.location)
            session.delete(row)
        session.commit()
        tables = tables_of(Split.metadata)
        assert tables is not None
        for engine, location in zip(self.engines, files, strict=True):
            with engine.connect() as connection:
                assert connection.execute(select(tables.tombstone.c.location)).scalars().all() == [location]


class TestObjectsThatMove:
    def test_pickled_and_added_to_another_session(self, world: World) -> None:
        def scenario() -> None:
            given_document(world, pages=[world.stage(b"page")])
            with world.session() as session:
                document = the_document(session)
                assert document.file
                pickled = pickle.dumps(document)
            world.later(QUARTER)
            again = pickle.loads(pickled)
            with world.session() as session:
                session.add(again)
                again.pages.append(world.stage(b"second"))
                session.commit()
                assert len(again.pages) == 2
                assert copy.deepcopy(again.file) == again.file
                assert copy.deepcopy(list(again.pages)) == again.pages
            world.check_laws()

        world.run(scenario)

    def test_merged_from_a_stale_copy(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.session() as session:
                stale = the_document(session)
                assert stale.file
                session.expunge_all()
                the_document(session).file = world.stage(b"new")
                session.commit()
            with world.session() as session:
                session.merge(stale)  # still fresh: sets the old one back
                session.commit()
            assert world.held() == {old.location}
            world.check_laws()

        world.run(scenario)

    def test_made_transient_and_added_as_a_new_row(self, world: World) -> None:
        def scenario() -> None:
            given_document(world, pages=[world.stage(b"page")])
            world.later(QUARTER)
            with world.session() as session:
                document = the_document(session)
                assert document.file
                assert document.late is None
                make_transient(document)
                document.id, document.title = None, "second"
                session.add(document)
                session.commit()
                assert len(session.scalars(select(Document)).all()) == 2
            world.check_laws()

        world.run(scenario)

    def test_through_a_scoped_session_of_a_subclass(self, world: World) -> None:
        class Mine(Session):
            pass

        def scenario() -> None:
            session = scoped_session(sessionmaker(world.engine, class_=Mine, expire_on_commit=False))
            document = Document(file=unsaved(b"1"))
            session.add(document)
            session.commit()
            old = document.file
            document.file = unsaved(b"2")
            session.commit()
            session.remove()
            assert world.tombstones() == [old.location]
            world.check_laws()

        world.run(scenario)


def test_a_list_holds_the_same_file_twice(world: World) -> None:
    def scenario() -> None:
        twice, once = world.stage(b"twice"), world.stage(b"once")
        with world.session() as session:
            document = Document(pages=[twice, twice, once])
            session.add(document)
            session.commit()
            document.pages.remove(twice)
            session.commit()
            document.pages = document.pages
            document.pages = list(document.pages)
            session.commit()
            assert world.tombstones() == []
            document.pages.remove(twice)
            session.commit()
            assert world.tombstones() == [twice.location]
        world.check_laws()

    world.run(scenario)


def test_a_session_without_files_sends_no_statement_more(world: World) -> None:
    from tests.integration.sqlalchemy.world import Folder

    statements: list[str] = []

    def scenario() -> None:
        event.listen(world.engine, "before_cursor_execute", lambda c, cu, s, p, x, m: statements.append(s))
        with world.session() as session:
            session.add(Folder())
            session.commit()

    world.run(scenario)
    assert len([statement for statement in statements if statement.startswith(("SELECT", "INSERT"))]) == 1


def test_a_session_that_is_forgotten_gives_its_connection_back(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/rows.sqlite3")
    Split.metadata.create_all(engine)
    world = World(engine, base=Split)
    session = Session(engine)
    session.add(Here(file=world.manager.put_bytes("documents", content=b"x")))
    session.flush()
    assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]  # the pool of a file has it
    del session
    gc.collect()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a pool that counts
    engine.dispose()
