"""Processes with different graces on one store: sweeps wait for the longest, and nobody relies on it too early."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import MemoryStorageBackend, StaleRefError, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.doctor import examine
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field
from granite_core.testing import sweep_now
from tests.integration.sqlalchemy.collecting import GRACE_MS, MINUTE, bury, rows_of, tables
from tests.integration.sqlalchemy.world import GRACE, QUARTER, Base, Document, World, make_world

SHORT = timedelta(minutes=12)
"""The grace of another process on the same database and store; the world's own is two hours."""


@pytest.fixture(params=["sqlite", "asyncpg"])
def world(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[World]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/db.sqlite3" if sqlite else request.getfixturevalue("postgres_async_url")
    with make_world(url) as world:
        yield world


def of_other(world: World, grace: timedelta = SHORT) -> Collector:
    """The collector of a process with another grace."""
    manager = StorageManager({"main": world.backend}, world.manager.policies, grace=grace, now=world.manager.now)
    return Collector(manager, SQLAlchemyLedger([world.any_engine], Base.metadata))


def keep(world: World, title: str, file: StoredObjectRef | None = None) -> None:
    with world.session() as session:
        session.add(Document(title=title, file=file or world.stage(title.encode())))
        session.commit()


def graces(world: World) -> list[timedelta]:
    """Those that the database knows, the longest first."""
    names = [row.name for row in rows_of(world, tables().state) if row.name.startswith("grace:")]
    return sorted((timedelta(milliseconds=int(name.split(":")[1])) for name in names), reverse=True)


def let_graces_age(world: World, by: timedelta) -> None:
    t = tables().state
    with world.engine.begin() as connection:
        older = t.c.expires_at - int(by.total_seconds() * 1000)
        connection.execute(t.update().where(t.c.name.startswith("grace:")).values(expires_at=older))


def test_a_grace_that_was_undone_with_a_savepoint_is_written_down_again(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            savepoint = session.begin_nested()
            session.add(Document(title="undone", file=world.stage(b"1")))
            session.flush()
            savepoint.rollback()
            session.add(Document(title="kept", file=world.stage(b"2")))
            session.commit()
        assert graces(world) == [GRACE]

    world.run(scenario)


class TestASweepWaits:
    def test_for_the_longest_grace_of_all_who_write(self, world: World) -> None:
        def scenario() -> None:
            keep(world, "before")
            staged = world.stage(b"on its way")
            bury(world, staged.location, age=2 * int(SHORT.total_seconds() * 1000))  # a reconcile saw it early
            with world.session() as session:
                session.add(Document(title="late", file=staged))
                session.flush()
                assert of_other(world).ledger.longest_grace() == GRACE_MS
                if world.engine.dialect.name == "postgresql":  # on SQLite it would wait for the session
                    report = of_other(world).sweep()
                    assert (report.deleted, report.grace) == (0, GRACE.total_seconds())
                session.commit()
            assert of_other(world).sweep().deleted == 0
            world.manager.verify(staged)

        world.run(scenario)

    def test_and_then_takes_what_is_due(self, world: World) -> None:
        def scenario() -> None:
            keep(world, "before")
            world.store.put_bytes("young", b"")
            world.store.put_bytes("old", b"")
            bury(world, "young", age=GRACE_MS - MINUTE)
            bury(world, "old")
            plan = of_other(world).sweep(dry_run=True)
            report = of_other(world).sweep()
            assert (plan.deleted, report.deleted, report.waiting) == (1, 1, 1)
            assert "young" in world.stored()

        world.run(scenario)

    def test_for_that_of_other_collectors_too(self, world: World) -> None:
        def scenario() -> None:
            of_other(world, 2 * GRACE).reconcile()
            world.store.put_bytes("let go", b"")
            bury(world, "let go")
            assert of_other(world).sweep().deleted == 0
            assert graces(world) == [2 * GRACE]  # the shorter one says nothing more
            assert of_other(world).status().longest_grace == 2 * GRACE.total_seconds()

        world.run(scenario)

    def test_a_dry_run_writes_none_down(self, world: World) -> None:
        def scenario() -> None:
            of_other(world).sweep(dry_run=True)
            of_other(world).status()
            assert graces(world) == []

        world.run(scenario)

    def test_no_longer_once_somebody_says_so(self, world: World) -> None:
        def scenario() -> None:
            keep(world, "before")
            world.store.put_bytes("let go", b"")
            bury(world, "let go", age=GRACE_MS - MINUTE)
            other = of_other(world)
            assert other.lower_grace() == [GRACE]
            assert other.lower_grace() == []
            assert (graces(world), other.sweep().deleted) == ([SHORT], 1)

        world.run(scenario)

    def test_in_every_database_for_those_of_all(self, tmp_path: Any) -> None:
        with make_world(f"sqlite:///{tmp_path}/one.sqlite3") as one, make_world(f"sqlite:///{tmp_path}/two.sqlite3"):
            two = create_engine(f"sqlite:///{tmp_path}/two.sqlite3")
            with Session(two) as session:
                session.add(Document(title="two", file=one.stage()))
                session.commit()
            one.store.put_bytes("let go", b"")
            bury(one, "let go", age=GRACE_MS - MINUTE)
            manager = StorageManager({"main": one.backend}, one.manager.policies, grace=SHORT)
            collector = Collector(manager, SQLAlchemyLedger([one.engine, two], Base.metadata))
            assert collector.sweep().deleted == 0
            two.dispose()


class TestAFlushRelies:
    def test_on_its_own_grace_where_it_is_the_first(self, world: World) -> None:
        def scenario() -> None:
            staged = world.stage()
            world.later(QUARTER - timedelta(minutes=1))
            keep(world, "first", staged)
            assert graces(world) == [GRACE]

        world.run(scenario)

    def test_on_the_longest_so_far_while_its_own_is_new(self, world: World) -> None:
        def scenario() -> None:
            of_other(world).sweep()
            for _ in range(2):
                staged = world.stage()
                world.later(SHORT / 4)
                with pytest.raises(StaleRefError) as refused:
                    keep(world, "late", staged)
                assert refused.value.limit == SHORT / 4
            keep(world, "in time")
            assert graces(world) == [GRACE, SHORT]
            let_graces_age(world, GRACE)
            staged = world.stage()
            world.later(QUARTER - timedelta(minutes=1))
            keep(world, "late", staged)

        world.run(scenario)

    def test_not_on_a_longer_one_than_its_own(self, world: World) -> None:
        def scenario() -> None:
            of_other(world, 2 * GRACE).sweep()
            staged = world.stage()
            world.later(QUARTER)
            with pytest.raises(StaleRefError):
                keep(world, "late", staged)
            assert graces(world) == [2 * GRACE]

        world.run(scenario)

    def test_at_the_end_of_the_transaction_whatever_savepoint_was_undone(self, world: World) -> None:
        def scenario() -> None:
            of_other(world).sweep()
            with world.session() as session:
                session.add(Document(title="late", file=world.stage()))
                session.flush()
                session.begin_nested().rollback()
                world.later(SHORT / 4)
                with pytest.raises(StaleRefError):
                    session.commit()

        world.run(scenario)

    def test_at_the_end_of_the_transaction_too(self, world: World) -> None:
        def scenario() -> None:
            of_other(world).sweep()
            with world.session() as session:
                session.add(Document(title="late", file=world.stage()))
                session.flush()
                world.later(SHORT / 4)
                with pytest.raises(StaleRefError):
                    session.commit()

        world.run(scenario)

    def test_when_it_only_lets_go_too(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def scenario() -> None:
            keep(world, "gone")
            of_other(world).lower_grace()
            with world.session() as session:
                session.delete(session.scalars(select(Document)).one())
                session.flush()
                real = time.monotonic
                monkeypatch.setattr(time, "monotonic", lambda: real() + SHORT.total_seconds() / 4)
                session.commit()
            assert len(world.tombstones()) == 2  # the first was too old to be committed: it was renewed
            assert graces(world) == [GRACE, SHORT]

        world.run(scenario)

    def test_in_statements_too(self, world: World) -> None:
        def scenario() -> None:
            of_other(world).sweep()
            staged = world.stage()
            world.later(SHORT / 4)
            with world.session() as session, pytest.raises(StaleRefError):
                session.execute(insert(Document).values(title="late", file=staged, pages=[]))

        world.run(scenario)

    def test_on_nothing_that_was_rolled_back(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(title="undone", file=world.stage()))
                session.flush()
            assert graces(world) == []
            with world.engine.connect() as connection:
                outer = connection.begin()
                for title in ("joined", "again"):
                    with Session(connection, join_transaction_mode="create_savepoint") as session:
                        session.add(Document(title=title, file=world.stage()))
                        session.commit()
                outer.rollback()
            assert graces(world) == []
            keep(world, "kept")
            assert graces(world) == [GRACE]

        world.run(scenario)

    def test_and_asks_for_it_once_in_a_process(self, world: World) -> None:
        sent: list[str] = []

        def scenario() -> None:
            event.listen(world.engine, "before_cursor_execute", lambda c, cu, s, *_: sent.append(s))
            asked = []
            for number in range(4):
                sent.clear()
                keep(world, str(number))
                asked.append(len([each for each in sent if re.search(r"(FROM|INTO) granite_state", each)]))
            assert asked == [2, 1, 0, 0]  # asked and written down, seen to be there, and never again

        world.run(scenario)


class TestWithoutTheTables:
    def test_nothing_is_asked(self) -> None:
        class Bare(DeclarativeBase):
            pass

        Bare.metadata.info["granite_tables"] = False

        class Note(Bare):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("notes")

        engine = create_engine("sqlite://")
        Bare.metadata.create_all(engine)
        manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("notes", "main")])
        manager.register(Bare)
        with Session(engine) as session:
            session.add(Note(file=manager.put_bytes("notes", content=b"note")))
            session.commit()
            assert session.scalars(select(Note.file)).one() is not None
        ledger = SQLAlchemyLedger([engine], Bare.metadata)
        assert (ledger.record_grace(5), ledger.longest_grace(), ledger.forget_longer_graces(1)) == (5, 0, [])
        engine.dispose()

    def test_nor_where_they_are_still_missing(self, tmp_path: Any) -> None:
        with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
            with world.engine.begin() as connection:
                for table in (tables().state, tables().tombstone, tables().column):
                    table.drop(connection)
            keep(world, "kept")
            assert len(world.held()) == 1


def found(world: World, grace: timedelta) -> dict[str, str]:
    return {each.code: each.found for each in examine(of_other(world, grace)) if each.code.startswith("grace-")}


def test_the_doctor_tells_of_it(world: World) -> None:
    def scenario() -> None:
        assert found(world, SHORT) == {}
        keep(world, "kept")
        assert "has worked with a grace of 7200 s, this one's is 720 s" in found(world, SHORT)["grace-longer"]
        assert "until then files are attached within 1800 s" in found(world, 2 * GRACE)["grace-new"]
        assert found(world, GRACE) == {}

    world.run(scenario)


def test_the_testing_kit_collects_at_once_all_the_same(world: World) -> None:
    def scenario() -> None:
        of_other(world, 2 * GRACE).sweep()
        world.store.put_bytes("let go", b"")
        with world.engine.connect() as connection:
            assert sweep_now(world.manager, connection, Base.metadata).deleted == 1
            connection.rollback()

    world.manager = StorageManager({"main": world.store}, world.manager.policies, grace=GRACE)
    world.manager.register(Base)
    world.run(scenario)
