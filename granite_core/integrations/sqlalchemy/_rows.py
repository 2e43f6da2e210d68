"""What a flush reads from rows and writes beside them: plain statements, on connections that are handed in."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Column,
    Connection,
    Insert,
    MetaData,
    Table,
    and_,
    bindparam,
    false,
    inspect,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from granite_core.integrations.sqlalchemy._expressions import WANTED, among, packed, takes_plainly, wanted_in
from granite_core.integrations.sqlalchemy._transaction import (
    Field,
    Held,
    Place,
    Tombstones,
    Transaction,
    fields_by_class,
)
from granite_core.integrations.sqlalchemy.references import Question, refs_in
from granite_core.integrations.sqlalchemy.tables import GraniteTables, db_now, tables_of
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile, StoredObjectRef, record_of

__all__ = [
    "NO_OPTIONS",
    "has_table",
    "is_changed",
    "is_there",
    "read_rows",
    "refs_of",
    "register_column",
    "register_columns",
    "registered",
    "write_first",
    "write_tombstones",
]

NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
_READ_BATCH: Final = 500

registered: WeakKeyDictionary[Any, set[Place]] = WeakKeyDictionary()
"""Columns that are known to be registered, by engine."""
present: WeakKeyDictionary[Any, dict[tuple[str | None, str], bool]] = WeakKeyDictionary()
"""Which of Granite's tables were there when they were last asked for, by engine."""

logger = logging.getLogger("granite.tables")


def is_changed(row: InstanceState[Any], each: Field) -> bool:
    """Whether what an object has for a field is another value than what it was loaded with."""
    before = row.committed_state.get(each.key, row)
    if before is row:  # nothing was assigned
        return False
    value = row.dict.get(each.key)
    if isinstance(value, StoredObjectRef):  # as for most; what no flush has seen is in no row
        if isinstance(value, StagedFile) and not value.kept:
            return True
        if not (isinstance(before, StoredObjectRef) and value == before):
            return True
    return row.get_history(each.key, PASSIVE_NO_INITIALIZE).has_changes()


def refs_of(row: InstanceState[Any], each: Field) -> Sequence[StoredObjectRef]:
    return refs_in(row.dict.get(each.key))


def write_first(
    state: Transaction, connection: Connection, column: Column[Any], options: Mapping[str, Any] = NO_OPTIONS
) -> None:
    """Make a transaction on SQLite a writer's before it reads what it is about to change; nothing elsewhere.

    One that has read and then writes is refused at once, "database is locked", when another one has written meanwhile,
    however patient it is; one that writes first waits. A statement that changes no row is enough.
    """
    if connection.dialect.name == "sqlite" and connection not in state.writing:
        nothing = update(column.table).where(false()).values({column: column})
        connection.execute(nothing, execution_options=options)
        state.writing.add(connection)


def read_rows(
    mapper: Mapper[Any],
    connection: Connection,
    identities: Iterable[tuple[Any, ...]],
    *,
    lock: bool,
    question: Question | None = None,
) -> dict[tuple[Any, ...], Held]:
    """Read what rows hold, by their keys; those that are there.

    Args:
        mapper: Of which class.
        connection: Where.
        identities: Their keys.
        lock: Whether to keep others from changing them.
        question: What to ask by the way.
    """
    fields, keys = fields_by_class[mapper.class_], mapper.primary_key
    query = select(*keys, *(each.column for each in fields)).select_from(mapper.persist_selectable).order_by(*keys)
    end = len(keys) + len(fields)
    if question is not None:
        query = query.add_columns(question.column)
    if lock:
        query = query.with_for_update(key_share=True)
    rows: dict[tuple[Any, ...], Held] = {}
    left = iter(identities)
    while batch := [*islice(left, _READ_BATCH)]:
        values: dict[str, object] = {}
        if len(keys) > 1:
            match = or_(*(and_(*(k == v for k, v in zip(keys, identity, strict=True))) for identity in batch))
        elif len(batch) > 1 and takes_plainly(keys[0], connection.dialect):
            match = among(keys[0], connection.dialect.name)
            values[WANTED] = packed(connection.dialect.name, [identity[0] for identity in batch])
        else:
            match = keys[0].in_([identity[0] for identity in batch])
        found = connection.execute(query.where(match), values).all()
        if question is not None and found:
            question.answer(found[0][-1])  # the same in each
        rows.update({tuple(row[: len(keys)]): tuple(row[len(keys) : end]) for row in found})
    return rows


def write_tombstones(
    state: Transaction,
    connection: Connection,
    metadata: MetaData,
    manager: StorageManager | None,
    refs: list[StoredObjectRef],
) -> None:
    tables = tables_of(metadata)
    if tables is None or not is_there(connection, tables.tombstone):
        return
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for ref in refs:
        says = record_of(ref)
        alike[says.backend, says.storage_key].append(says.location)
    dialect = connection.dialect.name
    several = tombstones_for(tables.tombstone, dialect)
    for (backend, storage_key), locations in alike.items():
        common = {"backend": backend, "storage_key": storage_key, "retention": _retention_of(storage_key, manager)}
        if several is not None:
            connection.execute(several, {**common, WANTED: packed(dialect, locations)})
        else:
            one = tables.tombstone.insert().values(written_at=db_now())
            connection.execute(one, [{**common, "location": each} for each in locations])
    state.tombstones.append(Tombstones(connection, metadata, manager, time.monotonic(), refs))


@lru_cache(maxsize=32)
def tombstones_for(table: Table, dialect: str) -> Insert | None:
    """Return the statement for tombstones that differ by their location only, all in one parameter.

    None where the database takes no list as one value.
    """
    rows = wanted_in(dialect)
    if rows is None:
        return None
    t, names = table.c, ("backend", "storage_key", "retention")
    common = [bindparam(name, type_=t[name].type) for name in names]
    return table.insert().from_select(["location", *names, "written_at"], select(rows.c.location, *common, db_now()))


def is_there(connection: Connection, table: Table, options: Mapping[str, Any] = NO_OPTIONS) -> bool:
    """Tell whether the database has one of Granite's tables: after an upgrade its migration may be yet to come."""
    told = _place(connection, table, options) in present.get(connection.engine, {})
    found = has_table(connection, table, options)
    if found or told:
        return found
    schema, name = _place(connection, table, options)
    logger.warning(
        "the database has no table %s: files are kept in step with their rows all the same, and nothing is collected; "
        "create Granite's tables (create_all or a migration), or opt out of them",
        name if schema is None else f"{schema}.{name}",
        extra={"event": "no_table", "table": name},
    )
    return False


def has_table(connection: Connection, table: Table, options: Mapping[str, Any] = NO_OPTIONS) -> bool:
    """Do as ``is_there``, for a table that an application may well do without."""
    place, known = _place(connection, table, options), present.setdefault(connection.engine, {})
    if not known.get(place):
        schema, name = place
        known[place] = inspect(connection).has_table(name, schema=schema)
    return known[place]


def _place(connection: Connection, table: Table, options: Mapping[str, Any]) -> tuple[str | None, str]:
    schemas = {**connection.get_execution_options(), **options}.get("schema_translate_map") or {}
    return schemas.get(table.schema, table.schema), table.name


def _retention_of(storage_key: str, manager: StorageManager | None) -> int:
    """How many milliseconds longer than the grace a file stays; none where its policy is not known any more."""
    policy = None if manager is None else manager.policies.get(storage_key)
    return 0 if policy is None else int(policy.retention.total_seconds() * 1000)


def register_columns(
    state: Transaction,
    connection: Connection,
    columns: Iterable[Column[Any]],
    options: Mapping[str, Any] = NO_OPTIONS,
) -> None:
    """Note which columns hold refs, so that a collector that does not know one of them stops."""
    schemas = repr({**connection.get_execution_options(), **options}.get("schema_translate_map"))
    known = registered.get(connection.engine, set())
    for column in columns:
        tables = tables_of(column.table.metadata)
        if tables is None or (schemas, column) in known or not is_there(connection, tables.column, options):
            continue
        register_column(connection, tables, column, options)
        state.columns.add((connection.engine, (schemas, column)))


def register_column(
    connection: Connection, tables: GraniteTables, column: Column[Any], options: Mapping[str, Any] = NO_OPTIONS
) -> None:
    """Note that a column holds refs, where that is not known."""
    t = tables.column
    names = (column.table.schema or "", column.table.name, column.name)
    there = select(t.c.id).where(t.c.schema_name == names[0], t.c.table_name == names[1], t.c.column_name == names[2])
    # No unique constraint to run into: a second writer would wait for the first one's commit, or fail.
    values = select(*map(literal, names)).where(~there.exists())
    register = t.insert().from_select(["schema_name", "table_name", "column_name"], values)
    connection.execute(register, execution_options=options)
