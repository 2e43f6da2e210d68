"""Links that name a row: made of an object, and read back as a query."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import NoInspectionAvailable

from granite_core.errors import ConfigurationError
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType, is_file_column
from granite_core.refs import StoredObjectRef
from granite_core.urls import KeyValue, RowTarget

if TYPE_CHECKING:
    from sqlalchemy import Column, MetaData, Select
    from sqlalchemy.orm import InstanceState, InstrumentedAttribute, Mapper

    from granite_core.urls import RowLink

__all__ = ["link_column", "link_content", "link_query", "link_target"]


def link_target(row: object, field: InstrumentedAttribute[Any], item: StoredObjectRef | None) -> RowTarget:
    """Return how a link names the file of a row. It asks the database nothing, whatever is expired.

    Args:
        row: An object that was flushed.
        field: The attribute that holds the file, or the files.
        item: Which of the files.

    Raises:
        ConfigurationError: The field is none of the row's model.
        ValueError: The row has no primary key yet, or ``item`` is missing or too much.
    """
    try:
        state: InstanceState[Any] = sa.inspect(row)
        mapper: Mapper[Any] = state.mapper
    except (NoInspectionAvailable, AttributeError):
        raise ConfigurationError(f"url() takes a ref, or a row and its field, not a {type(row).__name__}") from None
    if not mapper.isa(field.class_.__mapper__):
        raise ConfigurationError(f"{field} is no field of {mapper.class_.__name__}")
    if state.identity is None:
        raise ValueError(f"this {mapper.class_.__name__} has no primary key yet: flush it before it is linked to")
    column: Column[Any] = mapper.columns[field.key]
    many = isinstance(column.type, StoredObjectRefListType)
    if many != (item is not None):
        raise ValueError(f"{field} holds {'many files: say item=' if many else 'one file: item= says too much'}")
    known = dict(zip(mapper.primary_key, state.identity, strict=True))
    key = [known[_identifying(each, mapper)] for each in column.table.primary_key]
    content = item or state.dict.get(field.key)
    name = content.original_filename if isinstance(content, StoredObjectRef) else None
    location = None if item is None else item.location
    # Names may be of a class of their own, which says how to quote them.
    return RowTarget(str(column.table.fullname), str(column.name), tuple(map(_plain, key)), location, name)


def link_column(metadatas: Iterable[MetaData], link: RowLink) -> Column[Any] | None:
    """Return the column that a link names, or None where there is no such file column any more.

    Raises:
        ConfigurationError: Two metadatas have such a table, and the link may mean either.
    """
    tables = [metadata.tables[link.table] for metadata in metadatas if link.table in metadata.tables]
    named = [table.columns[link.column] for table in tables if link.column in table.columns]
    found = [each for each in named if is_file_column(each) and len(each.table.primary_key) == len(link.key)]
    if len(found) > 1:
        raise ConfigurationError(f"links to rows of {link.table!r} could mean either of two tables of that name")
    return found[0] if found else None


def link_query(column: Column[Any], link: RowLink) -> Select[Any]:
    """Return the query for what the linked row holds.

    Raises:
        ValueError: The primary key is of another type than it was when the link was made.
    """
    pairs = zip(column.table.primary_key, link.key, strict=True)
    return sa.select(column).where(*(each == _typed(each, value) for each, value in pairs))


def link_content(link: RowLink, content: Any) -> StoredObjectRef | None:
    """Return the file that a link leads to of what its row holds, or None where it is there no longer."""
    if link.item is None:
        return content if isinstance(content, StoredObjectRef) else None
    return next((ref for ref in content or () if ref.location == link.item), None)


def _identifying(column: Column[Any], mapper: Mapper[Any]) -> Column[Any]:
    """The column of the row's identity that a column of an inheriting table's primary key repeats."""
    while column not in mapper.primary_key:
        column = next(key.column for key in column.foreign_keys if key.column.table in mapper.tables)
    return column


def _plain(value: object) -> KeyValue:
    plain: KeyValue = msgspec.to_builtins(value, enc_hook=str)
    return plain


def _typed(column: Column[Any], value: KeyValue) -> object:
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return value
    return msgspec.convert(value, kind, strict=False)
