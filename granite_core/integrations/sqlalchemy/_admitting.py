"""The rule by which refs get into rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.orm import Session

from granite_core import admission
from granite_core.admission import Admission, plan_admission, plan_looked_up
from granite_core.errors import StaleRefError
from granite_core.integrations.sqlalchemy._connections import primary
from granite_core.integrations.sqlalchemy._graces import quarter_for
from granite_core.integrations.sqlalchemy._joining import joining
from granite_core.integrations.sqlalchemy._rows import NO_OPTIONS
from granite_core.integrations.sqlalchemy._taking import take
from granite_core.integrations.sqlalchemy._transaction import Field, Transaction, manager_for
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile, StoredObjectRef

__all__ = ["admit", "is_fresh", "may_be_uncounted", "settle"]


def admit(
    session: Session,
    state: Transaction,
    wanted: Mapping[Field, Sequence[StoredObjectRef]],
    look_up: Callable[[MetaData, set[str], timedelta], set[str]],
    options: Mapping[str, Any] = NO_OPTIONS,
) -> None:
    """Let refs into rows, or refuse. Good is what was staged lately, or what a committed row holds.

    Args:
        session: Whose transaction it is.
        state: What the transaction knows.
        wanted: The refs, by the fields they are for.
        look_up: Returns those locations that a row holds; the last argument is a quarter of the grace.
        options: Options for the statements, such as a schema translation of their own.

    Raises:
        StaleRefError: A ref is too old, was let go, or is held by no row.
    """
    unknown: dict[MetaData, list[tuple[Field, StoredObjectRef, StorageManager]]] = defaultdict(list)
    for each, refs in wanted.items():
        for manager, ours in _by_manager(each, refs):
            now = manager.now()
            within = settle(session, state, each, manager, options)
            for ref in _admit_new(state, each, ours, manager, within):
                _count_again(session, each, ref)
                since = state.good.get(ref.location)
                known = now - since if since is not None else None
                if isinstance(ref, StagedFile) and ref.upload is not None and not state.has_taken(ref):
                    take(session, state, each, manager, ref, within, options)
                    known = now - state.good[ref.location]
                may_be_held = not isinstance(ref, StagedFile) or ref.kept  # else it has never been in a flush
                plan = plan_admission(known, _age_of(ref, now), within, may_be_held=may_be_held)
                if plan.must_look_up:
                    unknown[each.column.table.metadata].append((each, ref, manager))
                    continue
                if known is None:
                    state.flushed[manager].append(ref)
                if plan.refusal is None and isinstance(ref, StagedFile) and not ref.mark_used():
                    raise _stale(each, ref, within, "it was let go already")
                _let_in(state, each, ref, manager, plan, now)
    for metadata, asked in unknown.items():
        within = min(state.within(manager) for _, _, manager in asked)
        held = look_up(metadata, {ref.location for _, ref, _ in asked}, within)
        for each, ref, manager in asked:
            now = manager.now()
            is_held = ref.location in held
            began = now - state.began_at(manager)
            plan = plan_looked_up(began, state.within(manager), held=is_held, staged=_age_of(ref, now))
            if plan.since is not None and is_held:
                state.learn([ref.location], manager)
            elif plan.since is not None:
                state.flushed[manager].append(ref)
            _let_in(state, each, ref, manager, plan, now)


def _admit_new(
    state: Transaction, each: Field, refs: Sequence[StoredObjectRef], manager: StorageManager, within: timedelta
) -> Sequence[StoredObjectRef]:
    """Let in, all at once, what was staged lately and no flush has seen, as most is; return the others.

    Of refs that come to the same field together, the oldest decides: the transaction rests on it anyway.
    """
    new: dict[str, StagedFile] = {}
    others: list[StoredObjectRef] = []
    for ref in refs:
        if isinstance(ref, StagedFile) and ref.is_new and ref.location not in state.good:
            new[ref.location] = ref
        else:
            others.append(ref)
    try:
        staged = [datetime.fromisoformat(ref.created_at or "") for ref in new.values()]
        first, last = (manager.now() - find(staged) for find in (min, max))
    except (ValueError, TypeError):  # none, or one without a date, or one without a time zone
        return refs
    plan = plan_admission(None, first, within)
    if plan.since is None or not admission.is_fresh(last, within):
        return refs
    state.flushed[manager].extend(new.values())
    for ref in new.values():
        if not ref.mark_used():
            raise _stale(each, ref, within, "it was let go already")
    state.rest_on(new, manager, min(staged))
    return others


def may_be_uncounted(ref: StoredObjectRef) -> bool:
    """Whether a flush has counted a file in its own transaction, or savepoint, which may be rolled back by now."""
    return isinstance(ref, StagedFile) and ref.reservation is not None


def _count_again(session: Session, each: Field, ref: StoredObjectRef) -> None:
    if isinstance(ref, StagedFile) and ref.reservation is not None:
        with joining(session, each.column.table):
            ref.reservation.renew(ref.size)


def _by_manager(
    each: Field, refs: Sequence[StoredObjectRef]
) -> Iterable[tuple[StorageManager, Sequence[StoredObjectRef]]]:
    if not refs:
        return ()
    if (bound := each.bound_manager) is not None:
        return ((bound, refs),)
    found: dict[StorageManager, list[StoredObjectRef]] = defaultdict(list)
    for ref in refs:
        found[manager_for(each, ref)].append(ref)
    return found.items()


def settle(
    session: Session,
    state: Transaction,
    each: Field,
    manager: StorageManager,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> timedelta:
    """Find out how old anything may be that a transaction rests on, for a field that it gives a ref or takes one from.

    Args:
        session: Whose transaction it is.
        state: What the transaction knows.
        each: The field.
        manager: Its manager.
        options: Options for the statements, such as a schema translation of their own.
    """
    place = manager, each.column.table.metadata
    if place not in state.limits:
        owner = each.owner and each.owner()
        connection = primary(session, inspect(owner) if owner is not None else None, each.column.table)
        lasting = not isinstance(session.bind, Connection)  # what is read may be our own, and be undone
        state.limits[place] = quarter_for(state, connection, each.column, manager, options, lasting=lasting)
    return state.limits[place]


def _let_in(
    state: Transaction, each: Field, ref: StoredObjectRef, manager: StorageManager, plan: Admission, now: datetime
) -> None:
    if plan.since is None:
        raise _stale(each, ref, state.within(manager), plan.refusal or "")
    state.rest_on([ref.location], manager, now - plan.since)


def is_fresh(ref: StoredObjectRef, manager: StorageManager, within: timedelta | None = None) -> bool:
    """Whether a ref was staged less than a quarter of the grace ago, by its own word: clients never write one."""
    return admission.is_fresh(_age_of(ref, manager.now()), within or manager.attach_within)


def _age_of(ref: StoredObjectRef, now: datetime) -> timedelta | None:
    """How long ago a ref was staged, by its own word."""
    try:
        return now - datetime.fromisoformat(ref.created_at or "")
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


def _stale(each: Field, ref: StoredObjectRef, limit: timedelta, why: str) -> StaleRefError:
    return StaleRefError(
        f"{each.key}: this file may not be attached: {why} (a file is attached within {limit} of being staged, "
        "or while a committed row holds it); store it again",
        operation="attach",
        field=each.key,
        backend=ref.backend,
        location=ref.location,
        limit=limit,
    )
