"""The indexes by which refs are found: those that are declared, and those that a database has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Column, Connection, Index, Table, inspect, text

from granite_core.integrations.sqlalchemy._expressions import ref_location
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType

__all__ = ["find_indexed", "index_names", "is_indexed", "lookup_indexes"]


def lookup_indexes(table: Table, dialect: str | None = None) -> list[Index]:
    """Return the indexes of a table by which the collector finds a ref, in a stable order.

    Args:
        table: The table.
        dialect: Only those of use to this kind of database.
    """
    return sorted((each for each in table.indexes if _is_of_use(each, dialect)), key=lambda index: str(index.name))


def is_indexed(column: Column[Any], dialect: str) -> bool:
    """Tell whether a column's refs can be found by an index, as its model says."""
    indexes = column.table.indexes if isinstance(column.table, Table) else ()
    return any(_is_of_use(each, dialect) and column in [*each.columns] for each in indexes)


def find_indexed(
    connection: Connection, columns: Collection[Column[Any]], schemas: Mapping[str | None, str | None]
) -> frozenset[Column[Any]]:
    """Return the columns whose refs can be found by an index that the database has, and may use.

    Args:
        connection: The database.
        columns: The columns in question.
        schemas: The schema translation.
    """
    dialect = connection.dialect.name
    found: set[Column[Any]] = set()
    for table in dict.fromkeys(column.table for column in columns):
        wanted = lookup_indexes(table, dialect)
        there = index_names(connection, table, schemas.get(table.schema, table.schema)) if wanted else set()
        found.update(column for index in wanted if index.name in there for column in index.columns)
    return frozenset(found.intersection(columns))


def index_names(connection: Connection, table: Table, schema: str | None) -> set[str]:
    """Return the names of a table's indexes: on SQLite and PostgreSQL those of expressions too, and only valid ones."""
    quote = connection.dialect.identifier_preparer.quote
    if connection.dialect.name == "sqlite":  # SQLAlchemy's reflection passes over indexes of expressions
        place = f"{quote(schema)}." if schema else ""
        query = f"SELECT name FROM {place}sqlite_master WHERE type = 'index' AND tbl_name = :name"  # noqa: S608 - quoted
        return set(connection.scalars(text(query), {"name": table.name}))
    if connection.dialect.name == "postgresql":  # CREATE INDEX CONCURRENTLY leaves an invalid one where it fails
        query = (
            "SELECT c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = to_regclass(:name) AND i.indisvalid"
        )
        name = ".".join(quote(each) for each in (schema, table.name) if each)
        return set(connection.scalars(text(query), {"name": name}))
    return {str(each["name"]) for each in inspect(connection).get_indexes(table.name, schema=schema)}


def _is_of_use(index: Index, dialect: str | None) -> bool:
    return _is_of_ref(index) or (dialect in (None, "postgresql") and _is_of_list(index))


def _is_of_ref(index: Index) -> bool:
    return any(isinstance(each, ref_location) for each in index.expressions)


def _is_of_list(index: Index) -> bool:
    columns = [*index.columns]
    return (
        len(columns) == 1
        and isinstance(columns[0].type, StoredObjectRefListType)
        and index.dialect_options["postgresql"]["using"] == "gin"
    )
