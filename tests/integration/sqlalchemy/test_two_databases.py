"""A session, and a sweep, over two databases: nothing is seen of both as of one moment, and no file is lost by that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select, update
from sqlalchemy.orm import Session

from granite_core import StoredObjectRef
from granite_core.gc import Collector, SweepReport
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, db_now, tables_of
from tests.integration.sqlalchemy.collecting import GRACE_MS, MINUTE
from tests.integration.sqlalchemy.test_engines import Here, Split, There
from tests.integration.sqlalchemy.world import QUARTER, World
from tests.support.postgres import PostgresServer


class Both:
    """Two PostgreSQL databases; sessions have one model in each."""

    def __init__(self, urls: tuple[str, str]) -> None:
        self.here, self.there = self.engines = tuple(map(create_engine, urls))
        tables = tables_of(Split.metadata)
        assert tables is not None
        self.tables = tables
        for engine in self.engines:
            Split.metadata.create_all(engine)
        self.world = World(self.here, base=Split)

    def session(self) -> Session:
        return Session(binds={Here: self.here, There: self.there}, expire_on_commit=False)

    def keep(self, model: Any) -> StoredObjectRef:
        """A committed row that holds a file of long ago."""
        with self.session() as session:
            session.add(model(file=self.world.stage()))
            session.commit()
            ref: StoredObjectRef = session.scalars(select(model)).one().file
        self.world.later(QUARTER)
        return ref

    def bury(self, engine: Engine, ref: StoredObjectRef) -> None:
        """An old tombstone."""
        row = {"location": ref.location, "backend": "main", "storage_key": "documents"}
        with engine.begin() as connection:
            values = self.tables.tombstone.insert().values(written_at=db_now() - GRACE_MS - MINUTE, **row)
            connection.execute(values)

    def sweep(self) -> SweepReport:
        """One that holds the lease, whoever had it before."""
        t = self.tables.state
        with self.here.begin() as connection:
            connection.execute(t.update().where(t.c.name == "lease:sweep").values(expires_at=0))
        report = Collector(self.world.manager, SQLAlchemyLedger(list(self.engines), Split.metadata)).sweep()
        assert report.skipped is None
        return report

    def forget_claims(self) -> None:
        with self.here.begin() as connection:
            connection.execute(self.tables.tombstone.update().values(retry_at=0))

    def check(self, model: Any) -> None:
        with self.session() as session:
            self.world.manager.verify(session.scalars(select(model)).one().file)


@pytest.fixture
def both(postgres_server: PostgresServer) -> Iterator[Both]:
    with postgres_server.database() as here, postgres_server.database() as there:
        found = Both((here.sync_url, there.sync_url))
        yield found
        for engine in found.engines:
            engine.dispose()


@contextmanager
def once(engine: Engine, name: str, act: Callable[[], object], sent: str = "") -> Iterator[None]:
    """Do something at the first event of an engine, or the first such statement."""
    done: list[bool] = []

    def watch(connection: Any, *what: Any) -> None:
        if not done and (not sent or sent in what[1]):
            done.append(True)
            act()

    event.listen(engine, name, watch)
    try:
        yield
    finally:
        event.remove(engine, name, watch)
    assert done


def test_a_file_moves_while_an_old_tombstone_waits_where_it_goes(both: Both) -> None:
    ref = both.keep(Here)
    both.bury(both.there, ref)
    with both.session() as session:
        assert session.scalars(select(Here)).one().file == ref
        session.add(There(file=ref))
        session.flush()
        session.connection(bind_arguments={"mapper": Here}).execute(update(Here.__table__).values(file=None))
        with once(both.there, "commit", both.sweep):  # what is here is committed already
            session.commit()
    both.check(There)


def test_a_file_moves_between_the_looks_of_a_sweep_that_was_overtaken(both: Both) -> None:
    ref = both.keep(There)
    both.bury(both.here, ref)

    def overtake() -> None:
        both.forget_claims()  # they are over, like the lease
        assert both.sweep().held == 1  # and with that the tombstone has gone
        with both.session() as session:
            session.add(Here(file=ref))
            session.flush()
            session.connection(bind_arguments={"mapper": There}).execute(update(There.__table__).values(file=None))
            session.commit()

    with once(both.there, "before_cursor_execute", overtake, sent="granite_tombstone.location IN"):
        assert both.sweep().deleted == 0
    both.check(Here)
