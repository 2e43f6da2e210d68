"""Which refs a committed row holds, and will hold until the transaction that asks has ended.

A sweep may come at any moment, and deletes what no row holds and what only old tombstones tell of. So where an old
tombstone waits, it is not enough that a row holds the file now: it must not let it go before our row is there to be
seen. Whether one waits is asked in the query that finds the row, so that the usual case costs no statement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, MetaData, Table, inspect, select
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import InstanceState, Mapper, Session

from granite_core._chunks import chunks
from granite_core.admission import guarded_from
from granite_core.integrations.sqlalchemy._connections import primary
from granite_core.integrations.sqlalchemy._rows import NO_OPTIONS, is_there, read_rows, write_first
from granite_core.integrations.sqlalchemy._transaction import fields_by_class, transaction_of
from granite_core.integrations.sqlalchemy.references import LOOK_UP_BATCH, find_held, keep_held, refs_in
from granite_core.integrations.sqlalchemy.tables import db_now, held_columns, is_upload_column, tables_of

__all__ = ["look_up"]


def look_up(
    session: Session,
    mapper: Mapper[Any] | None,
    changing: list[InstanceState[Any]],
    metadata: MetaData,
    locations: set[str],
    within: timedelta,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> set[str]:
    """Return those that a row holds: look first in the rows to be changed, by their keys, then in all, everywhere.

    Args:
        session: Whose connections to use.
        mapper: The class of the rows to be changed, where they are known.
        changing: Those rows.
        metadata: Whose tables to look in.
        locations: What to look for.
        within: A quarter of the grace.
        options: Options for the statements, such as a schema translation of their own.
    """
    questions: dict[Connection, _Question] = {}
    if mapper is not None:
        writing = primary(session, mapper, mapper.local_table)
        write_first(transaction_of(session), writing, fields_by_class[mapper.class_][0].column)

    def ask(connection: Connection) -> _Question | None:
        tables = tables_of(metadata)
        if connection not in questions and tables is not None and is_there(connection, tables.tombstone, options):
            questions[connection] = _Question(connection, tables.tombstone, locations, guarded_from(within), options)
        return questions.get(connection)

    rows = _Rows(session, mapper, changing, metadata, options)
    held = rows.find(locations, ask)
    for connection, _ in rows.places(held):  # where nothing had to be looked for any more
        question = ask(connection)
        if question is not None and not question.was_asked:
            question.ask()
    waiting = {old for each in questions.values() if each.said_yes for old in each.old_ones(held)}
    if not waiting:
        return held
    # The look is of a moment that is over. What is found now stays until we have ended: its row is locked; or, where
    # rows cannot be, nobody else writes any more; or our tombstone can be seen. It is left in every database: a session
    # commits one after the other, and from the first commit on a lock is gone.
    for question in questions.values():
        question.guard(waiting)
    guarded = {location for location, *_ in waiting}
    return rows.find(held - guarded) | rows.keep(guarded)


class _Rows:
    """Where refs are looked for: in some rows, by their keys, before all others."""

    def __init__(
        self,
        session: Session,
        mapper: Mapper[Any] | None,
        changing: list[InstanceState[Any]],
        metadata: MetaData,
        options: Mapping[str, Any],
    ) -> None:
        self.session = session
        self.mapper = mapper
        self.identities = {state.identity for state in changing if state.identity is not None}
        self.metadata = metadata
        self.options = options

    def find(self, locations: set[str], ask: Callable[[Connection], _Question | None] = lambda _: None) -> set[str]:
        """Those that a row holds."""
        held = self._by_key(ask, lock=False) & locations
        for connection, columns in self.places(locations - held):
            held |= find_held(connection, columns, locations - held, self.options, ask(connection))
        return held

    def keep(self, locations: set[str]) -> set[str]:
        """Those that a row holds, which others cannot change until our transaction ends."""
        held = self._by_key(lambda _: None, lock=True) & locations
        for connection, columns in self.places(locations - held):
            held |= keep_held(connection, columns, locations - held, self.options)
        return held

    def _by_key(self, ask: Callable[[Connection], _Question | None], *, lock: bool) -> set[str]:
        if self.mapper is None or not self.identities:
            return set()
        connection = primary(self.session, self.mapper, self.mapper.local_table)
        rows = read_rows(self.mapper, connection, self.identities, lock=lock, question=ask(connection)).values()
        return {ref.location for row in rows for value in row for ref in refs_in(value)}

    def places(self, locations: Collection[str]) -> Iterator[tuple[Connection, list[Column[Any]]]]:
        """The columns that hold refs, by the connection a session would write them on."""
        places: dict[Connection, list[Column[Any]]] = defaultdict(list)
        classes = {each.column: class_ for class_, fields in [*fields_by_class.items()] for each in fields}
        for column in held_columns(self.metadata) if locations else ():
            mapped = inspect(classes[column]) if column in classes else None
            with suppress(UnboundExecutionError):  # a table that this session has no engine for
                connection = primary(self.session, mapped, column.table)
                # Uploads are newer than Granite's other tables: their migration may be yet to come.
                if not is_upload_column(column) or is_there(connection, column.table, self.options):
                    places[connection].append(column)
        yield from places.items()


class _Old(NamedTuple):
    """An old tombstone."""

    location: str
    backend: str
    storage_key: str
    retention: int


class _Question:
    """Whether old tombstones of some locations wait in a database: part of a query that looks for the locations."""

    def __init__(
        self,
        connection: Connection,
        table: Table,
        locations: Collection[str],
        age: timedelta,
        options: Mapping[str, Any],
    ) -> None:
        self.was_asked = self.said_yes = False
        self._connection = connection
        self._table = table
        self._options = options
        self._before: Callable[[], Any] = lambda: db_now() - int(age.total_seconds() * 1000)
        t = table.c
        waiting = select(t.id).where(*self._old())
        # So many would be too many for one statement: then any old tombstone makes us look closer.
        few = len(locations) <= LOOK_UP_BATCH
        waiting = waiting.where(t.location.in_(sorted(locations)) if few else t.written_at <= self._before())
        self.column: ColumnElement[bool] = waiting.exists()

    def answer(self, value: object) -> None:
        """Hear what the query said."""
        self.was_asked = True
        self.said_yes = self.said_yes or bool(value)

    def ask(self) -> None:
        """Ask it by itself."""
        self.answer(self._run(select(self.column)).scalar())

    def old_ones(self, locations: Collection[str]) -> set[_Old]:
        """Return the old tombstones of some locations."""
        t = self._table.c
        found: set[_Old] = set()
        for some in chunks(sorted(locations), LOOK_UP_BATCH):
            query = select(t.location, t.backend, t.storage_key, t.retention).where(t.location.in_(some), *self._old())
            found.update(_Old(*row) for row in self._run(query))
        return found

    def guard(self, waiting: Collection[_Old]) -> None:
        """Leave a young tombstone for each old one.

        Under AUTOCOMMIT it can be seen at once, and keeps the file for a grace. In a transaction it cannot, and does
        no harm; it is a write, and whoever writes to SQLite writes alone until the end.
        """
        self._connection.execute(
            self._table.insert().values(written_at=db_now()),
            [each._asdict() for each in waiting],
            execution_options=self._options,
        )

    def _old(self) -> tuple[ColumnElement[bool], ...]:
        t = self._table.c
        return t.run.is_(None), t.written_at + t.retention <= self._before()

    def _run(self, statement: Any) -> Any:
        return self._connection.execute(statement, execution_options=self._options)
