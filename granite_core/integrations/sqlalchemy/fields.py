"""Declaring files on a model."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from sqlalchemy import Column, Dialect, Index, Table
from sqlalchemy.orm import MappedColumn, mapped_column

from granite_core.integrations.sqlalchemy.references import ref_location
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType, StoredObjectRefType
from granite_core.refs import StoredObjectRef

__all__ = ["add_index", "file_field", "files_field", "lookup_indexes"]

_INDEX_KEY: Final = "granite_index"
_INDEXED_DIALECTS: Final = ("postgresql", "sqlite")


def file_field(
    storage_key: str = "default", *, index: bool = True, **column_options: Any
) -> MappedColumn[StoredObjectRef | Any]:
    """Declare a column that holds one file: ``file: Mapped[StoredObjectRef | None] = file_field("documents")``.

    Assign a staged file, another row's ref, or ``unsaved(content, filename=…)``; None clears it.

    Args:
        storage_key: The policy whose rules apply to content assigned unsaved; the one named ``default`` where absent.
        index: Whether to add the index by which the collector finds a ref (PostgreSQL and SQLite). Without it each
            sweep reads the whole table.
        column_options: As for ``mapped_column``.
    """
    info = {**column_options.pop("info", {}), _INDEX_KEY: index}  # copied with the column, as a mixin's is
    return mapped_column(StoredObjectRefType(storage_key), info=info, **column_options)


def files_field(storage_key: str = "default", **column_options: Any) -> MappedColumn[list[StoredObjectRef]]:
    """Declare a column that holds a list of files: ``pages: Mapped[list[StoredObjectRef]] = files_field("pages")``.

    A new object begins with an empty list, which says nothing about a row that it is merged into. Appending, removing,
    assigning and reordering are tracked.

    Args:
        storage_key: The policy whose rules apply to content put into the list unsaved; the one named ``default`` where
            absent.
        column_options: As for ``mapped_column``.
    """
    if not column_options.keys() & {"default", "insert_default", "default_factory", "server_default"}:
        column_options["insert_default"] = list
    return mapped_column(StoredObjectRefListType(storage_key), **column_options)


def add_index(column: Column[Any]) -> None:
    """Add the look-up's index to a column's table, where ``file_field`` was told to and it is not there yet."""
    table = column.table
    if not column.info.get(_INDEX_KEY) or not isinstance(table, Table):
        return
    name = f"ix_{table.name}_{column.name}_location"
    if len(name) > 60:  # PostgreSQL cuts names at 63 bytes, and then they may clash
        name = f"ix_{hashlib.sha256(name.encode()).hexdigest()[:16]}_location"
    if all(index.name != name for index in table.indexes):
        Index(name, ref_location(column)).ddl_if(callable_=_can_index)


def lookup_indexes(table: Table) -> list[Index]:
    """Return the indexes of a table by which the collector finds a ref, in a stable order."""
    ours = [index for index in table.indexes if any(isinstance(each, ref_location) for each in index.expressions)]
    return sorted(ours, key=lambda index: str(index.name))


def _can_index(*_: Any, dialect: Dialect, **__: Any) -> bool:
    return dialect.name in _INDEXED_DIALECTS
