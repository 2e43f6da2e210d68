"""SQLite for several writers: those who find the file locked wait for their turn."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, event

from granite_core.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["prepare_sqlite"]

E = TypeVar("E", bound="Engine | AsyncEngine")


def prepare_sqlite(engine: E, *, patience: timedelta = timedelta(seconds=15)) -> E:
    """Set an engine up for an application with several threads or processes: ``prepare_sqlite(create_engine(url))``.

    Readers and a writer work side by side (a write-ahead log), writers wait for each other, and a transaction that
    begins with a savepoint is a writer's from there on. Transactions are otherwise the driver's: each begins with its
    first write, and what is read before is read as it is at that moment. SQLite refuses at once, however patient the
    connection is, to let a transaction write that has read what another one has changed since; one that begins so
    never comes into that position. Granite does its part, with this or without: in a flush it reads only after a write.

    An engine of another database is returned as it is.

    Args:
        engine: An engine of either colour, before its first connection.
        patience: How long a writer waits for the others.

    Raises:
        ConfigurationError: ``patience`` is less than nothing.
    """
    if patience < timedelta(0):
        raise ConfigurationError("patience must not be less than nothing", value=patience)
    target: Engine = engine if isinstance(engine, Engine) else engine.sync_engine
    if target.dialect.name != "sqlite":
        return engine

    @event.listens_for(target, "connect")
    def on_connect(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(patience.total_seconds() * 1000)}")  # first: the next one may wait
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()

    @event.listens_for(target, "savepoint")
    def on_savepoint(connection: Connection, _: str) -> None:
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            # The driver begins before an INSERT, and not before a SAVEPOINT, which then is the transaction: what is
            # read in it would be read before the first write, and its release would be a COMMIT.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
