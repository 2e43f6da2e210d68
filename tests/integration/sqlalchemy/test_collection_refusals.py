"""The right universe, or nothing: when the collector refuses, and says what to do (law 3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, insert, make_url, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from granite_core import (
    CollectionRefusedError,
    ConfigurationError,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.backends.local import LocalStorageBackend
from granite_core.gc import Collector
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, StoredObjectRefType, file_field, tables_of
from granite_core.integrations.sqlalchemy.tables import OPT_OUT_KEY
from tests.integration.sqlalchemy.collecting import (
    bury,
    collector,
    keep,
    reconcile,
    rows_of,
    store,
    sweep,
    tables,
)
from tests.integration.sqlalchemy.world import GRACE, Base, Document, World, make_world


def both_refuse(world: World, match: str) -> None:
    """Sweep and reconcile refuse, dry or not, and nothing was deleted or noted."""
    stored, tombstones = world.stored(), world.tombstones()
    for run in (sweep, reconcile):
        for dry_run in (True, False):
            with pytest.raises(CollectionRefusedError, match=match):
                run(world, dry_run=dry_run)
    assert (world.stored(), world.tombstones()) == (stored, tombstones)


class TestColumns:
    def test_the_columns_of_this_process_are_registered(self, world: World) -> None:
        def scenario() -> None:
            sweep(world)
            known = world.known_columns()
            assert {("document", "file"), ("document", "pages"), ("company", "logo")} <= known
            count = len(rows_of(world, tables().column))
            sweep(world)
            assert len(rows_of(world, tables().column)) == count

        world.run(scenario)

    def test_a_registered_column_that_is_not_known_is_refused(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            t = tables().column
            with world.engine.begin() as connection:
                row = {"schema_name": "", "table_name": "invoice", "column_name": "scan"}
                connection.execute(insert(t), [row, row])
            both_refuse(world, r"invoice\.scan.*import the model")
            with world.engine.begin() as connection:
                connection.execute(t.delete().where(t.c.table_name == "invoice"))
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_a_table_that_cannot_be_read_is_refused(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            with world.engine.begin() as connection:
                connection.execute(text("ALTER TABLE company RENAME TO firm"))
            both_refuse(world, "'company' .*cannot be read.*create_all")
            with world.engine.begin() as connection:
                connection.execute(text("ALTER TABLE firm RENAME TO company"))

        world.run(scenario)

    def test_tables_that_were_not_made_are_refused(self, world: World) -> None:
        def scenario() -> None:
            with world.engine.begin() as connection:
                connection.execute(text("DROP TABLE granite_state"))
            for run in (sweep, reconcile):
                with pytest.raises(CollectionRefusedError, match="'granite_state'"):
                    run(world)

        world.run(scenario)


@pytest.mark.parametrize("url", ["psycopg", "asyncpg"], indirect=True)
class TestRights:
    @pytest.fixture
    def stranger(self, world: World, postgres_database: Any) -> Iterator[World]:
        """The same world, seen by a user who owns nothing."""
        role = f"granite_{uuid4().hex}"
        admin = create_engine(postgres_database.sync_url)
        with admin.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN"))
            connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))
            connection.execute(text(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"))
        make = create_async_engine if world.is_async else create_engine
        other = World(make(make_url(world.any_engine.url).set(username=role)))  # type: ignore[operator]
        other.store, other.backend, other.manager = world.store, world.backend, world.manager
        self.admin, self.role = admin, role
        yield other
        if not other.is_async:
            other.engine.dispose()
        with admin.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
        admin.dispose()

    def as_admin(self, statement: str) -> None:
        with self.admin.begin() as connection:
            connection.execute(text(statement))

    def test_a_user_with_rights_is_fine(self, stranger: World) -> None:
        def scenario() -> None:
            keep(stranger)
            store(stranger, "a")
            assert reconcile(stranger).noted == 1
            assert sweep(stranger).skipped is None

        stranger.run(scenario)

    def test_a_table_without_the_right_to_read_it_is_refused(self, stranger: World) -> None:
        self.as_admin(f"REVOKE SELECT ON company FROM {self.role}")
        stranger.run(lambda: both_refuse(stranger, "'company' .*cannot be read.*grant SELECT"))

    def test_a_copy_is_told_apart_by_any_user(self, stranger: World) -> None:
        def scenario() -> None:
            sweep(stranger)
            rows = {row.name: row for row in rows_of(stranger, tables().state)}
            assert rows["database"].holder is not None

        stranger.run(scenario)

    def test_row_level_security_is_refused(self, stranger: World) -> None:
        self.as_admin("ALTER TABLE document ENABLE ROW LEVEL SECURITY")
        stranger.run(lambda: both_refuse(stranger, "row-level security hides rows of document.*BYPASSRLS"))
        self.as_admin("ALTER TABLE document DISABLE ROW LEVEL SECURITY")
        self.as_admin("ALTER TABLE granite_tombstone ENABLE ROW LEVEL SECURITY")
        with pytest.raises(CollectionRefusedError, match="granite_tombstone"):
            stranger.run(lambda: sweep(stranger))


class TestStores:
    def test_a_store_is_marked_once(self, world: World) -> None:
        def scenario() -> None:
            sweep(world)
            marker = world.store.get(MARKER_KEY)
            sweep(world)
            reconcile(world)
            assert world.store.get(MARKER_KEY) == marker
            assert len(json.loads(marker)["database"]) == 32

        world.run(scenario)

    def test_a_foreign_store_is_refused_until_it_is_adopted(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            world.store.put_bytes(MARKER_KEY, b'{"database": "production"}')
            both_refuse(world, r"belongs to another database \(production.*adopt\('main'\)")
            collector(world).adopt("main")
            assert b"production" not in world.store.get(MARKER_KEY)
            assert sweep(world).deleted == 1

        world.run(scenario)

    @pytest.mark.parametrize("url", ["psycopg", "asyncpg"], indirect=True)
    def test_a_restored_dump_of_the_owner_is_refused_until_it_adopts(self, world: World) -> None:
        """A staging database made from production's dump has its identity too, and maybe its settings."""

        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            sweep(world, dry_run=False)
            store(world, "b")
            bury(world, "b")
            before = world.store.get(MARKER_KEY)
            state = tables().state
            ours = state.c.name == "database"
            with world.engine.begin() as connection:
                here = connection.scalar(select(state.c.holder).where(ours))
                assert here is not None
                connection.execute(state.update().where(ours).values(holder="1/1"))
            both_refuse(world, r"is a copy, or was moved.*\(1/1, not \d+/\d+\).*adopt")
            collector(world).adopt("main")
            assert world.store.get(MARKER_KEY) != before
            with world.engine.connect() as connection:
                assert connection.scalar(select(state.c.holder).where(ours)) == here
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_another_database_that_marks_first_wins(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            world.backend.call("open_writer", lambda: world.store.put_bytes(MARKER_KEY, b'{"database": "production"}'))
            with pytest.raises(CollectionRefusedError, match="production"):
                sweep(world)
            assert world.stored() == {"a"}

        world.run(scenario)

    def test_a_marker_that_cannot_be_understood_keeps_the_store_out_of_the_run(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            world.store.put_bytes(MARKER_KEY, b"?")
            report = sweep(world)
            assert (report.deleted, report.failed, world.stored()) == (0, 1, {"a"})
            assert "cannot be understood" in report.problems[0].message
            assert reconcile(world).backends[0].skipped == "it cannot be asked in this run"

        world.run(scenario)

    def test_a_refused_run_gives_its_lease_back(self, world: World) -> None:
        def scenario() -> None:
            world.store.put_bytes(MARKER_KEY, b'{"database": "production"}')
            with pytest.raises(CollectionRefusedError):
                sweep(world)
            leases = [row for row in rows_of(world, tables().state) if row.name.startswith("lease:")]
            assert [row.holder for row in leases] == [None]

        world.run(scenario)

    @pytest.mark.parametrize("url", ["sqlite"], indirect=True)
    def test_a_backend_inside_another_is_refused(self, world: World, tmp_path: Path) -> None:
        inner, outer = LocalStorageBackend(tmp_path / "files" / "in"), LocalStorageBackend(tmp_path / "files")
        world.manager._backends = {"main": inner, "archive": outer}
        both_refuse(world, "'main' lies inside backend 'archive'")

    @pytest.mark.parametrize("url", ["sqlite"], indirect=True)
    def test_a_local_store_takes_a_marker_and_does_not_list_it(self, world: World, tmp_path: Path) -> None:
        local = LocalStorageBackend(tmp_path / "files")
        world.manager._backends = {"main": local}
        local.put_bytes("a", b"")
        assert reconcile(world).listed == 1
        assert local.exists(MARKER_KEY)


class TestEngines:
    def test_an_asynchronous_engine_wants_the_asynchronous_verb(self) -> None:
        ledger = SQLAlchemyLedger([create_async_engine("sqlite+aiosqlite://")], Base.metadata)
        manager = StorageManager({"main": MemoryStorageBackend()}, [])
        with pytest.raises(ConfigurationError, match="asweep"):
            Collector(manager, ledger).sweep()

    @pytest.mark.parametrize("url", ["sqlite", "psycopg", "asyncpg", "aiosqlite"], indirect=True)
    @pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
    def test_an_engines_own_isolation_does_not_matter(self, url: str, level: str) -> None:
        with make_world(url, isolation_level=level) as world:

            def scenario() -> None:
                kept = keep(world)
                store(world, "a", "b")
                bury(world, "a")
                bury(world, kept.location)
                assert reconcile(world).noted == 1
                report = sweep(world)
                assert (report.deleted, report.held) == (1, 1)
                with world.engine.connect() as connection:  # the pooled connection is as the engine wants it
                    connection.execute(insert(Document).values(id=uuid4(), title="new", pages=[]))
                    connection.rollback()
                    titles = connection.execute(select(Document.title)).scalars().all()
                    assert ("new" in titles) is (level == "AUTOCOMMIT")
                    assert level in ("AUTOCOMMIT", connection.get_isolation_level())

            world.run(scenario)

    def test_a_ledger_needs_engines_and_their_metadata(self) -> None:
        with pytest.raises(ConfigurationError, match="at least one engine"):
            SQLAlchemyLedger([], Base.metadata)
        with pytest.raises(ConfigurationError, match="metadata"):
            SQLAlchemyLedger([create_engine("sqlite://")])

    def test_every_database_is_swept_and_all_are_looked_in(self, tmp_path: Path) -> None:
        one, two = (self.database(tmp_path / f"{name}.db") for name in ("one", "two"))
        world, other = World(one), World(two)
        other.store, other.backend, other.manager = world.store, world.backend, world.manager
        kept = keep(other)
        bury(world, kept.location)
        store(world, "a", "b", "c")
        bury(world, "a")
        bury(other, "b")
        bury(world, "c")
        bury(other, "c", age=0)
        both = Collector(world.manager, SQLAlchemyLedger([one, two], Base.metadata))
        report = both.sweep()
        assert (report.deleted, report.held, report.younger) == (2, 1, 1)
        assert world.stored() == {kept.location, "c"}
        assert (world.tombstones(), other.tombstones()) == ([], ["c"])
        assert both.reconcile().noted == 0

    def test_a_database_without_files_needs_no_tables(self, tmp_path: Path) -> None:
        one, empty = self.database(tmp_path / "one.db"), create_engine("sqlite://")
        world, metadata = World(one), MetaData()
        Table("plain", metadata, Column("id", Integer, primary_key=True))
        store(world, "a")
        bury(world, "a")
        ledger = SQLAlchemyLedger([(one, Base.metadata), (empty, metadata)])
        with pytest.raises(CollectionRefusedError, match="knows no model with a file field"):
            Collector(world.manager, SQLAlchemyLedger([empty], metadata)).reconcile()
        assert Collector(world.manager, ledger).sweep().deleted == 1
        assert set(metadata.tables) == {"plain"}

    async def test_engines_of_both_colours_go_together(self, tmp_path: Path) -> None:
        one = self.database(tmp_path / "one.db")
        self.database(tmp_path / "two.db").dispose()
        two = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/two.db")
        world = World(one)
        store(world, "a")
        bury(world, "a")
        both = Collector(world.manager, SQLAlchemyLedger([one, two], Base.metadata))
        assert (await both.asweep()).deleted == 1
        await two.dispose()

    def test_two_metadata_on_one_engine_are_one_database(self, tmp_path: Path) -> None:
        engine = self.database(tmp_path / "one.db")
        metadata = MetaData()
        other = Table(
            "other", metadata, Column("id", Integer, primary_key=True), Column("scan", StoredObjectRefType("documents"))
        )
        tables_of(metadata)
        metadata.create_all(engine)
        world = World(engine)
        store(world, "a", "b")
        bury(world, "a")
        bury(world, "b")
        with engine.begin() as connection:
            connection.execute(insert(other).values(scan=StoredObjectRef("documents", "main", "a", 1)))
        ledger = SQLAlchemyLedger([(engine, Base.metadata), (engine, metadata)])
        assert Collector(world.manager, ledger).sweep().held == 1
        assert world.stored() == {"a"}
        with pytest.raises(CollectionRefusedError, match=r"other\.scan"):
            sweep(world)

    @pytest.mark.parametrize("url", ["psycopg", "asyncpg"], indirect=True)
    def test_tenants_are_schemas_of_their_own(self, world: World) -> None:
        def scenario() -> None:
            for tenant in ("red", "blue"):
                with world.engine.begin() as connection:
                    connection.execute(text(f"CREATE SCHEMA {tenant}"))
                Base.metadata.create_all(world.engine.execution_options(schema_translate_map={None: tenant}))
            red, blue = (
                world.any_engine.execution_options(schema_translate_map={None: tenant}) for tenant in ("red", "blue")
            )
            red_world = World(red)
            red_world.store, red_world.backend, red_world.manager = world.store, world.backend, world.manager
            kept = keep(red_world)
            bury(world, kept.location)
            store(world, "a")
            bury(red_world, "a")
            run = Collector(world.manager, SQLAlchemyLedger([world.any_engine, red, blue], Base.metadata))
            report = run.sweep()
            assert (report.held, report.deleted, world.stored()) == (1, 1, {kept.location})
            assert run.reconcile().noted == 0

        world.run(scenario)

    def database(self, path: Path) -> Engine:
        engine = create_engine(f"sqlite:///{path}")
        Base.metadata.create_all(engine)
        return engine


class TestInMemory:
    """An in-memory database has one connection, which others may be in a transaction on."""

    def test_it_is_swept_between_transactions_only(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        Base.metadata.create_all(engine)
        world = World(engine)
        store(world, "a")
        bury(world, "a")
        with world.session() as session:
            session.add(Document(title="open"))
            session.flush()
            report = sweep(world)
            assert report.skipped is not None
            assert "in a transaction" in report.skipped
            assert reconcile(world).skipped is not None
            session.commit()
        assert sweep(world).deleted == 1
        with world.session() as session:
            assert session.scalars(select(Document.title)).all() == ["open"]

    async def test_no_statement_of_another_task_comes_between(self) -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        world = World(engine)
        one = collector(world)
        done = asyncio.Event()
        swept = 0

        async def write(number: int) -> None:
            async with engine.connect() as connection:
                await connection.execute(insert(Document).values(id=uuid4(), title=f"t{number}", pages=[]))
                await asyncio.sleep(0)
                await connection.rollback() if number % 2 else await connection.commit()

        async def sweeping() -> None:
            nonlocal swept
            while not done.is_set():
                swept += (await one.asweep()).skipped is None
                await asyncio.sleep(0)

        task = asyncio.create_task(sweeping())
        for number in range(100):
            await write(number)
            await asyncio.sleep(0.001)
        done.set()
        await task
        async with engine.connect() as connection:
            titles = set((await connection.execute(select(Document.title))).scalars())
        assert titles == {f"t{number}" for number in range(0, 100, 2)}
        assert swept > 0
        await engine.dispose()


class TestWithoutTables:
    @pytest.fixture
    def bare(self, tmp_path: Path) -> Iterator[tuple[Engine, type[Any], StorageManager, MemoryStorageBackend]]:
        class Bare(DeclarativeBase):
            metadata = MetaData(info={OPT_OUT_KEY: False})

        class Paper(Bare):
            __tablename__ = "paper"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("papers")

        engine = create_engine(f"sqlite:///{tmp_path}/bare.db")
        Bare.metadata.create_all(engine)
        backend = MemoryStorageBackend()
        manager = StorageManager({"main": backend}, [StoragePolicy("papers", "main")], grace=GRACE)
        manager.register(Bare)
        yield engine, Paper, manager, backend
        engine.dispose()

    def test_the_reconcile_keeps_its_notes_in_memory_for_a_grace(self, bare: Any) -> None:
        engine, paper, manager, backend = bare
        backend.put_bytes("lost", b"")
        with Session(engine) as session:
            kept = manager.put_bytes("papers", content=b"x")
            session.add(paper(file=kept))
            session.commit()
        one = Collector(manager, SQLAlchemyLedger([engine], paper.metadata))
        assert one.reconcile().noted == 1
        assert one.reconcile().noted == 1
        assert one.sweep().examined == 0
        manager.__dict__["grace"] = manager.grace / 10**9
        report = one.sweep()
        assert (report.deleted, set(backend.iter_locations())) == (1, {kept.location})
        assert one.sweep().examined == 0

    def test_a_note_that_was_ever_seen_held_is_dropped(self, bare: Any) -> None:
        engine, paper, manager, _ = bare
        ref = manager.put_bytes("papers", content=b"x")
        one = Collector(manager, SQLAlchemyLedger([engine], paper.metadata))
        manager.note([ref])
        one.reconcile()
        with Session(engine) as session:
            session.add(paper(file=ref))
            session.commit()
        assert one.sweep().held == 1
        assert one._memory == {}

    def test_a_failing_delete_is_retried_later(self, bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, paper, manager, backend = bare
        backend.put_bytes("lost", b"")
        one = Collector(manager, SQLAlchemyLedger([engine], paper.metadata))
        one.reconcile()
        manager.__dict__["grace"] = manager.grace / 10**9
        with monkeypatch.context() as patch:
            patch.setattr(backend, "delete", lambda location: (_ for _ in ()).throw(OSError("no")))
            assert one.sweep().failed == 1
        assert one.sweep().examined == 0
        assert one._memory["lost"].attempts == 1

    def test_a_share_too_large_is_forgotten(self, bare: Any) -> None:
        engine, paper, manager, backend = bare
        for index in range(101):
            backend.put_bytes(f"o{index}", b"")
        one = Collector(manager, SQLAlchemyLedger([engine], paper.metadata))
        with pytest.raises(CollectionRefusedError):
            one.reconcile()
        assert one._memory == {}

    def test_a_store_that_belongs_to_a_database_is_refused(self, bare: Any) -> None:
        engine, paper, manager, backend = bare
        backend.put_bytes(MARKER_KEY, b'{"database": "production"}')
        with pytest.raises(CollectionRefusedError, match="production"):
            Collector(manager, SQLAlchemyLedger([engine], paper.metadata)).sweep()
