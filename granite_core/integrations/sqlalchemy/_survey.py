"""What operators look at: how much the rows hold, what waits, where runs stand, and the rows' refs page by page."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Numeric,
    Select,
    String,
    Table,
    and_,
    case,
    cast,
    func,
    or_,
    select,
    type_coerce,
    union,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import TypeDecorator

from granite_core.errors import ConfigurationError
from granite_core.gc.ports import FileColumn, RefPage, RefRow, State, UploadCounts, Usage, Waiting
from granite_core.integrations.sqlalchemy._database import Database
from granite_core.integrations.sqlalchemy._upload_rows import count_uploads
from granite_core.integrations.sqlalchemy.references import element_in, refs_in
from granite_core.integrations.sqlalchemy.tables import db_now, there_already
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType, portable_storage_ref_type
from granite_core.refs import StoredObjectRef

__all__ = ["LenientRefs", "Survey", "after_key", "key_text", "named_columns", "python_type"]

_PARTS: Final = ("storage_key", "backend", "location", "size")
_ADDED_UP_BY: Final = ("postgresql", "sqlite")
_READ_AT_ONCE: Final = 500


class Survey:
    """The part of the ledger that is for looking only; but for ``record`` it writes nothing."""

    _all: list[Database]

    @property
    def databases(self) -> Sequence[int]:
        """The numbers of the databases that have the tables."""
        return [number for number, each in enumerate(self._all) if each.tables is not None]

    def record(self, name: str, data: str) -> None:
        """Keep some text under a name of the collector's state."""
        home = self._state_place()
        if home is None:
            return
        database, t = home

        def step(connection: Connection) -> None:
            changed = connection.execute(t.update().where(t.c.name == name).values(data=data))
            if not changed.rowcount:
                connection.execute(t.insert().values(name=name, data=data))

        with suppress(IntegrityError):  # another one was as fast: one of both is kept
            database.write(step)

    def states(self) -> Mapping[str, State]:
        """Return the collector's state."""
        home = self._state_place()
        if home is None:
            return {}
        database, t = home
        query = select(t.c.name, t.c.holder, t.c.data, t.c.expires_at - db_now())
        return {row[0]: State(row[1], row[3], row[2]) for row in database.read(lambda c: c.execute(query).all())}

    def _state_place(self) -> tuple[Database, Table] | None:
        """The database that keeps the state, and its table."""
        return next(((each, each.tables.state) for each in self._all if each.tables is not None), None)

    def labels(self) -> Sequence[str]:
        """Return what to call each database in a message; without credentials."""
        return [each.label for each in self._all]

    def waiting(self, database: int, *, grace: int) -> Waiting | None:
        """Count the tombstones of a database."""
        tables = self._all[database].tables
        if tables is None:
            return None
        t = tables.tombstone.c
        released, now = t.run.is_(None), db_now()
        due = and_(released, t.written_at + t.retention <= now - grace, t.retry_at <= now)
        retained = and_(released, t.written_at <= now - grace, t.written_at + t.retention > now - grace)
        query = select(
            func.count(case((released, 1))),
            func.count(case((due, 1))),
            func.count(case((retained, 1))),
            func.count(case((and_(released, t.attempts > 0), 1))),
            func.count(case((t.run.is_not(None), 1))),
            func.min(case((released, t.written_at))),
        )
        return self._all[database].read(lambda c: Waiting(*c.execute(query).one()))

    def uploads(self, database: int) -> UploadCounts | None:
        """Count the upload sessions of a database."""
        tables = self._all[database].tables
        if tables is None:
            return None
        return self._all[database].read(partial(count_uploads, t=tables.upload))

    def usage(self, database: int) -> Sequence[Usage]:
        """Add up what the rows of a database hold: in the database where it can, else row by row."""
        it = self._all[database]
        if not it.columns:
            return []
        if it.engine.dialect.name not in _ADDED_UP_BY:
            return it.read(partial(_count, it.columns))
        each = [_parts_of(column, it.engine.dialect.name) for column in it.columns]
        # A union keeps one of equal rows: an object that several rows hold counts once.
        objects = (union(*each) if len(each) > 1 else each[0].distinct()).subquery()
        groups = (func.coalesce(objects.c.storage_key, ""), func.coalesce(objects.c.backend, ""))
        size = func.coalesce(func.sum(objects.c.size), 0)
        query = select(*groups, func.count(), size).group_by(*groups).order_by(*groups)
        return it.read(lambda c: [Usage(row[0], row[1], row[2], int(row[3])) for row in c.execute(query)])

    def columns(self) -> Sequence[FileColumn]:
        """Return every file column of every database, in a stable order."""
        return [FileColumn(number, *name) for number, each in enumerate(self._all) for name in named_columns(each)]

    def refs(self, column: FileColumn, *, after: str | None, limit: int) -> RefPage:
        """Read a page of a file column, in the order of the primary key."""
        database = self._all[column.database]
        found = named_columns(database)[column.table, column.column]
        keys = [*found.table.primary_key.columns]
        if not keys:
            raise ConfigurationError(f"table {column.table} has no primary key: its rows cannot be read page by page")
        refs = type_coerce(found, LenientRefs(found.type))
        query = select(*keys, refs).where(found.is_not(None), *there_already(found)).order_by(*keys).limit(limit)
        if after is not None:
            query = query.where(after_key(keys, _decode(keys, after)))

        def read(connection: Connection) -> RefPage:
            rows = connection.execute(query).all()
            page = tuple(RefRow(key_text(row[:-1]), *row[-1]) for row in rows)
            at_end = len(rows) < limit
            return RefPage(page, None if at_end else _encode(rows[-1][:-1]))

        return database.read(read)


def named_columns(database: Database) -> dict[tuple[str, str], Column[Any]]:
    """The columns by the names they are shown under, schemas translated."""
    found = {}
    for column in database.columns:
        schema = database.schemas.get(column.table.schema, column.table.schema)
        found[".".join(filter(None, (schema, column.table.name))), column.name] = column
    return found


# -- adding up ---------------------------------------------------------------------------------------------------------


def _parts_of(column: Column[Any], dialect: str) -> Select[Any]:
    """Select what is to be added up of a column's refs; anything that is no ref is passed over."""
    part, number = (_part_postgresql, _number_postgresql) if dialect == "postgresql" else (_part_sqlite, _number_sqlite)
    value: Any = element_in(column, dialect) if isinstance(column.type, StoredObjectRefListType) else column
    if dialect == "postgresql":
        value = cast(value, JSONB)  # for a table whose migration said JSON
    wanted = [part(value, name).label(name) for name in _PARTS[:3]]
    query = select(*wanted, number(value, "size").label("size")).select_from(column.table)
    return query.where(part(value, "location").is_not(None), *there_already(column))


def _part_postgresql(value: Any, name: str) -> Any:
    return value.op("->>", return_type=String())(name)


def _number_postgresql(value: Any, name: str) -> Any:
    is_number = func.jsonb_typeof(value.op("->", return_type=JSONB())(name)) == "number"
    return case((is_number, cast(_part_postgresql(value, name), Numeric)), else_=0)


def _part_sqlite(value: Any, name: str) -> Any:
    return func.json_extract(value, f"$.{name}", type_=String)


def _number_sqlite(value: Any, name: str) -> Any:
    return cast(func.coalesce(func.json_extract(value, f"$.{name}"), 0), BigInteger)


def _count(columns: Sequence[Column[Any]], connection: Connection) -> list[Usage]:
    """Where the database cannot look into an array, its rows are read one by one, and what is shared counts twice."""
    objects: Counter[tuple[str, str]] = Counter()
    size: dict[tuple[str, str], int] = defaultdict(int)
    for column in columns:
        query = select(column).where(column.is_not(None), *there_already(column))
        query = query.execution_options(yield_per=_READ_AT_ONCE)
        for value in connection.execute(query).scalars():
            for ref in refs_in(value):
                objects[ref.storage_key, ref.backend] += 1
                size[ref.storage_key, ref.backend] += ref.size
    return [Usage(*key, count, size[key]) for key, count in sorted(objects.items())]


# -- reading page by page ----------------------------------------------------------------------------------------------


class LenientRefs(TypeDecorator[Any]):
    """Reads a column's refs as ``(refs, error)``: one row that cannot be decoded must not hide the others."""

    impl = portable_storage_ref_type()
    cache_ok = False

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner = inner

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        decode = self._inner.result_processor(dialect, coltype)

        def process(value: Any) -> tuple[tuple[StoredObjectRef, ...], str | None]:
            try:
                refs = tuple(refs_in(decode(value)))
                for each in refs:
                    each.to_dict()  # read now: what is no ref says so here
                return refs, None
            except ValueError as error:
                return (), str(error)

        return process


def after_key(keys: Sequence[Column[Any]], values: Sequence[Any]) -> Any:
    """Compare a row's key with another one as a whole, in words that every database knows."""
    steps: list[Any] = []
    for position, (key, value) in enumerate(zip(keys, values, strict=True)):
        same = [before == there for before, there in zip(keys[:position], values[:position], strict=True)]
        steps.append(and_(*same, key > value))
    # The first part once more, by itself: an index can be used for it.
    return and_(keys[0] >= values[0], or_(*steps))


def _encode(values: Sequence[Any]) -> str:
    return msgspec.json.encode(list(values), enc_hook=str).decode()


def _decode(keys: Sequence[Column[Any]], text: str) -> list[Any]:
    """Read a key again.

    Raises:
        ValueError: It is not one of this table.
    """
    found = json.loads(text)
    if not isinstance(found, list) or len(found) != len(keys):
        raise ValueError(f"not a key of {keys[0].table.name}: {text}")
    return [
        msgspec.convert(value, kind, strict=False) for value, kind in zip(found, map(python_type, keys), strict=True)
    ]


def python_type(key: Column[Any]) -> Any:
    try:
        return key.type.python_type
    except NotImplementedError:  # a user's own type: its values are bound as they were read
        return Any


def key_text(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
