"""One row's files, by hand: who holds an object, what a row holds, and putting a file into a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Column, Connection, Select, inspect, select, type_coerce
from sqlalchemy.orm import Session

from granite_core.errors import ConfigurationError, ObjectNotFoundError
from granite_core.events import object_id as name_object
from granite_core.gc.ports import FileColumn, RefRow
from granite_core.integrations.sqlalchemy._database import Database
from granite_core.integrations.sqlalchemy._survey import (
    LenientRefs,
    Survey,
    after_key,
    key_text,
    named_columns,
    python_type,
)
from granite_core.integrations.sqlalchemy._transaction import Field, fields_by_class
from granite_core.integrations.sqlalchemy.references import location_in, refs_in
from granite_core.integrations.sqlalchemy.tables import there_already
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType
from granite_core.refs import StoredObjectRef

__all__ = ["RowFile", "RowFiles"]

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file field of one row.

    Args:
        field: Model and attribute.
        key: The row's primary key as text.
        storage_key: The policy whose files go there; None where the field names none.
        many: Whether it holds a list.
        refs: What it holds now.
    """

    field: str
    key: str
    storage_key: str | None
    many: bool
    refs: tuple[StoredObjectRef, ...]


class _Found(msgspec.Struct, frozen=True):
    database: Database
    class_: type
    field: Field


class RowFiles(Survey):
    """The part of the ledger that reads and changes single rows, for commands and scripts."""

    def holders(self, location: str, *, limit: int = 20) -> Sequence[tuple[FileColumn, RefRow]]:
        """Return the rows that hold an object, at most ``limit`` of each column."""
        return [
            (FileColumn(number, *name), row)
            for number, database in enumerate(self._all)
            for name, column in named_columns(database).items()
            for row in _holders_in(database, column, location, limit)
        ]

    def holders_by_id(self, object_id: str) -> Iterator[tuple[FileColumn, RefRow]]:
        """Yield the rows that hold the object which an event or a log line names, be its bytes there or not.

        Reads every file column, in pages. A table without a primary key is passed over.

        Args:
            object_id: The id, as ``granite_core.events.object_id`` makes it.
        """
        for column in self.columns():
            after, more = None, True
            while more:
                try:
                    page = self.refs(column, after=after, limit=_PAGE)
                except ConfigurationError:
                    break
                for row in page.rows:
                    if any(name_object(ref.location) == object_id for ref in row.refs):
                        yield column, row
                after, more = page.after, page.after is not None

    def file_rows(self, field: str) -> Iterator[tuple[Mapping[str, Any], tuple[StoredObjectRef, ...]]]:
        """Yield the rows that have something in a file field: their other columns by name, and the files. In pages.

        Args:
            field: As for ``row_file``.

        Raises:
            ConfigurationError: There is no such field, or several.
        """
        found = self._find(field)
        database, column = found.database, found.field.column
        table: Any = column.table
        keys, plain = [*table.primary_key.columns], [each for each in table.columns if each not in database.columns]
        refs = type_coerce(column, LenientRefs(column.type))
        query = select(*plain, refs).where(column.is_not(None), *there_already(column)).order_by(*keys).limit(_PAGE)
        page = database.read(partial(_all_of, query=query))
        while page:
            rows = [(dict(zip((each.name for each in plain), row, strict=False)), row[-1][0]) for row in page]
            yield from rows
            last = [rows[-1][0][key.name] for key in keys]
            page = database.read(partial(_all_of, query=query.where(after_key(keys, last))))

    def row_file(self, field: str, key: str) -> RowFile:
        """Return what a row holds in a file field.

        Args:
            field: ``Document.file``, with the module in front where there are several, or ``document.file``.
            key: The row's primary key as text; parts are separated by commas.

        Raises:
            ConfigurationError: There is no such field, or several; or the key is none of that model.
            ObjectNotFoundError: There is no such row.
        """
        found = self._find(field)
        with Session(found.database.engine) as session:
            value = getattr(_load(session, found, key), found.field.key)
            many = isinstance(found.field.column.type, StoredObjectRefListType)
            name = f"{found.class_.__name__}.{found.field.key}"
            return RowFile(name, key, found.field.storage_key, many, tuple(refs_in(value)))

    def attach(self, field: str, key: str, ref: StoredObjectRef) -> None:
        """Put a file into a row and commit: in place of the one it holds, or at the end of its list.

        Args: as for ``row_file``; ``ref`` is a staged file, or one that a row holds.

        Raises:
            ConfigurationError: As ``row_file``.
            ObjectNotFoundError: There is no such row.
            StaleRefError: It was staged too long ago.
        """
        found = self._find(field)
        with Session(found.database.engine) as session:
            row = _load(session, found, key)
            if isinstance(found.field.column.type, StoredObjectRefListType):
                setattr(row, found.field.key, [*(getattr(row, found.field.key) or ()), ref])
            else:
                setattr(row, found.field.key, ref)
            session.commit()

    def _find(self, name: str) -> _Found:
        found: dict[str, _Found] = {}
        for database in self._all:
            for class_, fields in [*fields_by_class.items()]:
                for each in fields:
                    if name in _names(class_, each) and any(each.column is column for column in database.columns):
                        found.setdefault(f"{class_.__module__}.{class_.__qualname__}", _Found(database, class_, each))
        if len(found) == 1:
            return next(iter(found.values()))
        if not found:
            known = {
                f"{class_.__name__}.{each.key}" for class_, fields in [*fields_by_class.items()] for each in fields
            }
            raise ConfigurationError(
                f"no file field {name!r}; there are {', '.join(sorted(known)) or 'none'}", field=name, value=name
            )
        raise ConfigurationError(
            f"{name!r} may be {' or '.join(f'{each}.{found[each].field.key}' for each in sorted(found))}: say which",
            field=name,
            value=name,
        )


def _all_of(connection: Connection, query: Select[Any]) -> Sequence[Any]:
    return connection.execute(query).all()


def _names(class_: type, field: Field) -> tuple[str, ...]:
    names = f"{class_.__name__}.{field.key}", f"{class_.__module__}.{class_.__qualname__}.{field.key}"
    table: Any = field.column.table
    if inspect(class_).local_table is not table:  # inherited: the parent goes by the table's name
        return names
    return (*names, f"{table.fullname}.{field.column.name}")


def _load(session: Session, found: _Found, text: str) -> Any:
    keys: Sequence[Column[Any]] = inspect(found.class_).primary_key
    parts = text.split(",") if len(keys) > 1 else [text]
    try:
        if len(parts) != len(keys):
            raise ValueError(f"it has {len(keys)} parts, separated by commas")
        values = [
            msgspec.convert(part.strip(), python_type(key), strict=False) for part, key in zip(parts, keys, strict=True)
        ]
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} is no primary key of {found.class_.__name__}: {error}", field=found.field.key, value=text
        ) from error
    row = session.get(found.class_, values[0] if len(values) == 1 else tuple(values))
    if row is None:
        raise ObjectNotFoundError(f"there is no {found.class_.__name__} {text}", operation="look up")
    return row


def _holders_in(database: Database, column: Column[Any], location: str, limit: int) -> list[RefRow]:
    keys = [*column.table.primary_key.columns]
    refs = type_coerce(column, LenientRefs(column.type))
    query: Select[Any] = select(*keys, refs).select_from(column.table)
    where = location_in(column, database.engine.dialect.name)
    query = query.where(column.is_not(None) if where is None else where == location).execution_options(yield_per=limit)

    def read(connection: Any) -> list[RefRow]:
        found: dict[str, RefRow] = {}
        for row in connection.execute(query):
            held = RefRow(key_text(row[:-1]), *row[-1])
            if any(ref.location == location for ref in held.refs):
                found.setdefault(held.key, held)  # a list that holds it twice comes twice
            if len(found) == limit:
                break
        return [*found.values()]

    return database.read(read)
