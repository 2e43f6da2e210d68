"""Short transactions of the collector's own, on engines of either colour."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast

from sqlalchemy import Column, Connection, Engine, MetaData, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import SingletonThreadPool, StaticPool
from sqlalchemy.util import await_only

from granite_core._hops import hop_to
from granite_core.errors import ConfigurationError
from granite_core.gc.ports import LedgerBusyError
from granite_core.integrations.sqlalchemy._greenlet import in_greenlet
from granite_core.integrations.sqlalchemy._indexes import find_indexed
from granite_core.integrations.sqlalchemy._loose import Loose
from granite_core.integrations.sqlalchemy.tables import GraniteTables, held_columns, tables_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["AnyEngine", "Database", "in_thread"]

T = TypeVar("T")

AnyEngine: TypeAlias = "Engine | AsyncEngine"
Mode: TypeAlias = Literal["read", "write"]

_MODES: Final[dict[Mode, dict[str, dict[str, Any]]]] = {
    # An engine may be set to something stricter, under which two short writers fail instead of waiting.
    "write": {
        "postgresql": {"isolation_level": "READ COMMITTED"},
        "mysql": {"isolation_level": "READ COMMITTED"},
        "mariadb": {"isolation_level": "READ COMMITTED"},
    },
    # One snapshot for all statements.
    "read": {
        "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        "mysql": {"isolation_level": "REPEATABLE READ"},
        "mariadb": {"isolation_level": "REPEATABLE READ"},
        "mssql": {"isolation_level": "SNAPSHOT"},
        "oracle": {"isolation_level": "SERIALIZABLE"},
    },
}


_WAIT_FOR_IDLE: Final = 0.5
"""So many seconds a step waits for the one connection of an in-memory database to be in no transaction."""
_POLL: Final = 0.01
THREADS: Final = 8
"""So many steps at a time are under way on a synchronous engine, for callers on an event loop."""
AGAIN: Final = 3
"""So many times a step is run again that lost against another transaction; the loser of a deadlock has waited."""
_making_threads = threading.Lock()


class Database:
    """One engine, with the schema translation it carries, and the metadata of the models kept there.

    Args:
        engine: An engine of either colour.
        metadata: What its tables are declared in.
    """

    def __init__(self, engine: AnyEngine, metadata: Sequence[MetaData]) -> None:
        self.engine: Final[Engine] = engine if isinstance(engine, Engine) else engine.sync_engine
        self.is_async: Final[bool] = self.engine.dialect.is_async
        self.metadata: Final = list(metadata)
        self.schemas: Final[dict[str | None, str | None]] = dict(
            self.engine.get_execution_options().get("schema_translate_map") or {}
        )
        self.columns: tuple[Column[Any], ...] = ()
        self.indexed: frozenset[Column[Any]] = frozenset()
        self.tables: GraniteTables | None = None
        self._loose: Loose | None = None
        self._shadow: tuple[Any, Engine] | None = None
        self._threads: tuple[int, ThreadPoolExecutor] | None = None
        self.find_columns()

    def find_columns(self) -> None:
        """Look again at what is declared: a model may have been imported since."""
        columns = {id(each): held_columns(each) for each in self.metadata}
        self.columns = tuple(dict.fromkeys(column for found in columns.values() for column in found))
        # Asking for the tables declares them: not where there are no files, for then nobody has made them.
        with_files = (tables_of(each) for each in self.metadata if columns[id(each)])
        self.tables = next(filter(None, with_files), None)
        self._loose = None

    def find_indexes(self) -> None:
        """Look again which columns have an index for the look-up: it may have been made, or dropped, since."""
        self.indexed = self.read(lambda connection: find_indexed(connection, self.columns, self.schemas))
        self._loose = None

    @property
    def loose(self) -> Loose:
        """What looks for what nobody holds, by the columns and indexes that were found last."""
        if self._loose is None:
            tombstone = self.tables.tombstone if self.tables is not None else None
            self._loose = Loose(self.engine.dialect.name, self.columns, indexed=self.indexed, tombstone=tombstone)
        return self._loose

    @property
    def label(self) -> str:
        """What to call the database in a message; without credentials."""
        url = self.engine.url
        schemas = ", ".join(str(schema) for schema in self.schemas.values() if schema)
        return f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}{f' ({schemas})' if schemas else ''}"

    def read(self, step: Callable[[Connection], T]) -> T:
        """Run a step in a transaction of its own that sees one snapshot and writes nothing."""
        return self._run("read", step)

    def write(self, step: Callable[[Connection], T]) -> T:
        """Run a step in a short transaction of its own, and commit it.

        A step that the database ends in favour of another transaction is run again.
        """
        return self._run("write", step)

    def _run(self, mode: Mode, step: Callable[[Connection], T]) -> T:
        beneath = in_greenlet()
        if self.is_async and not beneath:
            raise ConfigurationError(
                f"the engine of {self.label} is asynchronous: await the collector's asweep() or areconcile()"
            )
        if beneath and not self.is_async:
            return await_only(hop_to(self.threads(), partial(self._run_here, mode, step)))
        return self._run_here(mode, step)

    def threads(self) -> ThreadPoolExecutor:
        """Return the few threads in which steps run for an event loop; made at first use, and anew after a fork.

        What runs there waits for the database alone, never for another that runs there.
        """
        with _making_threads:
            if self._threads is None or self._threads[0] != os.getpid():
                self._threads = (os.getpid(), ThreadPoolExecutor(THREADS, thread_name_prefix="granite-database"))
            return self._threads[1]

    def close(self) -> None:
        """Close the connections that nobody uses, and let the threads end."""
        made, self._threads = self._threads, None
        if made is not None and made[0] == os.getpid():
            made[1].shutdown(wait=False)
        self.engine.dispose()

    def _run_here(self, mode: Mode, step: Callable[[Connection], T]) -> T:
        if isinstance(self.engine.pool, (StaticPool, SingletonThreadPool)) and self.engine.dialect.name == "sqlite":
            return self._run_shared(mode, step)
        return self._run_on(self.engine, mode, step)

    def _run_on(self, engine: Engine, mode: Mode, step: Callable[[Connection], T]) -> T:
        for again in range(AGAIN, -1, -1):
            try:
                with _transaction(engine, mode) as connection:
                    return step(connection)
            except DBAPIError as error:
                if not (again and mode == "write" and _is_conflict(error)):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _run_shared(self, mode: Mode, step: Callable[[Connection], T]) -> T:
        """Use the one connection of an in-memory database, if nobody is in a transaction on it.

        An ordinary check-out would join that transaction, and roll it back when it is returned. So the step runs on an
        engine of our own over the same driver connection, which resets nothing; where the driver has a thread, in that
        thread, so that no other statement comes between.
        """
        driver: Any = self.engine.pool._do_get().driver_connection
        raw = driver._conn if self.is_async else driver

        def guarded() -> T:
            if raw.in_transaction:
                raise LedgerBusyError(f"the one connection of {self.label} is in a transaction")
            if self._shadow is None or self._shadow[0] is not raw:
                options = self.engine.get_execution_options()
                self._shadow = (
                    raw,
                    create_engine(
                        "sqlite://",
                        creator=lambda: raw,
                        poolclass=StaticPool,
                        pool_reset_on_return=None,
                        execution_options={"schema_translate_map": options.get("schema_translate_map")},
                    ),
                )
            return self._run_on(self._shadow[1], mode, step)

        deadline = time.monotonic() + _WAIT_FOR_IDLE
        while True:
            try:
                return cast("T", await_only(driver._execute(guarded))) if self.is_async else guarded()
            except LedgerBusyError:
                if time.monotonic() > deadline:
                    raise
            if self.is_async:
                await_only(asyncio.sleep(_POLL))
            else:
                time.sleep(_POLL)


@contextmanager
def _transaction(engine: Engine, mode: Mode) -> Iterator[Connection]:
    options: dict[str, Any] = dict(_MODES[mode].get(engine.dialect.name, {}))
    with engine.connect() as connection:
        connection.execution_options(**options)
        with connection.begin():
            if engine.dialect.name == "sqlite":
                driver: Any = connection.connection.driver_connection
                if driver.in_transaction:  # a listener of the engine has sent its own BEGIN
                    connection.exec_driver_sql("COMMIT")
                # The driver begins by itself only before an INSERT: too late for a snapshot, and for a writer's lock.
                connection.exec_driver_sql("BEGIN" if mode == "read" else "BEGIN IMMEDIATE")
            yield connection


def _is_conflict(error: DBAPIError) -> bool:
    """Tell whether a transaction was ended for another one's sake, and would do if it were tried again.

    PostgreSQL says so by a SQLSTATE (its manual, appendix A), MySQL and MariaDB by a number.
    """
    driver: Any = error.orig
    state = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
    return state in ("40001", "40P01") or getattr(driver, "args", ())[:1] == (1213,)


async def in_thread(call: Callable[[], T], on_cancel: Callable[[], object] | None = None) -> T:
    """Run a blocking call in a thread of its own, and join it even when the caller is cancelled."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="granite-collector")
    try:
        return await hop_to(executor, call, on_cancel=on_cancel)
    finally:
        executor.shutdown(wait=False)
