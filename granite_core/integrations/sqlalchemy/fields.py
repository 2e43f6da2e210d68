"""Declaring files on a model."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from sqlalchemy import Column, Dialect, Index, Table, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.orm import MappedColumn, mapped_column

from granite_core.integrations.sqlalchemy._expressions import ref_location
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType, StoredObjectRefType
from granite_core.refs import StoredObjectRef

__all__ = ["INDEX_KEY", "add_index", "file_field", "files_field"]

INDEX_KEY: Final = "granite_index"
"""Where a file column's ``info`` says whether it has the look-up's index."""
_POSTGRESQL: Final = PGDialect()  # type: ignore[no-untyped-call] # SQLAlchemy has it untyped
_INDEXED_DIALECTS: Final = ("postgresql", "sqlite")


def file_field(
    storage_key: str = "default", *, index: bool = True, **column_options: Any
) -> MappedColumn[StoredObjectRef | Any]:
    """Declare a column that holds one file: ``file: Mapped[StoredObjectRef | None] = file_field("documents")``.

    Assign a staged file, another row's ref, or ``unsaved(content, filename=…)``; None clears it.

    Args:
        storage_key: The policy whose rules apply to content assigned unsaved; the one named ``default`` where absent.
        index: Whether to add the index by which the collector finds a ref (PostgreSQL and SQLite). Without it each
            sweep, and each page of a reconcile, reads the whole table.
        column_options: As for ``mapped_column``.
    """
    info = {**column_options.pop("info", {}), INDEX_KEY: index}  # copied with the column, as a mixin's is
    return mapped_column(StoredObjectRefType(storage_key), info=info, **column_options)


def files_field(
    storage_key: str = "default", *, index: bool = True, **column_options: Any
) -> MappedColumn[list[StoredObjectRef]]:
    """Declare a column that holds a list of files: ``pages: Mapped[list[StoredObjectRef]] = files_field("pages")``.

    A new object begins with an empty list, which says nothing about a row that it is merged into. Appending, removing,
    assigning and reordering are tracked.

    Args:
        storage_key: The policy whose rules apply to content put into the list unsaved; the one named ``default`` where
            absent.
        index: Whether to add the index by which the collector finds a ref (PostgreSQL; SQLite has none for arrays, and
            gets an empty one, so that migrations are the same). Without it each batch of a sweep, and each page of a
            reconcile, reads the whole table.
        column_options: As for ``mapped_column``.
    """
    info = {**column_options.pop("info", {}), INDEX_KEY: index}  # copied with the column, as a mixin's is
    if not column_options.keys() & {"default", "insert_default", "default_factory", "server_default"}:
        column_options["insert_default"] = list
    return mapped_column(StoredObjectRefListType(storage_key), info=info, **column_options)


def add_index(column: Column[Any]) -> None:
    """Add the look-up's index to a column's table, where the field was told to and it is not there yet."""
    table = column.table
    if not column.info.get(INDEX_KEY) or not isinstance(table, Table):
        return
    name = f"ix_{table.name}_{column.name}_location"
    if len(name) > 60:  # PostgreSQL cuts names at 63 bytes, and then they may clash
        name = f"ix_{hashlib.sha256(name.encode()).hexdigest()[:16]}_location"
    if all(index.name != name for index in table.indexes):
        make = _index_of_list if isinstance(column.type, StoredObjectRefListType) else _index_of_ref
        make(name, column).ddl_if(callable_=_can_index)


def _index_of_ref(name: str, column: Column[Any]) -> Index:
    """Compared byte by byte: faster than by a language's rules, and right when a system's update changes those.

    An index in an order that is no more the system's finds rows no longer, and what it does not find would be deleted.
    """
    location = ref_location(column)
    # What PostgreSQL calls it is its key, here and in a migration: other databases pass over the operator class.
    location.key = str(location.compile(dialect=_POSTGRESQL, compile_kwargs={"include_table": False}))
    return Index(name, location, postgresql_ops={location.key: "text_pattern_ops"})


def _index_of_list(name: str, column: Column[Any]) -> Index:
    """Of the column as it is, and of no row on SQLite: so the same migration runs on both."""
    ops = dict.fromkeys((column.key, column.name), "jsonb_path_ops")
    return Index(name, column, postgresql_using="gin", postgresql_ops=ops, sqlite_where=text("0"))


def _can_index(*_: Any, dialect: Dialect, **__: Any) -> bool:
    return dialect.name in _INDEXED_DIALECTS
