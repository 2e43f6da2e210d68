"""Which refs are live: every file column of a metadata, read with Core, so that no ORM criteria hide a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, Select, String, case, cast, func, inspect, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.sql.functions import FunctionElement

from granite_core.errors import ConfigurationError
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType, is_file_column
from granite_core.refs import StoredObjectRef

__all__ = [
    "element_in",
    "file_columns",
    "held_locations",
    "iter_model_storage_refs",
    "location_in",
    "ref_location",
    "refs_in",
]

LOOK_UP_BATCH: Final = 500
_ARROWS_SINCE: Final = (3, 38, 0)


class ref_location(FunctionElement[str]):  # noqa: N801 - named as a SQL function is
    """The location of the ref in a file column; written alike in the index and in every look-up."""

    type = String()
    inherit_cache = True
    name = "granite_ref_location"


@compiles(ref_location)
def _location_default(element: ref_location, compiler: Any, **kw: Any) -> str:
    return f"JSON_VALUE({compiler.process(element.clauses, **kw)}, '$.location')"


@compiles(ref_location, "postgresql")
def _location_postgresql(element: ref_location, compiler: Any, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} ->> 'location')"


@compiles(ref_location, "sqlite")
def _location_sqlite(element: ref_location, compiler: Any, **kw: Any) -> str:
    """As on PostgreSQL, where SQLite can: a migration that was made for one of them then serves both."""
    version = getattr(compiler.dialect.dbapi, "sqlite_version_info", _ARROWS_SINCE)
    if version >= _ARROWS_SINCE:
        return _location_postgresql(element, compiler, **kw)
    return f"json_extract({compiler.process(element.clauses, **kw)}, '$.location')"


@compiles(ref_location, "mysql", "mariadb")
def _location_mysql(element: ref_location, compiler: Any, **kw: Any) -> str:
    return f"JSON_UNQUOTE(JSON_EXTRACT({compiler.process(element.clauses, **kw)}, '$.location'))"


def file_columns(metadata: MetaData) -> tuple[Column[Any], ...]:
    """Return every column of a metadata that holds refs, in a stable order."""
    found = [column for table in metadata.tables.values() for column in table.columns if is_file_column(column)]
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
    options = dict(execution_options or {})
    held: set[str] = set()
    left = set(locations)
    for batch in _batches(sorted(left), LOOK_UP_BATCH):
        for column in columns:
            wanted = [location for location in batch if location not in held]
            if not wanted:
                break
            held.update(_held_in(connection, column, wanted, options))
    return held & left


def _held_in(
    connection: Connection, column: Column[Any], wanted: Sequence[str], options: dict[str, Any]
) -> Iterator[str]:
    location = location_in(column, connection.dialect.name)
    if location is None:
        yield from _held_in_scan(connection, column, frozenset(wanted), options)
        return
    query: Select[Any] = select(location).select_from(column.table).where(location.in_(wanted))
    yield from connection.execute(query.distinct(), execution_options=options).scalars()


def location_in(column: Column[Any], dialect: str) -> Any:
    """Return the location of each ref in a file column; None where the database cannot look into an array."""
    if not isinstance(column.type, StoredObjectRefListType):
        return ref_location(column)
    element = element_in(column, dialect)
    if element is None:
        return None
    return element.op("->>")("location") if dialect == "postgresql" else func.json_extract(element, "$.location")


def element_in(column: Column[Any], dialect: str) -> Any:
    """Return each ref of a list column as JSON, joined to its row; None where the database cannot look into an array.

    A JSON null or a stray scalar in the column is no array: taken for an empty one, it hides no row.
    """
    if dialect == "postgresql":
        data = cast(column, JSONB)  # for a table whose migration said JSON
        array = case((func.jsonb_typeof(data) == "array", data), else_=func.jsonb_build_array())
        return func.jsonb_array_elements(array, type_=String).table_valued("value", joins_implicitly=True).c.value
    if dialect == "sqlite":
        element = func.json_each(column).table_valued("value", "type", joins_implicitly=True).c
        return case((element.type == "object", element.value), else_="{}")  # a bare text is no JSON
    return None


def _held_in_scan(
    connection: Connection, column: Column[Any], wanted: frozenset[str], options: dict[str, Any]
) -> Iterator[str]:
    """Where the database cannot look into an array, its rows are read one by one."""
    query = select(column).where(column.is_not(None))
    rows = connection.execute(query, execution_options={**options, "yield_per": LOOK_UP_BATCH})
    for refs in rows.scalars():
        yield from (ref.location for ref in refs if ref.location in wanted)


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


def refs_in(value: object) -> Iterator[StoredObjectRef]:
    """Yield the refs to stored objects in a file column's value, be it one ref, a list or None."""
    for each in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(each, StoredObjectRef) and each.location:
            yield each


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
