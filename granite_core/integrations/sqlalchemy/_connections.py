"""Which connection a session writes on; what it is in the middle of, and since when."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, update
from sqlalchemy.orm import Mapper, Session

__all__ = ["began_at", "is_autocommit", "note_begin", "primary"]

_LONG_AGO: Final = timedelta(days=365).total_seconds()

_began: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
"""When each connection's transaction began, by the monotonic clock."""


def note_begin(connection: Connection, xid: object = None) -> None:
    """Remember that a transaction begins: a session may join it much later, and sees what it sees."""
    _began[connection] = time.monotonic()


def began_at(connection: Connection) -> float:
    """Return since when a connection may show the database as it was, by the monotonic clock.

    Long ago where that is not known: the transaction is older than the import of this package.
    """
    now = time.monotonic()
    return now if is_autocommit(connection) else _began.get(connection, now - _LONG_AGO)


def is_autocommit(connection: Connection) -> bool:
    """Tell whether what a connection has written can be seen by others already; asks the driver only."""
    pooled = connection.connection
    driver: Any = pooled.driver_connection
    if connection.dialect.name == "sqlite" and hasattr(driver, "in_transaction"):
        return not driver.in_transaction  # whatever was configured: it may send its own BEGIN, or none yet
    with suppress(AttributeError, NotImplementedError):  # a dialect that does not tell, or an older SQLAlchemy
        return connection.dialect.detect_autocommit_setting(pooled.dbapi_connection)  # type: ignore[arg-type]  # None only when detached
    told = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
    return told or getattr(pooled.dbapi_connection, "autocommit", None) is True


def primary(session: Session, mapper: Mapper[Any] | None, table: Any) -> Connection:
    """Return the connection a session would write a table on: some sessions send what reads to a replica."""
    found_by: dict[str, Any] = {"clause": update(table)}
    return session.connection(bind_arguments=found_by if mapper is None else {**found_by, "mapper": mapper})
