"""A finished upload gets into a row: its session goes in the same transaction, so that only one row gets it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from granite_core.errors import UploadGoneError
from granite_core.integrations.sqlalchemy._connections import is_autocommit, primary
from granite_core.integrations.sqlalchemy._rows import is_there, write_first, write_tombstones
from granite_core.integrations.sqlalchemy._transaction import Field, Transaction
from granite_core.integrations.sqlalchemy.tables import tables_of
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile

__all__ = ["take"]


def take(
    session: Session,
    state: Transaction,
    each: Field,
    manager: StorageManager,
    ref: StagedFile,
    within: timedelta,
    options: Mapping[str, Any],
) -> None:
    """Take a file out of its upload session, for a row of this transaction.

    A row lets go of the file, and another is about to get it. In a transaction the first is locked until the second can
    be seen. Under AUTOCOMMIT there is a moment between the two, through which a young tombstone carries the file.

    Args:
        session: Whose transaction it is.
        state: What the transaction knows.
        each: The field that gets the file.
        manager: The field's.
        ref: The file.
        within: A quarter of the grace.
        options: Options for the statements, such as a schema translation of their own.

    Raises:
        UploadGoneError: The session has ended, or a row has taken the file from it already.
    """
    metadata = each.column.table.metadata
    tables = tables_of(metadata)
    owner = each.owner and each.owner()
    connection = primary(session, inspect(owner) if owner is not None else None, each.column.table)
    if tables is None or not is_there(connection, tables.upload, options):
        raise _gone(each, ref, within, "there are no upload sessions in its database")
    write_first(state, connection, each.column, options)
    if is_autocommit(connection):
        write_tombstones(state, connection, metadata, manager, [ref])
    from granite_core.uploads.sessions import UploadStatus  # there already: the file is out of such a session

    t = tables.upload.c
    gone = tables.upload.delete().where(t.id == ref.upload, t.status == UploadStatus.FINISHED.value)
    if connection.execute(gone, execution_options=options).rowcount != 1:
        raise _gone(each, ref, within, "its upload has ended, or a row has taken it already")
    write_tombstones(state, connection, metadata, manager, [ref])
    state.learn([ref.location], manager)
    state.taken.append(ref)


def _gone(each: Field, ref: StagedFile, limit: timedelta, why: str) -> UploadGoneError:
    return UploadGoneError(
        f"{each.key}: this file may not be attached: {why}",
        operation="attach",
        field=each.key,
        backend=ref.backend,
        location=ref.location,
        limit=limit,
    )
