"""What only shows when a sweep comes at the worst moment: each way to lose a file that the model of the protocol found.

The scene is always the same: a committed row holds a file that was staged long ago, an old tombstone of the file waits
for the sweep, and somebody shares or moves the file while somebody else lets it go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from granite_core import StaleRefError, StoredObjectRef
from tests.integration.sqlalchemy.collecting import bury, keep, sweep
from tests.integration.sqlalchemy.world import QUARTER, Base, Document, World, make_world
from tests.support.postgres import Database

SOON = 0.2
"""So many seconds others wait for a lock."""

ISOLATION = [None, "AUTOCOMMIT"]


@pytest.fixture(params=["psycopg", "asyncpg"])
def postgres(request: pytest.FixtureRequest) -> Iterator[World]:
    """Where rows are locked one by one."""
    database = request.getfixturevalue("postgres_database")
    with make_world(database.sync_url if request.param == "psycopg" else database.async_url) as world:
        yield world


def impatient(url: str, isolation: str | None) -> Any:
    """A world whose users give up on locks soon."""
    options: dict[str, Any] = {} if isolation is None else {"isolation_level": isolation}
    if "sqlite" in url:
        options["connect_args"] = {"timeout": SOON}
    return make_world(url, **options)


def given(world: World, *, waits: bool = True) -> StoredObjectRef:
    """A row that holds a file of long ago; an old tombstone of it waits."""
    kept = keep(world, b"shared", title="first")
    world.later(QUARTER)
    if waits:
        bury(world, kept.location)
    return kept


def first(session: Session) -> Document:
    return session.scalars(select(Document).where(Document.title == "first")).one()


def let_go(world: World, **cleared: Any) -> None:
    """Somebody clears the row past the flush, so that no tombstone tells of it; or is kept from it."""
    with suppress(DBAPIError), world.session() as other:
        if world.engine.dialect.name == "postgresql":
            other.execute(text(f"SET lock_timeout = '{int(SOON * 1000)}ms'"))
        other.execute(update(Document).where(Document.title == "first").values(cleared or {"file": None}))
        other.commit()
    with suppress(DBAPIError):
        sweep(world)


@contextmanager
def before(world: World, statement: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something once, right before a statement is sent."""
    done: list[bool] = []

    def watch(connection: Any, cursor: Any, sent: str, *_: Any) -> None:
        # A statement that changes no row is only there to be a write: the flush has not looked yet.
        if sent.startswith(statement) and "WHERE 0 = 1" not in sent and not done:
            done.append(True)
            act()

    event.listen(world.engine, "before_cursor_execute", watch)
    try:
        yield
    finally:
        event.remove(world.engine, "before_cursor_execute", watch)
    assert done, f"{statement} was never sent"


def check_files(world: World, title: str | None = None) -> None:
    """Whatever rows hold is there; the row of that title is."""
    refs = world.rows()
    for ref in refs:
        world.manager.verify(ref)
    if title is not None:
        with world.session() as session:
            row = session.scalars(select(Document).where(Document.title == title)).one()
            assert row.file is not None or row.pages


class TestASharedFileWhileItsRowLetsItGo:
    @pytest.mark.parametrize("isolation", ISOLATION)
    def test_between_the_look_up_and_the_row(self, url: str, isolation: str | None) -> None:
        with impatient(url, isolation) as world:

            def scenario() -> None:
                kept = given(world)
                with world.session() as session:
                    session.add(Document(title="second", file=kept))
                    with before(world, "INSERT INTO document", lambda: let_go(world)):
                        session.commit()
                check_files(world, "second")

            world.run(scenario)

    def test_with_the_driver_that_begins_late(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path}/late.sqlite3", connect_args={"timeout": SOON})
        Base.metadata.create_all(engine)
        world = World(engine)
        kept = given(world)
        with world.session() as session:
            session.add(Document(title="second", file=kept))
            with before(world, "INSERT INTO document", lambda: let_go(world)):
                session.commit()
        check_files(world, "second")
        engine.dispose()

    @pytest.mark.parametrize("isolation", ISOLATION)
    def test_between_the_look_up_and_what_makes_it_last(self, url: str, isolation: str | None) -> None:
        with impatient(url, isolation) as world:
            postgres = world.engine.dialect.name == "postgresql"

            def scenario() -> None:
                kept = given(world)
                with world.session() as session:
                    session.add(Document(title="second", file=kept))
                    with before(world, "INSERT INTO granite_tombstone", lambda: let_go(world)):
                        refused: Any = pytest.raises(StaleRefError) if postgres or isolation else suppress(DBAPIError)
                        with refused:
                            session.commit()
                check_files(world)

            world.run(scenario)

    def test_in_a_list(self, postgres: World) -> None:
        def scenario() -> None:
            with postgres.session() as session:
                session.add(Document(title="first", pages=[kept := postgres.stage(b"page")]))
                session.commit()
            postgres.later(QUARTER)
            bury(postgres, kept.location)
            with postgres.session() as session:
                session.add(Document(title="second", pages=[kept]))
                with before(postgres, "INSERT INTO document", lambda: let_go(postgres, pages=[])):
                    session.commit()
            check_files(postgres, "second")

        postgres.run(scenario)

    @pytest.mark.parametrize("field", ["file", "pages"])
    def test_that_is_under_way_when_it_is_looked_up(
        self, postgres: World, postgres_database: Database, field: str
    ) -> None:
        """The look-up waits for the row, and then goes by what the row holds by then."""
        somebody = create_engine(postgres_database.sync_url)

        def commit_when_waited_for(connection: Connection) -> None:
            waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            deadline = time.monotonic() + 30
            with somebody.connect() as watch:
                while not watch.scalar(waiting) and time.monotonic() < deadline:
                    watch.rollback()
                    time.sleep(0.02)
            connection.commit()

        def scenario() -> None:
            with postgres.session() as session:
                kept = postgres.stage(b"shared")
                session.add(Document(title="first", **{field: kept if field == "file" else [kept]}))
                session.commit()
            postgres.later(QUARTER)
            bury(postgres, kept.location)
            with somebody.connect() as connection, postgres.session() as session:
                document: Any = Document.__table__
                connection.execute(update(document).values({field: None if field == "file" else []}))
                other = threading.Thread(target=commit_when_waited_for, args=(connection,))
                other.start()
                session.add(Document(title="second", **{field: kept if field == "file" else [kept]}))
                with pytest.raises(StaleRefError, match="no row holds it"):
                    session.commit()
                other.join()
            check_files(postgres)

        postgres.run(scenario)
        somebody.dispose()

    @pytest.mark.parametrize("isolation", ISOLATION)
    def test_when_it_is_moved(self, url: str, isolation: str | None) -> None:
        with impatient(url, isolation) as world:

            def scenario() -> None:
                kept = given(world)
                with world.session() as session:
                    session.add(Document(title="second", file=world.stage(b"other")))
                    session.commit()
                    second = session.scalars(select(Document).where(Document.title == "second")).one()
                    first(session).file, second.file = None, kept
                    with before(world, "UPDATE document", lambda: let_go(world)):
                        session.commit()
                check_files(world, "second")

            world.run(scenario)


class TestKnowledgeThatIsLostAgain:
    def test_an_undone_savepoint_takes_what_was_released_in_it(self, postgres: World) -> None:
        def scenario() -> None:
            kept = given(postgres)
            with postgres.session() as session:
                savepoint = session.begin_nested()
                first(session).file = None
                session.flush()
                savepoint.rollback()
                let_go(postgres)
                session.add(Document(title="second", file=kept))
                with pytest.raises(StaleRefError, match="no row holds it"):
                    session.commit()
            check_files(postgres)

        postgres.run(scenario)

    def test_an_undone_savepoint_takes_what_was_looked_up_in_it(self, postgres: World) -> None:
        def scenario() -> None:
            kept = given(postgres)
            with postgres.session() as session:
                savepoint = session.begin_nested()
                session.add(Document(title="undone", file=kept))
                session.flush()
                savepoint.rollback()
                let_go(postgres)
                session.add(Document(title="second", file=kept))
                with pytest.raises(StaleRefError, match="no row holds it"):
                    session.commit()
            check_files(postgres)

        postgres.run(scenario)

    def test_a_kept_savepoint_keeps_it(self, postgres: World) -> None:
        def scenario() -> None:
            kept = given(postgres)
            with postgres.session() as session:
                with session.begin_nested(), session.begin_nested():
                    first(session).file = None
                    session.flush()
                let_go(postgres)
                session.add(Document(title="second", file=kept))
                session.commit()
            check_files(postgres, "second")

        postgres.run(scenario)

    def test_what_was_staged_or_learned_before_outlives_an_undone_savepoint(self, postgres: World) -> None:
        def scenario() -> None:
            kept = given(postgres)
            with postgres.session() as session:
                first(session).file = None
                session.flush()
                with suppress(RuntimeError), session.begin_nested():
                    session.add(Document(title="undone", file=postgres.stage(), cover=kept))
                    session.flush()
                    raise RuntimeError
                session.add(Document(title="second", file=kept))
                session.commit()
            check_files(postgres, "second")

        postgres.run(scenario)

    def test_what_a_row_let_go_under_autocommit_is_looked_up_again(self, url: str) -> None:
        with impatient(url, "AUTOCOMMIT") as world:

            def scenario() -> None:
                kept = given(world)
                with world.session() as session:
                    first(session).file = None
                    with before(world, "INSERT INTO granite_tombstone", lambda: sweep(world)):
                        session.flush()
                    session.add(Document(title="second", file=kept))
                    with pytest.raises(StaleRefError, match="no row holds it"):
                        session.commit()
                check_files(world)

            world.run(scenario)

    def test_what_a_row_let_go_in_a_transaction_is_not(self, world: World) -> None:
        def scenario() -> None:
            kept = given(world)
            with world.session() as session:
                first(session).file = None
                session.flush()
                session.add(Document(title="second", file=kept))
                session.commit()
            check_files(world, "second")

        world.run(scenario)


class TestATransactionThatIsOlderThanItsSession:
    @pytest.fixture
    def pass_time(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
        """Let a quarter of the grace pass, for this process's clocks."""
        real, offset = time.monotonic, [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: real() + offset[0])

        def run(world: World) -> None:
            world.later(QUARTER)
            offset[0] += QUARTER.total_seconds()

        return run

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_what_it_shows_may_be_as_old_as_it_is(
        self, postgres: World, level: Any, pass_time: Callable[[World], None]
    ) -> None:
        def scenario() -> None:
            kept = given(postgres, waits=False)
            with postgres.engine.connect().execution_options(isolation_level=level) as connection:
                outer = connection.begin()
                connection.execute(select(Document.title))  # from here on it sees the database as it is now
                with postgres.session() as other:
                    first(other).file = None
                    other.commit()
                pass_time(postgres)
                with Session(connection) as session:
                    session.add(Document(title="second", file=kept))
                    with pytest.raises(StaleRefError, match="the transaction that looked it up is too old"):
                        session.commit()
                outer.rollback()
            check_files(postgres)

        postgres.run(scenario)

    def test_on_sqlite_too(self, tmp_path: Path, pass_time: Callable[[World], None]) -> None:
        with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
            kept = given(world, waits=False)
            with world.engine.connect() as connection, connection.begin():
                pass_time(world)
                with Session(connection) as session:
                    session.add(Document(title="second", file=kept))
                    with pytest.raises(StaleRefError, match="the transaction that looked it up is too old"):
                        session.commit()

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_the_next_transaction_of_the_connection_begins_anew(
        self, url: str, end: str, pass_time: Callable[[World], None]
    ) -> None:
        with make_world(url) as world:

            def scenario() -> None:
                kept = given(world, waits=False)
                with world.engine.connect() as connection:
                    connection.execute(select(Document.title))
                    pass_time(world)
                    getattr(connection, end)()
                    outer = connection.begin()
                    with Session(connection) as session:
                        session.add(Document(title="second", file=kept))
                        session.commit()
                    outer.commit()
                check_files(world, "second")

            world.run(scenario)

    def test_under_autocommit_there_is_no_transaction_to_be_old(
        self, url: str, pass_time: Callable[[World], None]
    ) -> None:
        with make_world(url, isolation_level="AUTOCOMMIT") as world:

            def scenario() -> None:
                kept = given(world, waits=False)
                with world.engine.connect() as connection:
                    connection.execute(select(Document.title))
                    pass_time(world)
                    with Session(connection) as session:
                        session.add(Document(title="second", file=kept))
                        session.commit()
                check_files(world, "second")

            world.run(scenario)


def test_whether_a_tombstone_waits_is_asked_in_the_look_up_itself(world: World) -> None:
    sent: list[str] = []

    def scenario() -> None:
        kept = given(world, waits=False)
        event.listen(world.engine, "before_cursor_execute", lambda c, cu, s, *_: sent.append(" ".join(s.split())))
        for title in ("second", "third"):
            sent.clear()
            with world.session() as session:
                session.add(Document(title=title, file=kept))
                session.commit()
        assert [each for each in sent if each.startswith("INSERT")] == sent[-1:]
        looks = [each for each in sent if each.startswith("SELECT") and "->> 'location'" in each]
        assert 1 <= len(looks) <= 4  # one for each single column, until it is found
        assert all("granite_tombstone" in each for each in looks)
        assert [each for each in sent if "granite_tombstone" in each] == looks
        assert [each for each in sent if "FOR " in each] == []

    world.run(scenario)
