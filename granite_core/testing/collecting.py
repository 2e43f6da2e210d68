"""Collection in tests: at once, as if the grace had passed, also inside a transaction that is never committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, MetaData, Update, update
from sqlalchemy.orm import Session

from granite_core.errors import ConfigurationError
from granite_core.gc import Collector, SweepReport
from granite_core.gc.marker import MARKER_KEY, read_marker, write_marker
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from granite_core.integrations.sqlalchemy._database import Database
from granite_core.integrations.sqlalchemy._transaction import fields_by_class
from granite_core.manager import StorageManager
from granite_core.uploads.settings import milliseconds

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

__all__ = ["asweep_now", "sweep_now"]

T = TypeVar("T")

WAIT: Final = timedelta(seconds=10)
"""For how long to wait for the lease: the application under test may be collecting."""


def sweep_now(
    manager: StorageManager,
    where: Session | Connection | Engine,
    metadata: Any = None,
    *,
    after: timedelta | None = None,
) -> SweepReport:
    """Collect as if the grace had passed since everything that happened: reconcile, wait, sweep, without the wait.

    What no row holds is gone afterwards, whether something let it go or nobody ever attached it. This is the
    collector that works in production. Only for stores in memory: elsewhere a young file of somebody else's could go.

    Args:
        manager: The manager, with stores in memory.
        where: Where the rows are. With a session, which is flushed first, or a connection, the collector works inside
            its transaction, and sees what is not committed; with an engine it uses connections of its own.
        metadata: The declarative base, or ``MetaData``, of the models, or several; where absent, of every mapped class
            whose files are this manager's.
        after: How long everything has been waiting; the grace where absent. Longer, to see a policy's retention end.

    Returns:
        What the sweep did.

    Raises:
        AssertionError: The collector could not work.
        ConfigurationError: A store is not in memory, or no model with files is known.
        CollectionRefusedError: Not every row can be seen.
    """
    collecting = _Collecting(manager, metadata, after)
    if isinstance(where, Engine):
        return collecting.run(SQLAlchemyLedger([(where, each) for each in collecting.metadata]))
    if isinstance(where, Session):
        where.flush()
        where = where.connection()
    with _unmarked(manager):
        return collecting.run(_JoinedLedger(where, collecting.metadata))


async def asweep_now(
    manager: StorageManager,
    where: AsyncSession | AsyncConnection | AsyncEngine,
    metadata: Any = None,
    *,
    after: timedelta | None = None,
) -> SweepReport:
    """Do as ``sweep_now`` does, for asynchronous sessions, connections and engines."""
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.util import greenlet_spawn

    if isinstance(where, AsyncEngine):
        return await greenlet_spawn(sweep_now, manager, where.sync_engine, metadata, after=after)
    return await where.run_sync(lambda inner: sweep_now(manager, inner, metadata, after=after))


@contextmanager
def _unmarked(manager: StorageManager) -> Iterator[None]:
    """Forget for a while whose stores these are: a collection with an engine may have marked them as a database's."""
    marks = {backend: read_marker(backend) for backend in manager.backends.values()}
    for backend in marks:
        backend.delete(MARKER_KEY)
    try:
        yield
    finally:
        for backend, database in marks.items():
            if database is not None:
                write_marker(backend, database)


class _Collecting:
    """One collection with time moved."""

    def __init__(self, manager: StorageManager, metadata: Any, after: timedelta | None) -> None:
        self.manager = manager
        self.metadata = _metadata_of(manager) if metadata is None else _as_list(metadata)
        self.after = after
        self.later = milliseconds(manager.grace if after is None else after) + 1000
        for key, backend in manager.backends.items():
            if backend.identity[0] != "memory":
                raise ConfigurationError(
                    f"sweep_now forgets the grace, so it is for stores in memory, and backend {key!r} is none: "
                    "use memory_storage(manager), or the fixture granite_storage",
                    value=key,
                )

    def run(self, ledger: SQLAlchemyLedger) -> SweepReport:
        collector = Collector(self.manager, ledger)
        for problem in collector.reconcile(max_share=1, wait=WAIT).problems:
            raise AssertionError(f"a store could not be looked through: {problem.message}")
        self.let_time_pass(collector, ledger)
        report = collector.sweep(wait=WAIT)
        if report.skipped is not None:
            raise AssertionError(f"nothing was collected: {report.skipped}")
        return report

    def let_time_pass(self, collector: Collector, ledger: SQLAlchemyLedger) -> None:
        """Make all tombstones, and notes in memory, as old as if it had."""
        if self.after is None:  # somebody may have worked with a longer grace
            self.later = max(self.later, ledger.longest_grace() + 1000)
        for database in ledger._all:
            if database.tables is not None:
                t = database.tables.tombstone
                older = update(t).values(written_at=t.c.written_at - self.later, retry_at=0)
                database.write(partial(_execute, older))
        for location, note in list(collector._memory.items()):
            collector._memory[location] = msgspec.structs.replace(note, written_at=note.written_at - self.later)


class _JoinedLedger(SQLAlchemyLedger):
    """A ledger in somebody's transaction, which is never committed here.

    What it knows of the database may be undone with that, so it gives the database no name and marks no store.
    """

    def __init__(self, connection: Connection, metadata: Sequence[MetaData]) -> None:
        super().__init__([(connection.engine, each) for each in metadata])
        self._all = [_JoinedDatabase(connection, each.metadata) for each in self._all]

    def identity(self) -> str | None:
        return None

    def peek_identity(self) -> str | None:
        return None


class _JoinedDatabase(Database):
    def __init__(self, connection: Connection, metadata: Sequence[MetaData]) -> None:
        super().__init__(connection.engine, metadata)
        self._connection = connection

    def read(self, step: Callable[[Connection], T]) -> T:
        return step(self._connection)

    def write(self, step: Callable[[Connection], T]) -> T:
        return step(self._connection)


def _metadata_of(manager: StorageManager) -> list[MetaData]:
    found = {
        id(each.column.table.metadata): each.column.table.metadata
        for fields in list(fields_by_class.values())
        for each in fields
        if each.bound_manager is manager
    }
    if not found:
        raise ConfigurationError("no mapped class has files of this manager: manager.register(Base), or give metadata=")
    return list(found.values())


def _as_list(metadata: Any) -> list[MetaData]:
    given = metadata if isinstance(metadata, (list, tuple)) else [metadata]
    return [getattr(each, "metadata", None) or each for each in given]


def _execute(statement: Update, connection: Connection) -> Any:
    return connection.execute(statement)
