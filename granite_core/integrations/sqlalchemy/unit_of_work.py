"""The coupling of files to the session: the only file that listens to session, mapper, engine and pool events.

Storing: bytes first, row second. ``before_flush`` stores what is unsaved and decides which refs the flush may let into
rows; ``before_commit``, and each flush that COMMIT brings, decides again. A ref gets in when it is known to be good
since less than a quarter of the grace: since it was staged, or, when a committed row holds it, since this database
transaction began.

Letting go: the flush reads from the rows what they held (attribute history is empty for expired, stale for raced
attributes), and leaves a tombstone for what they hold no more, in the same transaction, so that a rollback undoes it.
Nothing is deleted here. That is why rollbacks, savepoints, joined transactions, AUTOCOMMIT and lost answers to COMMIT
need no case of their own; what was flushed and not committed is noted for the collector, for promptness only.
"""

from __future__ import annotations

import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Column, Connection, Engine, MetaData, Pool, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    ColumnProperty,
    InstanceState,
    Mapper,
    Session,
    SessionTransaction,
)
from sqlalchemy.orm.attributes import instance_state

from granite_core.admission import plan_check
from granite_core.errors import StaleRefError
from granite_core.events import Attached, Released
from granite_core.integrations.sqlalchemy._admitting import admit, may_be_uncounted, settle
from granite_core.integrations.sqlalchemy._connections import began_at, is_autocommit, note_begin
from granite_core.integrations.sqlalchemy._lists import begin_with_list, materialize
from granite_core.integrations.sqlalchemy._looking import look_up
from granite_core.integrations.sqlalchemy._rows import (
    is_changed,
    read_rows,
    refs_of,
    register_columns,
    registered,
    write_first,
    write_tombstones,
)
from granite_core.integrations.sqlalchemy._statements import execute_by_the_rule
from granite_core.integrations.sqlalchemy._storing import store_unsaved
from granite_core.integrations.sqlalchemy._transaction import (
    STATE_KEY,
    Field,
    Tombstones,
    Transaction,
    fields_by_class,
    transaction_of,
)
from granite_core.integrations.sqlalchemy.fields import add_index
from granite_core.integrations.sqlalchemy.references import refs_in
from granite_core.integrations.sqlalchemy.tables import tables_of
from granite_core.integrations.sqlalchemy.types import is_file_column
from granite_core.manager import StorageManager
from granite_core.refs import StoredObjectRef, record_of

__all__ = ["install"]

_mapper_of: Final = attrgetter("manager.mapper")
_COMMITTING: Final = "granite_committing"
_TOMBSTONE_AGE: Final = timedelta(minutes=30)  # where no manager says what a quarter of the grace is


@cache
def install() -> None:
    """Listen to every session and mapper; done once, when the package is imported to declare a file column."""
    event.listen(Mapper, "after_mapper_constructed", _on_mapper)
    event.listen(Mapper, "mapper_configured", _on_configured)
    event.listen(Session, "after_begin", _on_begin)
    event.listen(Session, "before_flush", _on_before_flush)
    event.listen(Session, "after_flush", _on_after_flush)
    event.listen(Session, "before_commit", _on_before_commit)
    event.listen(Session, "after_commit", _on_after_commit)
    event.listen(Session, "after_rollback", _on_after_rollback)
    event.listen(Session, "after_transaction_create", _on_transaction_create)
    event.listen(Session, "after_transaction_end", _on_transaction_end)
    event.listen(Session, "do_orm_execute", execute_by_the_rule)
    event.listen(Pool, "checkin", _on_checkin)
    event.listen(Engine, "begin", note_begin)
    event.listen(Engine, "begin_twophase", note_begin)


# -- declaring ---------------------------------------------------------------------------------------------------------


def _on_mapper(mapper: Mapper[Any], class_: type) -> None:
    """Find the file columns of a mapped class; add Granite's tables and the look-up's indexes to its metadata."""
    known = fields_by_class.get(class_, ())
    found = tuple(
        Field(prop.key, column, weakref.ref(class_))
        for prop in mapper.iterate_properties
        if isinstance(prop, ColumnProperty)
        for column in prop.columns[:1]
        if isinstance(column, Column) and is_file_column(column)
    )
    for each in found:
        if any(each.column is other.column and each.key == other.key for other in known):
            continue
        tables_of(each.column.table.metadata)
        add_index(each.column)
        if each.is_list and mapper.get_property(each.key).parent is mapper:
            begin_with_list(getattr(class_, each.key))
    if found:
        fields_by_class[class_] = found


def _on_configured(mapper: Mapper[Any], class_: type) -> None:
    """Listen to the rows of a mapped class, after whatever listeners its module added: they may assign files too."""
    _on_mapper(mapper, class_)  # attributes may have been added since
    if class_ in fields_by_class:
        for name, listener in (
            ("before_insert", _on_before_insert),
            ("before_update", _on_before_update),
            ("before_delete", _on_before_delete),
        ):
            # Called for every row: as they are, with nothing around them.
            event.listen(mapper, name, listener, raw=True, retval=True)


# -- storing -----------------------------------------------------------------------------------------------------------


def _on_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    state = transaction_of(session)
    began = began_at(connection)
    state.began = min(began, state.began) if state.connections else began
    state.connections.add(connection)
    if state.committing:
        _mark_committing([connection], on=True)


def _on_before_flush(session: Session, context: Any, instances: object) -> None:
    """Store what is unsaved, then decide which refs the flush may let into rows: both before its first statement."""
    state = transaction_of(session)
    state.begin_flush(context)
    known = flushing.get(session.hash_key)
    if known is None or known() is not state:
        flushing[session.hash_key] = weakref.ref(state, partial(_forget_flushing, session.hash_key))
    changed: dict[Mapper[Any], list[InstanceState[Any]]] = defaultdict(list)
    others: list[tuple[InstanceState[Any], Field]] = []
    for target in (*session.new, *session.dirty):
        row = instance_state(target)
        mapper, was_changed = row.manager.mapper, False
        for each in state.fields_of(mapper):
            if is_changed(row, each):
                was_changed, value = True, row.dict.get(each.key)
                if isinstance(value, StoredObjectRef):
                    state.seen[each][row] = value
                else:
                    others.append((row, each))
        if was_changed:
            changed[mapper].append(row)
    for row, each in others:
        store_unsaved(state, row, each)
        state.seen[each][row] = row.dict.get(each.key)
    for mapper, rows in changed.items():
        wanted = {
            each: [ref for value in state.seen[each].values() for ref in refs_in(value)]
            for each in state.fields_of(mapper)
        }
        admit(session, state, wanted, partial(look_up, session, mapper, rows))


def _on_before_insert(mapper: Mapper[Any], connection: Connection, row: InstanceState[Any]) -> None:
    state = transaction_of_row(row)
    state.saved[connection].append(row)
    fields = state.fields_of(mapper)
    for each in fields:
        if each.is_list:
            materialize(row, each.key, each.column)
    if not state.is_as_seen(row, fields):
        _admit_late(state, mapper, row, fields)
    if state.deletes_rows() and mapper.identity_key_from_instance(row.obj()) in session_of(row).identity_map:
        # The row of a deleted object, which SQLAlchemy updates instead.
        _read_held(state, mapper, connection, row)


def _admit_late(state: Transaction, mapper: Mapper[Any], row: InstanceState[Any], fields: Iterable[Field]) -> None:
    """What another listener assigned after ``before_flush`` is stored too, and passes the same rule."""
    late: dict[Field, list[StoredObjectRef]] = {}
    for each in fields:
        store_unsaved(state, row, each)
        refs = refs_of(row, each)
        late[each] = [ref for ref in refs if ref.location not in state.rests_on or may_be_uncounted(ref)]
    if any(late.values()):
        session = session_of(row)
        admit(session, state, late, partial(look_up, session, mapper, [row]))


def _on_before_commit(session: Session) -> None:
    """Check. What is not flushed yet SQLAlchemy flushes next, and each flush ends with the same check.

    So nothing slow comes between the last check and COMMIT.
    """
    state = transaction_of(session)
    check(state)
    if not session.in_nested_transaction():
        state.committing = True
        _mark_committing(state.connections, on=True)


def check(state: Transaction) -> None:
    """Everything the transaction rests on is younger than a quarter of the grace; old tombstones are renewed.

    Raises:
        StaleRefError: A ref it lets into a row is older.
    """
    rests_on = [(manager.now() - since, state.within(manager)) for manager, since in state.oldest.items()]
    written = [(timedelta(seconds=time.monotonic() - each.written), _limit(state, each)) for each in state.tombstones]
    plan = plan_check(rests_on, written)
    if plan.too_old is not None:
        age, limit = plan.too_old
        raise StaleRefError(
            f"a file of this transaction was staged, or looked up, longer than {limit} ago: "
            "roll back and store it again",
            operation="commit",
            limit=limit,
            value=age,
        )
    for each in [state.tombstones[position] for position in plan.renew]:
        state.tombstones.remove(each)
        write_tombstones(state, each.connection, each.metadata, each.manager, each.refs)


def _limit(state: Transaction, tombstones: Tombstones) -> timedelta:
    return state.within(tombstones.manager) if tombstones.manager is not None else _TOMBSTONE_AGE


# -- letting go --------------------------------------------------------------------------------------------------------


def _on_before_update(mapper: Mapper[Any], connection: Connection, row: InstanceState[Any]) -> None:
    state = transaction_of_row(row)
    state.saved[connection].append(row)
    fields = state.fields_of(mapper)
    if state.is_as_seen(row, fields):
        _read_held(state, mapper, connection, row)
    elif changed := [each for each in fields if is_changed(row, each)]:
        _admit_late(state, mapper, row, changed)
        _read_held(state, mapper, connection, row)


def _on_before_delete(mapper: Mapper[Any], connection: Connection, row: InstanceState[Any]) -> None:
    state = transaction_of_row(row)
    _read_held(state, mapper, connection, row)
    state.deleted[connection].append(row)


def _settle_all(
    session: Session, state: Transaction, connection: Connection, rows: Iterable[InstanceState[Any]]
) -> None:
    """Release what rows hold no more; refuse what a listener after ours put into them."""
    for mapper, some in groupby(rows, _mapper_of):
        fields = state.fields_of(mapper)
        one = len(fields) == 1 and not fields[0].is_list and not state.is_heard(fields[0], Attached)  # as for most
        for row in _settle_seen(state, connection, fields[0], some) if one else some:
            _settle_row(session, state, connection, row)


def _settle_seen(
    state: Transaction, connection: Connection, each: Field, rows: Iterable[InstanceState[Any]]
) -> list[InstanceState[Any]]:
    """Release what rows with one file hold no more; return those that got something else than the flush has seen."""
    others: list[InstanceState[Any]] = []
    key, seen, held = each.key, state.seen[each], state.held
    touched, released = state.touched[connection], state.released[connection][each]
    for row in rows:
        value = row.dict.get(key)
        if value is not seen.get(row, row):
            others.append(row)
            continue
        if value is not None:
            touched.add(each.column)
        before = held.get(row)
        if before and isinstance(ref := before[0], StoredObjectRef):
            gone = record_of(ref).location
            kept = record_of(value).location if isinstance(value, StoredObjectRef) else None
            if gone and gone != kept:
                released.append(ref)
    return others


def _settle_row(session: Session, state: Transaction, connection: Connection, row: InstanceState[Any]) -> None:
    fields = state.fields_of(row.manager.mapper)
    held = state.held.get(row, ())
    as_seen = state.is_as_seen(row, fields)
    touched, released = state.touched[connection], state.released[connection]
    changed = [each for each in fields if (row in state.seen[each] if as_seen else is_changed(row, each))]
    before, kept = set[str](), set[str]()
    for each, value in zip(fields, held, strict=False):
        locations = [ref.location for ref in refs_in(value)]
        before.update(locations)
        if each not in changed:  # in the row as before
            kept.update(locations)
    for each in changed:
        refs = refs_of(row, each)
        kept.update([ref.location for ref in refs])
        if refs:
            touched.add(each.column)
        if not as_seen:
            late = [ref for ref in refs if ref.location not in state.rests_on]
            admit(session, state, {each: late}, look_up_too_late)
        if state.is_heard(each, Attached):
            for ref in refs:
                if ref.location not in before:
                    state.tell_attached(each, ref)
    for each, value in zip(fields, held, strict=False):
        released[each].extend([ref for ref in refs_in(value) if ref.location not in kept])


def look_up_too_late(metadata: MetaData, locations: set[str], within: timedelta) -> set[str]:
    """The row itself is written already: a look-up would find it."""
    return set()


def _read_held(state: Transaction, mapper: Mapper[Any], connection: Connection, row: InstanceState[Any]) -> None:
    """Read what the row holds now, and with it every other row of this flush: one query per mapper and flush."""
    if row in state.held:
        return
    wanted: dict[InstanceState[Any], tuple[Any, ...]] = {
        row: row.identity or tuple(mapper.primary_key_from_instance(row.obj()))
    }
    fields = state.fields_of(mapper)
    seen = set[InstanceState[Any]]().union(*(state.seen[each] for each in fields))
    for other, (is_delete, _) in getattr(state.context, "states", {}).items():
        if other.manager.mapper is not mapper or other.key is None or other in state.held:
            continue
        if is_delete or other in seen or any(is_changed(other, each) for each in fields):
            wanted[other] = other.key[1]
    # The rows are about to be changed anyway; locked here, what is read is what the change replaces.
    write_first(state, connection, fields[0].column)
    rows = read_rows(mapper, connection, wanted.values(), lock=True)
    for each, identity in wanted.items():
        state.held[each] = rows.get(identity, ())  # nothing, where another transaction deleted the row


def _on_after_flush(session: Session, context: Any) -> None:
    """Leave tombstones, after the rows' own statements and on their connection; register columns that got a ref."""
    state = session.info.get(STATE_KEY)
    if not isinstance(state, Transaction):
        return
    for connection, rows in state.saved.items():
        _settle_all(session, state, connection, rows)
    for connection, rows in state.deleted.items():
        released = state.released[connection]
        for row in rows:
            for each, value in zip(state.fields_of(row.manager.mapper), state.held.get(row, ()), strict=False):
                released[each].extend(refs_in(value))
    for connection, columns in state.touched.items():
        register_columns(state, connection, columns)
    for connection, released in state.released.items():
        _leave_tombstones(session, state, connection, released)
    state.begin_flush(None)
    if state.committing:
        check(state)


def _leave_tombstones(
    session: Session, state: Transaction, connection: Connection, released: Mapping[Field, list[StoredObjectRef]]
) -> None:
    by_owner: dict[tuple[MetaData, StorageManager | None], list[StoredObjectRef]] = defaultdict(list)
    for each, refs in released.items():
        if not refs:
            continue
        manager = each.bound_manager
        by_owner[each.column.table.metadata, manager].extend(refs)
        if state.is_heard(each, Released):
            for ref in refs:
                state.tell_released(each, ref)
        if manager is not None:
            settle(session, state, each, manager)  # tombstones are renewed by that
        if manager is not None and not is_autocommit(connection):
            # Its row was read, and locked, in this transaction. Under AUTOCOMMIT a sweep may have come since.
            state.learn([ref.location for ref in refs], manager)
    for (metadata, manager), gone in by_owner.items():
        write_tombstones(state, connection, metadata, manager, gone)


# -- the end of a transaction ------------------------------------------------------------------------------------------


def _on_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    state = session.info.get(STATE_KEY)
    if transaction.nested and isinstance(state, Transaction):
        state.begin_savepoint(transaction)


def _on_after_commit(session: Session) -> None:
    state = session.info.get(STATE_KEY)
    if not isinstance(state, Transaction):
        return
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        state.savepoints[savepoint] = None
        return
    state.committed = True
    state.committing = False
    _mark_committing(state.connections, on=False)


def _on_after_rollback(session: Session) -> None:
    state = session.info.get(STATE_KEY)
    if not isinstance(state, Transaction):
        return
    state.undone = True
    if not session.in_nested_transaction():
        state.committing = False
        _mark_committing(state.connections, on=False)


def _on_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    state = session.info.get(STATE_KEY)
    if not isinstance(state, Transaction):
        return
    if transaction.nested:
        state.end_savepoint(transaction)
    if transaction.parent is not None:
        return
    session.info.pop(STATE_KEY, None)
    flushing.pop(session.hash_key, None)
    if state.committed:
        for tell in state.events:
            tell()
        for file in state.taken:
            file.mark_taken()
    if state.undone or not state.committed:
        for manager, refs in state.flushed.items():
            manager.note(refs)
    elif not isinstance(session.bind, Connection):
        for engine, place in state.columns:
            registered.setdefault(engine, set()).add(place)


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


# -- small things ------------------------------------------------------------------------------------------------------


flushing: Final[dict[int, weakref.ref[Transaction]]] = {}
"""Of each session that has flushed, by its number, what its transaction knows: rows ask for it one by one.

The session itself holds it: one that is forgotten gives its connection back.
"""


def transaction_of_row(row: InstanceState[Any]) -> Transaction:
    found = flushing.get(row.session_id or 0)
    state = found() if found is not None else None
    return transaction_of(session_of(row)) if state is None else state


def _forget_flushing(number: int, _: object) -> None:
    flushing.pop(number, None)


def session_of(row: InstanceState[Any]) -> Session:
    session = row.session
    if session is None:
        raise InvalidRequestError("the object is in no session")
    return session
