"""The coupling of files to the session: the only file that listens to session, mapper and pool events.

Storing: bytes first, row second. ``before_flush`` stores what is unsaved and decides which refs the flush may let into
rows; ``before_commit`` flushes and decides again. A ref gets in when it is known to be good since less than a quarter
of the grace: since it was staged, or, when a committed row holds it, since this database transaction began.

Letting go: the flush reads from the rows what they held (attribute history is empty for expired, stale for raced
attributes), and leaves a tombstone for what they hold no more, in the same transaction, so that a rollback undoes it.
Nothing is deleted here. That is why rollbacks, savepoints, joined transactions, AUTOCOMMIT and lost answers to COMMIT
need no case of their own; what was flushed and not committed is noted for the collector, for promptness only.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, MetaData, Pool, Result, and_, event, inspect, literal, or_, select
from sqlalchemy.exc import InvalidRequestError, StatementError, UnboundExecutionError
from sqlalchemy.ext.mutable import MutableList
from sqlalchemy.orm import (
    ColumnProperty,
    InstanceState,
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    object_session,
)
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE
from sqlalchemy.util import await_only

from granite_core.aio import AsyncStorageManager
from granite_core.errors import ConfigurationError, StaleRefError, StorageError
from granite_core.integrations.sqlalchemy._greenlet import in_greenlet
from granite_core.integrations.sqlalchemy.fields import add_index
from granite_core.integrations.sqlalchemy.references import file_columns, held_locations, refs_in
from granite_core.integrations.sqlalchemy.tables import db_now, tables_of
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType, binding, is_file_column
from granite_core.keys import clean_segment
from granite_core.manager import MANAGER_KEY, StorageManager
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.sources import UnsavedFile

__all__ = ["install"]

_STATE: Final = "granite_transaction"
_COMMITTING: Final = "granite_committing"
_CLOCK_SKEW: Final = timedelta(seconds=5)  # by how much the clock of a host that staged may be ahead of ours
_READ_BATCH: Final = 200
_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
_TOMBSTONE_AGE: Final = timedelta(minutes=30)  # where no manager says what a quarter of the grace is


@dataclass(frozen=True, slots=True)
class _Field:
    """One file column as an attribute of a mapped class."""

    key: str
    column: Column[Any]

    @property
    def storage_key(self) -> str | None:
        return cast("str | None", cast("Any", self.column.type).storage_key)

    @property
    def manager(self) -> StorageManager:
        manager = self.column.table.metadata.info.get(MANAGER_KEY)
        if not isinstance(manager, StorageManager):
            raise ConfigurationError(
                f"no storage manager is bound to the models of {self.column.table.name}.{self.column.name}: "
                "call manager.register(Base) once, where the manager is made",
                field=self.key,
            )
        return manager


_Held: TypeAlias = dict[_Field, list[StoredObjectRef]]
_Place: TypeAlias = tuple[str, Column[Any]]  # a column, in the schemas that a connection translates to


@dataclass(slots=True)
class _Tombstones:
    """Tombstones of one flush on one connection."""

    connection: Connection
    metadata: Any
    written: float
    refs: list[StoredObjectRef]


@dataclass(slots=True)
class _Transaction:
    """What a root transaction of a session knows and did. Knowledge stays true when a savepoint is rolled back."""

    began: float = field(default_factory=time.monotonic)
    connections: set[Connection] = field(default_factory=set)
    good: dict[str, datetime] = field(default_factory=dict)
    rests_on: set[str] = field(default_factory=set)
    oldest: dict[StorageManager, datetime] = field(default_factory=dict)
    flushed: list[tuple[StorageManager, StoredObjectRef]] = field(default_factory=list)
    tombstones: list[_Tombstones] = field(default_factory=list)
    columns: set[tuple[Any, _Place]] = field(default_factory=set)
    committing: bool = False
    committed: bool = False
    undone: bool = False
    # of the flush that is under way
    context: Any = None
    held: dict[InstanceState[Any], _Held] = field(default_factory=dict)
    released: dict[Connection, list[tuple[Column[Any], StoredObjectRef]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    touched: dict[Connection, set[Column[Any]]] = field(default_factory=lambda: defaultdict(set))

    def begin_flush(self, context: Any) -> None:
        """Forget the flush before, which may have failed half-way."""
        self.context = context
        self.held.clear()
        self.released.clear()
        self.touched.clear()

    def began_at(self, manager: StorageManager) -> datetime:
        return manager.now() - timedelta(seconds=time.monotonic() - self.began)

    def rest_on(self, ref: StoredObjectRef, manager: StorageManager, since: datetime) -> None:
        self.good[ref.location] = since
        self.rests_on.add(ref.location)
        self.oldest[manager] = min(since, self.oldest.get(manager, since))


_fields: WeakKeyDictionary[type, tuple[_Field, ...]] = WeakKeyDictionary()
_registered: WeakKeyDictionary[Any, set[_Place]] = WeakKeyDictionary()


@cache
def install() -> None:
    """Listen to every session and mapper; done once, by the first file column that is declared."""
    event.listen(Mapper, "after_mapper_constructed", _on_mapper)
    event.listen(Mapper, "mapper_configured", _on_configured)
    event.listen(Session, "after_begin", _on_begin)
    event.listen(Session, "before_flush", _on_before_flush)
    event.listen(Session, "after_flush", _on_after_flush)
    event.listen(Session, "before_commit", _on_before_commit)
    event.listen(Session, "after_commit", _on_after_commit)
    event.listen(Session, "after_rollback", _on_after_rollback)
    event.listen(Session, "after_transaction_end", _on_transaction_end)
    event.listen(Session, "do_orm_execute", _on_execute)
    event.listen(Pool, "checkin", _on_checkin)


# -- declaring ---------------------------------------------------------------------------------------------------------


def _on_mapper(mapper: Mapper[Any], class_: type) -> None:
    """Find the file columns of a mapped class; add Granite's tables and the look-up's indexes to its metadata."""
    known = _fields.get(class_, ())
    found = tuple(
        _Field(prop.key, column)
        for prop in mapper.iterate_properties
        if isinstance(prop, ColumnProperty)
        for column in prop.columns[:1]
        if isinstance(column, Column) and is_file_column(column)
    )
    for each in found:
        if each in known:
            continue
        tables_of(each.column.table.metadata)
        add_index(each.column)
        if isinstance(each.column.type, StoredObjectRefListType):
            event.listen(class_, "init", partial(_begin_with_list, each.key))
            if mapper.get_property(each.key).parent is mapper:
                MutableList.associate_with_attribute(getattr(class_, each.key))
    if found:
        _fields[class_] = found


def _on_configured(mapper: Mapper[Any], class_: type) -> None:
    """Listen to the rows of a mapped class, after whatever listeners its module added: they may assign files too."""
    _on_mapper(mapper, class_)  # attributes may have been added since
    if class_ in _fields:
        event.listen(mapper, "before_insert", _on_before_insert)
        event.listen(mapper, "before_update", _on_before_update)
        event.listen(mapper, "before_delete", _on_before_delete)
        event.listen(mapper, "after_insert", _on_after_save)
        event.listen(mapper, "after_update", _on_after_save)
        event.listen(mapper, "after_delete", _on_after_delete)


def _begin_with_list(key: str, target: object, args: Any, kwargs: dict[str, Any]) -> None:
    """A new object begins with an empty list, so that ``row.pages.append(…)`` works before the first flush."""
    if key not in kwargs and key not in inspect(target).dict:
        setattr(target, key, [])


# -- storing -----------------------------------------------------------------------------------------------------------


def _on_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    state = _transaction(session)
    if not state.connections:
        state.began = time.monotonic()
    state.connections.add(connection)
    if state.committing:
        _mark_committing([connection], on=True)


def _on_before_flush(session: Session, context: Any, instances: object) -> None:
    """Store what is unsaved, then decide which refs may enter rows: both before the flush's first statement."""
    changed = [
        (target, each)
        for target in (*session.new, *session.dirty)
        for each in _fields.get(type(target), ())
        if _is_changed(target, each)
    ]
    state = _transaction(session)
    state.begin_flush(context)
    for target, each in changed:
        _store_unsaved(state, target, each)
    by_mapper: dict[Mapper[Any], list[tuple[object, _Field]]] = defaultdict(list)
    for target, each in changed:
        by_mapper[inspect(type(target))].append((target, each))
    for mapper, pairs in by_mapper.items():
        wanted = [(each, ref) for target, each in pairs for ref in _refs(target, each)]
        _admit(state, wanted, partial(_look_up, session, mapper, [target for target, _ in pairs]))


def _on_before_insert(mapper: Mapper[Any], connection: Connection, target: object) -> None:
    _admit_late(mapper, connection, target, _fields[mapper.class_])
    if mapper.identity_key_from_instance(target) in _session(target).identity_map:
        # The row of a deleted object, which SQLAlchemy updates instead.
        _read_held(mapper, connection, target)


def _admit_late(mapper: Mapper[Any], connection: Connection, target: object, fields: Iterable[_Field]) -> None:
    """What another listener assigned after ``before_flush`` is stored too, and passes the same rule."""
    session = _session(target)
    state = _transaction(session)
    late: list[tuple[_Field, StoredObjectRef]] = []
    for each in fields:
        _store_unsaved(state, target, each)
        refs = [*_refs(target, each)]
        if refs:
            state.touched[connection].add(each.column)
        late.extend((each, ref) for ref in refs if ref.location not in state.rests_on)
    if late:
        _admit(state, late, partial(_look_up, session, mapper, [target]))


def _store_unsaved(state: _Transaction, target: object, each: _Field) -> None:
    value = inspect(target).dict.get(each.key)
    if isinstance(value, UnsavedFile):
        setattr(target, each.key, _store(state, target, each, value))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, UnsavedFile):
                value[index] = _store(state, target, each, item)


def _store(state: _Transaction, target: object, each: _Field, content: UnsavedFile) -> StagedFile:
    """Store content once: a flush that is tried again after a rollback finds what the first one stored."""
    manager = each.manager
    storage_key = each.storage_key
    if storage_key is None:
        raise ConfigurationError(
            f"{each.column.table.name}.{each.column.name} names no policy: declare it with file_field(storage_key) or "
            "StoredObjectRefType(storage_key), or assign a staged ref",
            field=each.key,
        )

    known = content.stored.get((manager, storage_key))
    if known is not None and _is_fresh(known, manager):
        return known
    identity = _identity_text(target)

    def put() -> StagedFile:
        with (
            content.source.open() as stream,
            manager.stage(
                storage_key,
                filename=content.original_filename,
                content_type=content.content_type,
                field=each.key,
                model_name=clean_segment(type(target).__name__.lower()) if identity else None,
                entity_id=identity,
                field_name=clean_segment(each.key) if identity else None,
            ) as write,
        ):
            while data := stream.read(1024 * 1024):
                write.write(data)
            return write.commit()

    stored = _await_put(manager, storage_key, put) if in_greenlet() else put()
    content.stored[manager, storage_key] = stored
    stored.mark_used()
    state.flushed.append((manager, stored))
    return stored


def _await_put(manager: StorageManager, storage_key: str, put: Any) -> StagedFile:
    """Store from within SQLAlchemy's greenlet, in the backend's threads."""
    return await_only(AsyncStorageManager(manager).put_by(storage_key, put))


def _admit(
    state: _Transaction,
    wanted: list[tuple[_Field, StoredObjectRef]],
    look_up: Callable[[MetaData, set[str]], set[str]],
) -> None:
    """Let refs into rows, or refuse. Good is what was staged lately, or what a committed row holds.

    Raises:
        StaleRefError: A ref is too old, was let go, or is held by no row.
    """
    unknown: dict[MetaData, list[tuple[_Field, StoredObjectRef]]] = defaultdict(list)
    for each, ref in wanted:
        manager = each.manager
        since = state.good.get(ref.location)
        if since is None:
            if not _is_fresh(ref, manager):
                unknown[each.column.table.metadata].append((each, ref))
                continue
            since = datetime.fromisoformat(ref.created_at or "")
            state.flushed.append((manager, ref))
        if manager.now() - since >= manager.attach_within:
            raise _stale(each, ref, "it is known to be good since too long ago")
        if isinstance(ref, StagedFile) and not ref.mark_used():
            raise _stale(each, ref, "it was let go already")
        state.rest_on(ref, manager, since)
    for metadata, pairs in unknown.items():
        held = look_up(metadata, {ref.location for _, ref in pairs})
        for each, ref in pairs:
            since = state.began_at(each.manager)
            if ref.location not in held:
                raise _stale(each, ref, "it was not staged lately, and no row holds it")
            if each.manager.now() - since >= each.manager.attach_within:
                raise _stale(each, ref, "the transaction that looked it up is too old")
            state.rest_on(ref, each.manager, since)


def _look_up(
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
        connection = session.connection(bind_arguments={"mapper": mapper})
        rows = _read_rows(mapper, connection, identities, lock=False).values()
        held.update(ref.location for row in rows for refs in row.values() for ref in refs)
    classes = {each.column: class_ for class_, fields in [*_fields.items()] for each in fields}
    places: dict[Connection, list[Column[Any]]] = defaultdict(list)
    for column in () if locations <= held else file_columns(metadata):
        found_by = {"mapper": inspect(classes[column])} if column in classes else {"clause": column.table}
        with suppress(UnboundExecutionError):  # a table that this session has no engine for
            places[session.connection(bind_arguments=found_by)].append(column)
    for connection, columns in places.items():
        held |= held_locations(connection, columns, locations - held, execution_options=options)
    return held & locations


def _on_before_commit(session: Session) -> None:
    """Check. What is not flushed yet SQLAlchemy flushes next, and each flush ends with the same check.

    So nothing slow comes between the last check and COMMIT.
    """
    state = _transaction(session)
    _check(state)
    if not session.in_nested_transaction():
        state.committing = True
        _mark_committing(state.connections, on=True)


def _check(state: _Transaction) -> None:
    """Everything the transaction rests on is younger than a quarter of the grace; old tombstones are renewed.

    Raises:
        StaleRefError: A ref it lets into a row is older.
    """
    for manager, since in state.oldest.items():
        if manager.now() - since >= manager.attach_within:
            raise StaleRefError(
                f"a file of this transaction was staged, or looked up, longer than {manager.attach_within} ago: "
                "roll back and store it again",
                operation="commit",
                limit=manager.attach_within,
                value=manager.now() - since,
            )
    for written in [*state.tombstones]:
        manager = written.metadata.info.get(MANAGER_KEY)
        limit = manager.attach_within if isinstance(manager, StorageManager) else _TOMBSTONE_AGE
        if timedelta(seconds=time.monotonic() - written.written) >= limit:
            state.tombstones.remove(written)
            _write_tombstones(state, written.connection, written.metadata, written.refs)


# -- letting go --------------------------------------------------------------------------------------------------------


def _on_before_update(mapper: Mapper[Any], connection: Connection, target: object) -> None:
    changed = [each for each in _fields[mapper.class_] if _is_changed(target, each)]
    if changed:
        _admit_late(mapper, connection, target, changed)
        _read_held(mapper, connection, target)


def _on_before_delete(mapper: Mapper[Any], connection: Connection, target: object) -> None:
    _read_held(mapper, connection, target)


def _on_after_save(mapper: Mapper[Any], connection: Connection, target: object) -> None:
    """Release what the row holds no more; refuse what a listener after ours put into it."""
    state = _transaction(_session(target))
    held = state.held.pop(inspect(target), {})
    kept: set[str] = set()
    for each in _fields[mapper.class_]:
        if not _is_changed(target, each):  # loaded or not, it is in the row as before
            kept.update(ref.location for ref in held.get(each, ()))
            continue
        refs = [*_refs(target, each)]
        kept.update(ref.location for ref in refs)
        _admit(state, [(each, ref) for ref in refs if ref.location not in state.rests_on], _look_up_too_late)
    _release(state, connection, held, kept)


def _look_up_too_late(metadata: MetaData, locations: set[str]) -> set[str]:
    """The row itself is written already: a look-up would find it."""
    return set()


def _on_after_delete(mapper: Mapper[Any], connection: Connection, target: object) -> None:
    state = _transaction(_session(target))
    _release(state, connection, state.held.pop(inspect(target), {}), set())


def _release(state: _Transaction, connection: Connection, held: _Held, kept: set[str]) -> None:
    """Remember what the row held and holds no more; the tombstones are written when the flush has ended."""
    gone = [(each.column, ref) for each, refs in held.items() for ref in refs if ref.location not in kept]
    if gone:
        state.released[connection].extend(gone)


def _read_held(mapper: Mapper[Any], connection: Connection, target: object) -> None:
    """Read what the row holds now, and with it every other row of this flush: one query per mapper and flush."""
    state = _transaction(_session(target))
    if inspect(target) in state.held:
        return
    wanted: dict[InstanceState[Any], tuple[Any, ...]] = {
        inspect(target): inspect(target).identity or tuple(mapper.primary_key_from_instance(target))
    }
    for other, (is_delete, _) in getattr(state.context, "states", {}).items():
        instance = other.obj()
        if other.mapper is not mapper or instance is None or other.identity is None or other in state.held:
            continue
        if is_delete or any(_is_changed(instance, each) for each in _fields[mapper.class_]):
            wanted[other] = other.identity
    # The rows are about to be changed anyway; locked here, what is read is what the change replaces.
    rows = _read_rows(mapper, connection, wanted.values(), lock=True)
    for each, identity in wanted.items():
        state.held[each] = rows.get(identity, {})  # nothing, where another transaction deleted the row


def _read_rows(
    mapper: Mapper[Any], connection: Connection, identities: Iterable[tuple[Any, ...]], *, lock: bool
) -> dict[tuple[Any, ...], _Held]:
    fields, keys = _fields[mapper.class_], mapper.primary_key
    query = select(*keys, *(each.column for each in fields)).select_from(mapper.persist_selectable).order_by(*keys)
    if lock:
        query = query.with_for_update(key_share=True)
    rows: dict[tuple[Any, ...], _Held] = {}
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


def _on_after_flush(session: Session, context: Any) -> None:
    """Leave tombstones, after the rows' own statements and on their connection; register columns that got a ref."""
    state = session.info.get(_STATE)
    if not isinstance(state, _Transaction):
        return
    for connection, columns in state.touched.items():
        _register_columns(state, connection, columns)
    for connection, released in state.released.items():
        by_metadata: dict[Any, list[StoredObjectRef]] = defaultdict(list)
        for column, ref in released:
            by_metadata[column.table.metadata].append(ref)
            # Its row was read, and locked, in this transaction: good since that began.
            manager = column.table.metadata.info.get(MANAGER_KEY)
            if isinstance(manager, StorageManager):
                state.good.setdefault(ref.location, state.began_at(manager))
        for metadata, refs in by_metadata.items():
            _write_tombstones(state, connection, metadata, refs)
    state.begin_flush(None)
    if state.committing:
        _check(state)


def _write_tombstones(state: _Transaction, connection: Connection, metadata: Any, refs: list[StoredObjectRef]) -> None:
    tables = tables_of(metadata)
    if tables is None:
        return
    connection.execute(
        tables.tombstone.insert().values(written_at=db_now()),
        [{"location": ref.location, "backend": ref.backend, "storage_key": ref.storage_key} for ref in refs],
    )
    state.tombstones.append(_Tombstones(connection, metadata, time.monotonic(), refs))


def _register_columns(
    state: _Transaction,
    connection: Connection,
    columns: Iterable[Column[Any]],
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> None:
    """Note which columns hold refs, so that a collector that does not know one of them stops."""
    schemas = repr({**connection.get_execution_options(), **options}.get("schema_translate_map"))
    known = _registered.get(connection.engine, set())
    for column in columns:
        tables = tables_of(column.table.metadata)
        if tables is None or (schemas, column) in known:
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


# -- the end of a transaction ------------------------------------------------------------------------------------------


def _on_after_commit(session: Session) -> None:
    state = session.info.get(_STATE)
    if not isinstance(state, _Transaction) or session.in_nested_transaction():
        return
    state.committed = True
    state.committing = False
    _mark_committing(state.connections, on=False)


def _on_after_rollback(session: Session) -> None:
    state = session.info.get(_STATE)
    if not isinstance(state, _Transaction):
        return
    state.undone = True
    if not session.in_nested_transaction():
        state.committing = False
        _mark_committing(state.connections, on=False)


def _on_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    state = session.info.get(_STATE)
    if not isinstance(state, _Transaction) or transaction.parent is not None:
        return
    session.info.pop(_STATE, None)
    if state.undone or not state.committed:
        for manager, ref in state.flushed:
            manager.note([ref])
    elif not isinstance(session.bind, Connection):
        for engine, place in state.columns:
            _registered.setdefault(engine, set()).add(place)


def _mark_committing(connections: Iterable[Connection], *, on: bool) -> None:
    """Mark the pooled connections while their COMMIT is under way; see ``_on_checkin``."""
    for connection in connections:
        with suppress(InvalidRequestError):
            if connection.closed or connection.invalidated:
                continue
            if on:
                connection.info[_COMMITTING] = True
            else:
                connection.info.pop(_COMMITTING, None)


def _on_checkin(dbapi_connection: Any, record: Any) -> None:
    """After a COMMIT that failed, ``Session.close()`` sends no ROLLBACK: the next user would commit those rows."""
    if record.info.pop(_COMMITTING, None) is None or dbapi_connection is None:
        return
    try:
        dbapi_connection.rollback()
    except Exception as error:  # noqa: BLE001 - whatever the driver raises, the connection must not be used again
        record.invalidate(error)


# -- statements past the flush -----------------------------------------------------------------------------------------


def _on_execute(execution: ORMExecuteState) -> Result[Any] | None:
    """Apply the flush's rule to refs that an ``insert()`` or ``update()`` of the session writes."""
    if not (execution.is_insert or execution.is_update):
        return None
    statement: Any = execution.statement
    table = (statement.element if execution.is_from_statement else statement).table
    mapper = execution.bind_mapper
    fields = _fields.get(mapper.class_, ()) if mapper is not None else ()
    fields = fields or tuple(_Field(column.name, column) for column in table.columns if is_file_column(column))
    if not fields:
        return None
    session = execution.session
    connection = session.connection(bind_arguments=execution.bind_arguments)
    state = _transaction(session)
    options = {k: v for k, v in execution.execution_options.items() if k == "schema_translate_map"}

    def admit(ref: StoredObjectRef) -> None:
        _admit(state, [(fields[0], ref)], partial(_look_up, session, None, [], options=options))

    token = binding.set(admit)
    try:
        result = execution.invoke_statement()
    except StatementError as error:
        if isinstance(error.orig, StorageError):
            raise error.orig from None
        raise
    finally:
        binding.reset(token)
    _register_columns(state, connection, [each.column for each in fields], options)
    return result


# -- small things ------------------------------------------------------------------------------------------------------


def _session(target: object) -> Session:
    session = object_session(target)
    if session is None:
        raise InvalidRequestError("the object is in no session")
    return session


def _transaction(session: Session) -> _Transaction:
    state = session.info.get(_STATE)
    if not isinstance(state, _Transaction):
        state = session.info[_STATE] = _Transaction()
    return state


def _is_changed(target: object, each: _Field) -> bool:
    return get_history(target, each.key, PASSIVE_NO_INITIALIZE).has_changes()


def _refs(target: object, each: _Field) -> Iterator[StoredObjectRef]:
    return refs_in(inspect(target).dict.get(each.key))


def _identity_text(target: object) -> str | None:
    """The primary key as one key segment, where it is known before the row is written."""
    mapper: Mapper[Any] = inspect(type(target))
    values = inspect(target).identity or mapper.primary_key_from_instance(target)
    return clean_segment(",".join(map(str, values))) if all(value is not None for value in values) else None


def _is_fresh(ref: StoredObjectRef, manager: StorageManager) -> bool:
    """Whether a ref was staged less than a quarter of the grace ago, by its own word: clients never write one."""
    try:
        staged_at = datetime.fromisoformat(ref.created_at or "")
        return -_CLOCK_SKEW <= manager.now() - staged_at < manager.attach_within
    except (ValueError, TypeError):  # no date, or one without a time zone
        return False


def _stale(each: _Field, ref: StoredObjectRef, why: str) -> StaleRefError:
    limit = each.manager.attach_within
    return StaleRefError(
        f"{each.key}: this file may not be attached: {why} (a file is attached within {limit} of being staged, "
        "or while a committed row holds it); store it again",
        operation="attach",
        field=each.key,
        backend=ref.backend,
        location=ref.location,
        limit=limit,
    )
