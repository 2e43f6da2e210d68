"""The network between us and PostgreSQL misbehaves: each operation, at each of its rounds, in each way of the table.

A transaction is done or not done, whatever its author was told; where it was the COMMIT that broke, what is true is
what reached the server. Every committed row's files are whole; what no row holds goes by a reconcile, the grace and a
sweep; and the same engine serves the next transaction.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from granite_core import StorageManager, unsaved
from granite_core.errors import StorageError
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, tables_of
from tests.integration.sqlalchemy.world import Base, Document, World
from tests.support.many import until
from tests.support.network import DEEP, Tally
from tests.support.postgres import Database, PostgresServer
from tests.support.proxy.postgres import PostgresProxy, Round
from tests.support.proxy.postgres_faults import POSTGRES_FAULTS, DatabaseFault

Rows = dict[str, tuple[str | None, tuple[str, ...]]]
"""Committed rows: by title the SHA-256 of the file and of the pages."""

TYPED = (StorageError, SQLAlchemyError, OSError)
"""A time-out of asyncpg's is Python's own TimeoutError, which is an OSError; SQLAlchemy lets it pass."""
QUICK, PATIENT = 0.5, 30.0
"""Seconds until asyncpg gives a statement up; psycopg waits for as long as the connection stands."""


class Scene:
    """A database, the way to it through the proxy, and the straight one."""

    def __init__(self, database: Database, driver: str) -> None:
        self.driver = driver
        self.proxy = PostgresProxy(database.server.host, database.server.port)
        self.name = database.name
        self.straight: Engine = create_engine(database.sync_url)
        Base.metadata.create_all(self.straight)
        self.rounds: dict[str, list[str]] = {}

    def close(self) -> None:
        self.proxy.__exit__(None, None, None)
        self.straight.dispose()

    def world(self, patience: float = PATIENT) -> World:
        """A world on an empty database, whose engine goes through the proxy."""
        names = ", ".join(table.name for table in Base.metadata.sorted_tables if table.name != "granite_column")
        with self.straight.begin() as connection:
            connection.execute(text(f"TRUNCATE {names}"))
        url = f"postgresql+{self.driver}://postgres@127.0.0.1:{self.proxy.port}/{self.name}"
        if self.driver == "asyncpg":
            world = World(create_async_engine(url, connect_args={"command_timeout": patience, "timeout": PATIENT}))
        else:
            world = World(create_engine(url, connect_args={"connect_timeout": int(PATIENT)}))
        return world

    def rows(self, manager: StorageManager) -> Rows:
        """What is committed; every file of it is whole."""
        found: Rows = {}
        with Session(self.straight) as session:
            for each in session.scalars(select(Document)):
                for ref in (each.file, *each.pages):
                    if ref is not None:
                        manager.verify(ref)
                found[each.title or ""] = (each.file and each.file.checksum, tuple(ref.checksum for ref in each.pages))
        return found

    def collector(self, world: World, engine: Any, **config: Any) -> Collector:
        return Collector(
            world.manager, SQLAlchemyLedger([engine], Base.metadata), GCConfig(always_allowed=10**6, **config)
        )

    def age(self) -> None:
        """Let the grace pass for every tombstone, and every lease run out."""
        tables = tables_of(Base.metadata)
        assert tables is not None
        with self.straight.begin() as connection:
            connection.execute(tables.tombstone.update().values(written_at=0, retry_at=0))
            connection.execute(tables.state.update().values(expires_at=0))


# -------------------------------------------------------------------------------------------------- the operations
Act = Callable[[Scene, World], object]


@dataclass(frozen=True)
class Operation:
    """What is done through the proxy.

    Args:
        name: Its name.
        act: Does it.
        changes: What it makes of the rows; nothing where absent.
    """

    name: str
    act: Act
    changes: Callable[[Rows], Rows] | None = None

    @property
    def writes(self) -> bool:
        return self.changes is not None


def named(session: Session, title: str) -> Document:
    return session.scalars(select(Document).where(Document.title == title)).one()


def add(session: Session, title: str) -> None:
    session.add(Document(title=title, file=unsaved(title.encode()), pages=[unsaved(b"page")]))


def attach(scene: Scene, world: World) -> None:
    with world.session() as session:
        add(session, "new")
        session.commit()


def replace(scene: Scene, world: World) -> None:
    with world.session() as session:
        named(session, "one").file = unsaved(b"two")
        session.commit()


def remove(scene: Scene, world: World) -> None:
    with world.session() as session:
        session.delete(named(session, "two"))
        session.commit()


def change_list(scene: Scene, world: World) -> None:
    with world.session() as session:
        document = named(session, "one")
        document.pages.pop()
        document.pages.append(unsaved(b"two"))
        session.commit()


def share(scene: Scene, world: World) -> None:
    with world.session() as session:
        session.add(Document(title="new", file=named(session, "one").file))
        session.commit()


def use_savepoints(scene: Scene, world: World) -> None:
    with world.session() as session:
        with session.begin_nested():
            named(session, "one").file = unsaved(b"two")
        undone = session.begin_nested()
        add(session, "never")
        session.flush()
        undone.rollback()
        session.commit()


def roll_back(scene: Scene, world: World) -> None:
    with world.session() as session:
        add(session, "never")
        session.flush()
        session.rollback()


def remove_by_statement(scene: Scene, world: World) -> None:
    with world.session() as session:
        session.execute(delete(Document).where(Document.title == "two"))
        session.commit()


def sweep(scene: Scene, world: World) -> None:
    scene.collector(world, world.any_engine).sweep()


def sweep_and_renew_the_lease(scene: Scene, world: World) -> None:
    scene.collector(world, world.any_engine, lease_for=timedelta(milliseconds=3), batch_size=1).sweep()


def reconcile(scene: Scene, world: World) -> None:
    scene.collector(world, world.any_engine, page_size=3).reconcile()


def verify(scene: Scene, world: World) -> None:
    report = scene.collector(world, world.any_engine, page_size=1).verify()
    assert report.found == {}


ONE, TWO, PAGE, NEW = (f"sha256:{hashlib.sha256(each).hexdigest()}" for each in (b"one", b"two", b"page", b"new"))

OPERATIONS = (
    Operation("attach", attach, lambda rows: {**rows, "new": (NEW, (PAGE,))}),
    Operation("replace", replace, lambda rows: {**rows, "one": (TWO, (PAGE,))}),
    Operation("delete", remove, lambda rows: {"one": rows["one"]}),
    Operation("change a list", change_list, lambda rows: {**rows, "one": (ONE, (TWO,))}),
    Operation("share", share, lambda rows: {**rows, "new": (ONE, ())}),
    Operation("savepoints", use_savepoints, lambda rows: {**rows, "one": (TWO, (PAGE,))}),
    Operation("roll back", roll_back),
    Operation("delete by statement", remove_by_statement, lambda rows: {"one": rows["one"]}),
    Operation("sweep", sweep),
    Operation("sweep and renew the lease", sweep_and_renew_the_lease),
    Operation("reconcile", reconcile),
    Operation("verify", verify),
)


def prepare(scene: Scene, world: World) -> None:
    """Two rows with files, one object whose tombstone is due, and one of which nobody knows."""
    with Session(scene.straight) as session:
        for title in ("one", "two", "gone"):
            add(session, title)
        session.commit()
        session.delete(named(session, "gone"))
        session.commit()
    scene.age()
    world.manager.take_notes()
    world.manager.put_bytes("documents", content=b"unknown")


# --------------------------------------------------------------------------------------------------------- the table
@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally("The network, PostgreSQL", record_property)


@pytest.fixture(scope="module", params=["psycopg", "asyncpg"])
def scene(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[Scene]:
    with postgres_server.database() as database:
        scene = Scene(database, request.param)
        yield scene
        scene.close()


def rows() -> Iterator[Any]:
    """The table: all of it, or a fifth in turn."""
    for number, operation in enumerate(OPERATIONS):
        for turn, fault in enumerate(POSTGRES_FAULTS):
            if DEEP or (number + turn) % 5 == 0:
                yield pytest.param(operation, fault, id=f"{operation.name}-{fault.name}")


@pytest.mark.parametrize(("operation", "fault"), list(rows()))
def test_every_operation_at_every_round(operation: Operation, fault: DatabaseFault, scene: Scene, tally: Tally) -> None:
    """Deep, each fault befalls each round; else the COMMIT of what writers do, and one of the others in turn."""
    if fault.silent and scene.driver == "psycopg":
        pytest.skip("psycopg has no time-out of its own for a statement")
    rounds = rounds_of(operation, scene)
    turn = OPERATIONS.index(operation) + 5 * POSTGRES_FAULTS.index(fault)
    for at, sql in enumerate(rounds, 1):
        if DEEP or at == turn % len(rounds) + 1 or (operation.writes and is_commit(sql)):
            try:
                befall(operation, fault, scene, tally, at)
            except BaseException as error:
                error.add_note(f"round {at} of {len(rounds)}: {sql!r}")
                raise


def test_a_commit_that_is_held_up_is_none_where_the_server_waits_no_longer(scene: Scene) -> None:
    """With this setting a COMMIT cannot take longer than the grace allows, whatever the network does."""
    world = scene.world()
    prepare(scene, world)
    before = scene.rows(world.manager)

    def held_up(asked: Round) -> None:
        time.sleep(1.5)
        asked.reply(asked.forward())

    def run() -> None:
        with world.session() as session:
            session.execute(text("SET idle_in_transaction_session_timeout = 300"))
            add(session, "new")
            session.flush()
            scene.proxy.inject(held_up, matching=lambda asked: asked.is_commit)
            with pytest.raises(TYPED):
                session.commit()

    world.run(run)
    world.engine.dispose(close=not world.is_async)
    scene.proxy.heal()
    assert scene.rows(world.manager) == before
    check_laws(scene, world)


def is_commit(sql: str) -> bool:
    return sql.strip(" ;").upper() == "COMMIT"


def rounds_of(operation: Operation, scene: Scene) -> list[str]:
    """What is sent when nothing goes wrong."""
    if operation.name not in scene.rounds:
        world = scene.world()
        prepare(scene, world)
        marks: list[int] = []

        def run() -> None:
            warm(world)
            marks.append(len(scene.proxy.rounds))
            operation.act(scene, world)
            marks.append(len(scene.proxy.rounds))

        world.run(run)
        world.engine.dispose(close=not world.is_async)
        scene.rounds[operation.name] = scene.proxy.rounds[slice(*marks)]
    return scene.rounds[operation.name]


def warm(world: World) -> None:
    """Open the pool's connection: what is counted begins with it."""
    with world.engine.connect() as connection:
        connection.execute(select(1))


def answers(world: World) -> bool:
    """Whether the database does within the engine's patience, which a busy machine may try."""
    try:
        warm(world)
    except TYPED:
        return False
    return True


def befall(operation: Operation, fault: DatabaseFault, scene: Scene, tally: Tally, at: int) -> None:
    world = scene.world(QUICK if fault.silent else PATIENT)
    prepare(scene, world)
    before = scene.rows(world.manager)
    after = operation.changes(before) if operation.changes is not None else before
    outcomes: list[BaseException | None] = []
    hits: list[Round] = []

    def run() -> None:
        until(lambda: answers(world))
        found = scene.proxy.inject(fault.befall, at=at)
        began = time.monotonic()
        try:
            operation.act(scene, world)
            outcomes.append(None)
        except TYPED as error:
            outcomes.append(error)
        finally:
            hits.extend(found)
            scene.proxy.heal()
        assert time.monotonic() - began < 60, "it took longer than is configured"
        committed = scene.rows(world.manager)
        if outcomes[0] is None:
            assert committed == after, "it was reported as done"
        elif hits and hits[0].is_commit and not fault.silent:
            assert committed == (after if fault.done else before), "what reached the server is what is true"
        else:
            assert committed in (before, after), "done by halves"
        if fault.harmless:
            assert outcomes[0] is None
        if fault.silent:  # the same engine answers again; a transaction could be too much for its patience
            until(lambda: answers(world))
            return
        # The next transaction on the same engine.
        with world.session() as session:
            add(session, "again")
            session.commit()
        assert scene.rows(world.manager).keys() == {*committed, "again"}

    world.run(run)
    world.engine.dispose(close=not world.is_async)
    check_laws(scene, world)
    if hits:
        tally.count(outcomes[0])


def check_laws(scene: Scene, world: World) -> None:
    """Collect, straight: what is left is what rows hold."""
    collector = scene.collector(world, scene.straight)
    scene.age()
    collector.reconcile()
    scene.age()
    collector.sweep()
    held = set()
    with Session(scene.straight) as session:
        for each in session.scalars(select(Document)):
            held.update(ref.location for ref in (each.file, *each.pages) if ref is not None)
    scene.rows(world.manager)
    assert world.stored() - {".granite/store"} == held
