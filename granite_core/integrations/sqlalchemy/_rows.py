"""What a flush reads from rows and writes beside them: plain statements, on connections that are handed in."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, MetaData, Table, and_, inspect, literal, or_, select, update
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from granite_core.integrations.sqlalchemy._transaction import (
    Field,
    Held,
    Place,
    Tombstones,
    Transaction,
    fields_by_class,
)
from granite_core.integrations.sqlalchemy.references import file_columns, held_locations, refs_in
from granite_core.integrations.sqlalchemy.tables import db_now, tables_of
from granite_core.manager import StorageManager
from granite_core.refs import StoredObjectRef

__all__ = [
    "is_changed",
    "is_there",
    "look_up",
    "read_rows",
    "refs_of",
    "register_columns",
    "registered",
    "write_tombstones",
]

_READ_BATCH: Final = 200
_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})

registered: WeakKeyDictionary[Any, set[Place]] = WeakKeyDictionary()
"""Columns that are known to be registered, by engine."""
present: WeakKeyDictionary[Any, dict[tuple[str | None, str], bool]] = WeakKeyDictionary()
"""Which of Granite's tables were there when they were last asked for, by engine."""

logger = logging.getLogger("granite.tables")


def is_changed(target: object, each: Field) -> bool:
    return get_history(target, each.key, PASSIVE_NO_INITIALIZE).has_changes()


def refs_of(target: object, each: Field) -> Iterator[StoredObjectRef]:
    return refs_in(inspect(target).dict.get(each.key))


def look_up(
    session: Session,
    mapper: Mapper[Any] | None,
    targets: list[object],
    metadata: MetaData,
    locations: set[str],
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> set[str]:
    """Return those that a row holds: look first in the rows to be changed, by their keys, then in all, everywhere."""
    held: set[str] = set()
    identities = {state.identity for state in map(inspect, targets) if state.identity is not None}
    if mapper is not None and identities:
        connection = _primary(session, mapper, mapper.local_table)
        rows = read_rows(mapper, connection, identities, lock=False).values()
        held.update(ref.location for row in rows for refs in row.values() for ref in refs)
    classes = {each.column: class_ for class_, fields in [*fields_by_class.items()] for each in fields}
    places: dict[Connection, list[Column[Any]]] = defaultdict(list)
    for column in () if locations <= held else file_columns(metadata):
        mapped = inspect(classes[column]) if column in classes else None
        with suppress(UnboundExecutionError):  # a table that this session has no engine for
            places[_primary(session, mapped, column.table)].append(column)
    for connection, columns in places.items():
        held |= held_locations(connection, columns, locations - held, execution_options=options)
    return held & locations


def _primary(session: Session, mapper: Mapper[Any] | None, table: Any) -> Connection:
    """The connection a session would write a table on: some sessions send what reads to a replica."""
    found_by: dict[str, Any] = {"clause": update(table)}
    return session.connection(bind_arguments=found_by if mapper is None else {**found_by, "mapper": mapper})


def read_rows(
    mapper: Mapper[Any], connection: Connection, identities: Iterable[tuple[Any, ...]], *, lock: bool
) -> dict[tuple[Any, ...], Held]:
    fields, keys = fields_by_class[mapper.class_], mapper.primary_key
    query = select(*keys, *(each.column for each in fields)).select_from(mapper.persist_selectable).order_by(*keys)
    if lock:
        query = query.with_for_update(key_share=True)
    rows: dict[tuple[Any, ...], Held] = {}
    left = iter(identities)
    while batch := [*islice(left, _READ_BATCH)]:
        match = (
            keys[0].in_([identity[0] for identity in batch])
            if len(keys) == 1
            else or_(*(and_(*(k == v for k, v in zip(keys, identity, strict=True))) for identity in batch))
        )
        for row in connection.execute(query.where(match)):
            values = zip(fields, row[len(keys) :], strict=True)
            rows[tuple(row[: len(keys)])] = {each: [*refs_in(value)] for each, value in values}
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
    connection.execute(
        tables.tombstone.insert().values(written_at=db_now()),
        [
            {
                "location": ref.location,
                "backend": ref.backend,
                "storage_key": ref.storage_key,
                "retention": _retention_of(ref, manager),
            }
            for ref in refs
        ],
    )
    state.tombstones.append(Tombstones(connection, metadata, manager, time.monotonic(), refs))


def is_there(connection: Connection, table: Table, options: Mapping[str, Any] = _NO_OPTIONS) -> bool:
    """Tell whether the database has one of Granite's tables: after an upgrade its migration may be yet to come."""
    schemas = {**connection.get_execution_options(), **options}.get("schema_translate_map") or {}
    schema = schemas.get(table.schema, table.schema)
    known = present.setdefault(connection.engine, {})
    if known.get((schema, table.name)):
        return True
    told = (schema, table.name) in known
    found = known[schema, table.name] = inspect(connection).has_table(table.name, schema=schema)
    if found or told:
        return found
    logger.warning(
        "the database has no table %s: files are kept in step with their rows all the same, and nothing is collected; "
        "create Granite's tables (create_all or a migration), or opt out of them",
        table.name if schema is None else f"{schema}.{table.name}",
        extra={"event": "no_table", "table": table.name},
    )
    return False


def _retention_of(ref: StoredObjectRef, manager: StorageManager | None) -> int:
    """How many milliseconds longer than the grace a file stays; none where its policy is not known any more."""
    policy = None if manager is None else manager.policies.get(ref.storage_key)
    return 0 if policy is None else int(policy.retention.total_seconds() * 1000)


def register_columns(
    state: Transaction,
    connection: Connection,
    columns: Iterable[Column[Any]],
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> None:
    """Note which columns hold refs, so that a collector that does not know one of them stops."""
    schemas = repr({**connection.get_execution_options(), **options}.get("schema_translate_map"))
    known = registered.get(connection.engine, set())
    for column in columns:
        tables = tables_of(column.table.metadata)
        if tables is None or (schemas, column) in known or not is_there(connection, tables.column, options):
            continue
        t = tables.column
        names = (column.table.schema or "", column.table.name, column.name)
        there = select(t.c.id).where(
            t.c.schema_name == names[0], t.c.table_name == names[1], t.c.column_name == names[2]
        )
        # No unique constraint to run into: a second writer would wait for the first one's commit, or fail.
        values = select(*map(literal, names)).where(~there.exists())
        register = t.insert().from_select(["schema_name", "table_name", "column_name"], values)
        connection.execute(register, execution_options=options)
        state.columns.add((connection.engine, (schemas, column)))
