"""What is counted while a flush stores: in the flush's own transaction where another one would wait for it for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.orm import Session

from granite_core.integrations.sqlalchemy._connections import is_autocommit, primary

__all__ = ["joined_connection", "joining"]

_joined: ContextVar[Connection | None] = ContextVar("granite_quota_connection", default=None)


def joined_connection() -> Connection | None:
    """Return the connection of the flush that stores at this moment, where it must be used; else None."""
    return _joined.get()


@contextmanager
def joining(session: Session | None, table: Table) -> Iterator[None]:
    """Have what is stored within the block counted in a session's transaction, if that keeps others from writing.

    On SQLite there is one writer: a session that has written would be waited for by itself.

    Args:
        session: Whose flush stores.
        table: The table of the row that is to get the file.
    """
    found: Any = None
    if session is not None and session.in_transaction():
        connection = primary(session, None, table)
        if connection.dialect.name == "sqlite" and not is_autocommit(connection):
            found = connection
    token = _joined.set(found)
    try:
        yield
    finally:
        _joined.reset(token)
