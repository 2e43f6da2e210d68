"""What nobody holds: a page of a store's listing beside all rows and tombstones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Column, Connection, FromClause, Select, Table, literal, select

from granite_core._chunks import chunks
from granite_core.integrations.sqlalchemy._expressions import (
    WANTED,
    among,
    at_once,
    held_between,
    one_that_holds,
    packed,
    wanted_in,
)
from granite_core.integrations.sqlalchemy.references import find_held

__all__ = ["Loose"]

_AT_ONCE: Final = 8
"""So many columns are looked in by one statement: planning it takes longer with each."""
_FEW: Final = 1000
"""So many locations are asked for one by one; beside more, the indexes are read first, where that pays."""
_as_keys: Final = msgspec.json.Decoder(list[str]).decode


class Loose:
    """The look for what no row holds and has no tombstone, released or not, in one database.

    Its statements are made once: making one costs as much as its answer for hundreds of keys.

    Args:
        dialect: Name of the kind of database.
        columns: The columns that hold refs.
        indexed: Those that have an index for it in this database.
        tombstone: The table of tombstones, where there is one.
    """

    def __init__(
        self,
        dialect: str,
        columns: Sequence[Column[Any]],
        *,
        indexed: Collection[Column[Any]],
        tombstone: Table | None,
    ) -> None:
        self._dialect = dialect
        self._tombstone = tombstone
        rows = wanted_in(dialect)
        by_index = [each for each in columns if each in indexed] if rows is not None else []
        self._others = [each for each in columns if each not in by_index]
        self._stretches = [found for each in by_index if (found := held_between(each, dialect)) is not None]
        self._questions: list[Select[Any]] = []
        if rows is not None:
            self._questions += [_unheld(rows, some, dialect) for some in chunks(by_index, _AT_ONCE)]
            self._questions += [_unmarked(rows, tombstone)] if tombstone is not None else []

    def find(self, connection: Connection, locations: Collection[str]) -> set[str]:
        """Return those of ``locations`` that are loose.

        Almost everything in a store is held, so what is not is all that leaves the database; and each location goes
        down an index once, where there is one. Columns without are read from end to end, for what is left then.

        Args:
            connection: Where to look, in one snapshot.
            locations: The keys of some objects, best neighbours in a listing.
        """
        left: Sequence[str] = sorted(locations)
        for stretch in self._stretches:
            if len(left) > _FEW:
                left = sorted(set(left).difference(_held_nearby(connection, stretch, left)))
        for question in self._questions:
            if left:
                left = connection.scalars(question, {WANTED: packed(self._dialect, left)}).all()
        found = set(left) - find_held(connection, self._others, left, {}, indexed=())
        if self._tombstone is not None and not self._questions:  # in a database that takes no list as one value
            t = self._tombstone.c.location
            query = select(t).where(among(t, self._dialect))
            for some in chunks(sorted(found), at_once(self._dialect)):
                found.difference_update(connection.scalars(query, {WANTED: packed(self._dialect, some)}))
        return found


def _unheld(rows: FromClause, columns: Sequence[Column[Any]], dialect: str) -> Select[Any]:
    """Select the wanted locations that no row holds in some columns."""
    location = rows.c.location
    return select(location).where(
        *(~one_that_holds(each, location, dialect).correlate(rows).exists() for each in columns)
    )


def _unmarked(rows: FromClause, tombstone: Table) -> Select[Any]:
    """Select the wanted locations that no tombstone names."""
    waits = select(literal(1)).where(tombstone.c.location == rows.c.location)
    return select(rows.c.location).where(~waits.correlate(rows).exists())


def _held_nearby(connection: Connection, stretch: Select[Any], locations: Sequence[str]) -> Collection[str]:
    """Return what a column holds in the range of some sorted locations: most of them, as a rule, and maybe others.

    What is not among it may be held all the same: the database may sort otherwise, or hold more there than was asked.
    """
    values = {"first": locations[0], "last": locations[-1], "most": 2 * len(locations)}
    try:
        return _as_keys(connection.scalar(stretch, values))
    except (msgspec.DecodeError, UnicodeDecodeError):  # a row holds what is no text, or the database is no UTF-8
        return ()
