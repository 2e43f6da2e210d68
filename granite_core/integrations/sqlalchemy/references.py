"""Which refs are live: every file column of a metadata, read with Core, so that no ORM criteria hide a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

from sqlalchemy import Column, ColumnElement, Connection, MetaData, Select, inspect, literal, select
from sqlalchemy.orm import Mapper, Session

from granite_core.errors import ConfigurationError
from granite_core.integrations.sqlalchemy._expressions import (
    WANTED,
    among,
    at_once,
    element_in,
    location_in,
    one_that_holds,
    packed,
    ref_location,
    wanted_in,
)
from granite_core.integrations.sqlalchemy._indexes import is_indexed
from granite_core.integrations.sqlalchemy.types import is_file_column
from granite_core.refs import StoredObjectRef, record_of

__all__ = [
    "LOOK_UP_BATCH",
    "OWN_KEY",
    "Question",
    "element_in",
    "file_columns",
    "find_held",
    "held_locations",
    "iter_model_storage_refs",
    "keep_held",
    "location_in",
    "ref_location",
    "refs_in",
]

LOOK_UP_BATCH: Final = 500
"""So many rows come at a time, and values go into an IN that is written by hand."""
OWN_KEY: Final = "granite_own"
"""What the ``info`` of a file column in a table of Granite's own says."""


class Question(Protocol):
    """What a query that looks for refs asks by the way."""

    @property
    def column(self) -> ColumnElement[bool]:
        """What to select besides; the same for every row."""
        ...

    def answer(self, value: object) -> None:
        """Hear what a row said."""
        ...


def file_columns(metadata: MetaData) -> tuple[Column[Any], ...]:
    """Return every column of a metadata's models that holds refs, in a stable order; none of Granite's own tables."""
    found = [
        column
        for table in metadata.tables.values()
        for column in table.columns
        if is_file_column(column) and not column.info.get(OWN_KEY)
    ]
    return tuple(sorted(found, key=lambda column: (column.table.fullname, column.name)))


def held_locations(
    connection: Connection,
    columns: Sequence[Column[Any]],
    locations: Collection[str],
    *,
    execution_options: Mapping[str, Any] | None = None,
) -> set[str]:
    """Return those of ``locations`` that a row holds in one of ``columns``, as this connection sees it.

    Args:
        connection: Where to look; its schema translation applies.
        columns: The columns to look in, as ``file_columns`` returns them.
        locations: The keys to look for, whatever backend they are in.
        execution_options: Options for the queries, such as a schema translation of their own.
    """
    return find_held(connection, columns, locations, dict(execution_options or {}))


def find_held(
    connection: Connection,
    columns: Sequence[Column[Any]],
    locations: Collection[str],
    options: Mapping[str, Any],
    question: Question | None = None,
    *,
    indexed: Collection[Column[Any]] | None = None,
) -> set[str]:
    """Do as ``held_locations`` does, and ask a question by the way.

    Args:
        connection: Where to look.
        columns: The columns to look in.
        locations: The keys to look for.
        options: Options for the queries.
        question: What to ask; it is answered where a row was found.
        indexed: The columns that have an index for it in this database; those whose model says so, where it was not
            asked.
    """
    dialect = connection.dialect.name
    held: set[str] = set()
    for batch in _batches(sorted(locations), at_once(dialect)):
        for column in columns:
            wanted = [location for location in batch if location not in held]
            if not wanted:
                break
            by_index = is_indexed(column, dialect) if indexed is None else column in indexed
            held.update(_held_in(connection, column, wanted, dict(options), question, by_index=by_index))
    return held.intersection(locations)


def keep_held(
    connection: Connection, columns: Sequence[Column[Any]], locations: Collection[str], options: Mapping[str, Any]
) -> set[str]:
    """Return those of ``locations`` that a row holds, and keep others from changing it until the transaction ends.

    Where the database has no locks on rows it is the same as ``find_held``.

    Args:
        connection: Where to look.
        columns: The columns to look in.
        locations: The keys to look for.
        options: Options for the queries.
    """
    return {each for each in locations if any(_keep_in(connection, column, each, options) for column in columns)}


def _keep_in(connection: Connection, column: Column[Any], wanted: str, options: Mapping[str, Any]) -> bool:
    location = location_in(column, connection.dialect.name)
    if location is None:
        return wanted in _held_in_scan(connection, column, frozenset((wanted,)), {**options}, lock=True)
    # Asked of the row itself, not of what is joined to it: who waited for the lock is judged again by the row as it is
    # then, and by nothing else (PostgreSQL, "Read Committed Isolation Level").
    holds = select(location).where(location == wanted).correlate(column.table).exists()
    # A stronger lock than one that keeps the key: the column is no key. One row is enough.
    query: Select[Any] = select(literal(1)).select_from(column.table).where(holds).limit(1)
    query = query.with_for_update(read=True, of=column.table)
    return connection.execute(query, execution_options=options).first() is not None


def _held_in(
    connection: Connection,
    column: Column[Any],
    wanted: Sequence[str],
    options: dict[str, Any],
    question: Question | None,
    *,
    by_index: bool,
) -> Iterator[str]:
    dialect = connection.dialect.name
    location, rows = location_in(column, dialect), wanted_in(dialect)
    if location is None:
        yield from _held_in_scan(connection, column, frozenset(wanted), options, question)
        return
    query: Select[Any]
    if rows is not None and by_index:
        each = rows.c.location
        query = select(each).where(one_that_holds(column, each, dialect).correlate(rows).exists())
    else:
        query = select(location).select_from(column.table).where(among(location, dialect)).distinct()
    if question is not None:
        query = query.add_columns(question.column)
    for row in connection.execute(query, {WANTED: packed(dialect, wanted)}, execution_options=options):
        if question is not None:
            question.answer(row[1])
        yield row[0]


def _held_in_scan(
    connection: Connection,
    column: Column[Any],
    wanted: frozenset[str],
    options: dict[str, Any],
    question: Question | None = None,
    *,
    lock: bool = False,
) -> Iterator[str]:
    """Where the database cannot look into an array, its rows are read one by one."""
    query: Select[Any] = select(column).where(column.is_not(None))
    if question is not None:
        query = query.add_columns(question.column)
    if lock:
        query = query.with_for_update(read=True)
    for row in connection.execute(query, execution_options={**options, "yield_per": LOOK_UP_BATCH}):
        found = [ref.location for ref in row[0] if ref.location in wanted]
        if found and question is not None:
            question.answer(row[1])
        yield from found


def iter_model_storage_refs(db: Session, model: Any, ref_attr_name: str) -> Iterator[StoredObjectRef]:
    """Yield the refs that the rows of a model hold, as a session sees them; what is pending is flushed first.

    Every row of the model's table counts, whatever ORM criteria hide.

    Args:
        db: The session.
        model: A mapped class.
        ref_attr_name: Name of its attribute with a ref or a list of them.

    Raises:
        ConfigurationError: The attribute is no file column: its refs could not be told.
    """
    mapper: Mapper[Any] = inspect(model)
    column = mapper.columns.get(ref_attr_name)
    if not isinstance(column, Column) or not is_file_column(column):
        raise ConfigurationError(
            f"{mapper.class_.__name__}.{ref_attr_name} is no column of StoredObjectRefType", field=ref_attr_name
        )
    if db.autoflush:
        db.flush()
    query = select(column).where(column.is_not(None)).execution_options(yield_per=LOOK_UP_BATCH)
    for value in db.execute(query, bind_arguments={"mapper": mapper}).scalars():
        yield from refs_in(value)


def refs_in(value: object) -> Sequence[StoredObjectRef]:
    """Return the refs to stored objects in a file column's value, be it one ref, a list or None."""
    if isinstance(value, StoredObjectRef):
        return (value,) if record_of(value).location else ()
    if not isinstance(value, (list, tuple)):
        return ()
    return [each for each in value if isinstance(each, StoredObjectRef) and record_of(each).location]


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
