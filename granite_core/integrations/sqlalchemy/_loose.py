"""What nobody holds: a page of a store's listing beside all rows and tombstones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, FromClause, Select, Table, literal, select

from granite_core.gc.ports import chunks
from granite_core.integrations.sqlalchemy._expressions import (
    WANTED,
    among,
    at_once,
    one_that_holds,
    packed,
    wanted_in,
)
from granite_core.integrations.sqlalchemy.references import find_held

__all__ = ["find_loose"]

_AT_ONCE: Final = 8
"""So many columns are looked in by one statement: planning it takes longer with each."""


def find_loose(
    connection: Connection,
    columns: Sequence[Column[Any]],
    locations: Sequence[str],
    *,
    indexed: Collection[Column[Any]],
    tombstone: Table | None,
) -> set[str]:
    """Return those of ``locations`` that no row holds and that have no tombstone, released or not.

    Almost everything in a store is held, so what is not is all that leaves the database; and each location goes down an
    index once, where there is one. Columns without are read from end to end, for what is left then.

    Args:
        connection: Where to look, in one snapshot.
        columns: The columns that hold refs.
        locations: The keys of some objects, best in the order of the keys.
        indexed: The columns that have an index for it in this database.
        tombstone: The table of tombstones, where there is one.
    """
    rows = wanted_in(connection.dialect.name)
    if rows is None:
        return _find_by_lists(connection, columns, locations, tombstone)
    left = list(locations)
    for some in chunks((each for each in columns if each in indexed), _AT_ONCE):
        left = _ask(connection, rows, some, None, left)
    if tombstone is not None:
        left = _ask(connection, rows, (), tombstone, left)
    others = [each for each in columns if each not in indexed]
    return set(left) - find_held(connection, others, left, {}, indexed=())


def _ask(
    connection: Connection, rows: FromClause, columns: Sequence[Column[Any]], tombstone: Table | None, left: list[str]
) -> list[str]:
    if not left:
        return left
    dialect, location = connection.dialect.name, rows.c.location
    query: Select[Any] = select(location).where(
        *(~one_that_holds(each, location, dialect).correlate(rows).exists() for each in columns)
    )
    if tombstone is not None:
        waits = select(literal(1)).where(tombstone.c.location == location)
        query = query.where(~waits.correlate(rows).exists())
    return [*connection.scalars(query, {WANTED: packed(dialect, left)})]


def _find_by_lists(
    connection: Connection, columns: Sequence[Column[Any]], locations: Sequence[str], tombstone: Table | None
) -> set[str]:
    left = set(locations) - find_held(connection, columns, locations, {})
    if tombstone is not None:
        dialect, t = connection.dialect.name, tombstone.c.location
        for some in chunks(sorted(left), at_once(dialect)):
            found = connection.scalars(select(t).where(among(t, dialect)), {WANTED: packed(dialect, some)})
            left.difference_update(found)
    return left
