"""What a session's transaction knows of refs, and the rule by which a flush lets them into rows."""

from __future__ import annotations

import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, MetaData
from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from granite_core import admission
from granite_core.admission import Admission, plan_admission, plan_looked_up
from granite_core.errors import ConfigurationError, StaleRefError
from granite_core.events import Attached, Event, EventHub, Released
from granite_core.integrations.sqlalchemy.types import StoredObjectRefListType
from granite_core.manager import MANAGER_KEY, StorageManager
from granite_core.refs import StagedFile, StoredObjectRef

__all__ = [
    "STATE_KEY",
    "Field",
    "Held",
    "Place",
    "Tombstones",
    "Transaction",
    "admit",
    "field_of",
    "fields_by_class",
    "is_fresh",
    "transaction_of",
]

STATE_KEY: Final = "granite_transaction"
"""Where a session's ``info`` holds what its root transaction knows."""


@dataclass(frozen=True, slots=True)
class Field:
    """One file column as an attribute of a mapped class."""

    key: str
    column: Column[Any]
    owner: weakref.ref[type] | None = field(default=None, compare=False, repr=False)

    @property
    def storage_key(self) -> str | None:
        """The policy for content: what the mixin's class names, else what the column's type does."""
        if self._said("__stored_content_field_name__") != self.key:
            return self.declared_key
        return cast("str | None", self._said("__stored_content_storage_key__")) or self.declared_key

    @property
    def declared_key(self) -> str | None:
        """The policy that the column's type names."""
        return cast("str | None", cast("Any", self.column.type).storage_key)

    @property
    def bound_manager(self) -> StorageManager | None:
        """The manager of the mixin's class, else of the metadata; None where there is none."""
        manager = self._said("__storage_manager__") or self.column.table.metadata.info.get(MANAGER_KEY)
        return manager if isinstance(manager, StorageManager) else None

    @property
    def is_list(self) -> bool:
        return isinstance(self.column.type, StoredObjectRefListType)

    @property
    def column_name(self) -> str:
        return f"{self.column.table.name}.{self.column.name}"

    @property
    def manager(self) -> StorageManager:
        manager = self.bound_manager
        if manager is None:
            raise ConfigurationError(
                f"no storage manager is bound to the models of {self.column_name}: "
                "call manager.register(Base) once, where the manager is made",
                field=self.key,
            )
        return manager

    def _said(self, name: str) -> object:
        return getattr(self.owner and self.owner(), name, None)


Held: TypeAlias = dict[Field, list[StoredObjectRef]]
"""What a row holds."""
Place: TypeAlias = tuple[str, Column[Any]]
"""A column, in the schemas that a connection translates to."""


@dataclass(slots=True)
class Tombstones:
    """Tombstones of one flush on one connection."""

    connection: Connection
    metadata: Any
    manager: StorageManager | None
    written: float
    refs: list[StoredObjectRef]


@dataclass(slots=True)
class Transaction:
    """What a root transaction of a session knows and did."""

    began: float = field(default_factory=time.monotonic)
    connections: set[Connection] = field(default_factory=set)
    writing: set[Connection] = field(default_factory=set)
    good: dict[str, datetime] = field(default_factory=dict)
    rests_on: set[str] = field(default_factory=set)
    oldest: dict[StorageManager, datetime] = field(default_factory=dict)
    flushed: list[tuple[StorageManager, StoredObjectRef]] = field(default_factory=list)
    tombstones: list[Tombstones] = field(default_factory=list)
    columns: set[tuple[Any, Place]] = field(default_factory=set)
    committing: bool = False
    committed: bool = False
    undone: bool = False
    # what it knows to be good only as long as its locks last, in the order in which it learned that
    learned: list[str] = field(default_factory=list)
    # what to tell of when it is committed
    events: list[tuple[EventHub, Event]] = field(default_factory=list)
    # how much of these two there was when each open savepoint began; None once it is released
    savepoints: dict[SessionTransaction, tuple[int, int] | None] = field(default_factory=dict)
    # of the flush that is under way
    context: Any = None
    held: dict[InstanceState[Any], Held] = field(default_factory=dict)
    released: dict[Connection, list[tuple[Field, StoredObjectRef]]] = field(default_factory=lambda: defaultdict(list))
    touched: dict[Connection, set[Column[Any]]] = field(default_factory=lambda: defaultdict(set))

    def begin_flush(self, context: Any) -> None:
        """Forget the flush before, which may have failed half-way."""
        self.context = context
        self.held.clear()
        self.released.clear()
        self.touched.clear()

    def began_at(self, manager: StorageManager) -> datetime:
        return manager.now() - timedelta(seconds=time.monotonic() - self.began)

    def tell_attached(self, each: Field, ref: StoredObjectRef, *, named: bool = True) -> None:
        """Tell, once this is committed, that a row holds a file it did not hold before."""
        manager = _manager_for(each, ref)
        if manager.events.wanted(Attached):
            name = each.column_name if named else None
            self.events.append((manager.events, Attached(**manager.name_of(ref), size=ref.size, field=name)))

    def tell_released(self, each: Field, ref: StoredObjectRef) -> None:
        """Tell, once this is committed, that a row holds a file no more."""
        manager = each.bound_manager
        if manager is not None and manager.events.wanted(Released):
            event = Released(**manager.name_of(ref), size=ref.size, field=each.column_name)
            self.events.append((manager.events, event))

    def begin_savepoint(self, savepoint: SessionTransaction) -> None:
        """Remember what there was before a savepoint."""
        self.savepoints[savepoint] = len(self.events), len(self.learned)

    def end_savepoint(self, savepoint: SessionTransaction) -> None:
        """Forget what was to be told of a savepoint that was rolled back, and what was learned in it.

        The database has given its locks back: others may have changed the rows since.
        """
        before = self.savepoints.pop(savepoint, (0, 0))
        if before is None:
            return
        events, learned = before
        del self.events[events:]
        for location in self.learned[learned:]:
            self.good.pop(location, None)
            self.rests_on.discard(location)
        del self.learned[learned:]

    def learn(self, location: str, manager: StorageManager) -> None:
        """Know an object to be good, since a row of the database holds it: from when the transaction began."""
        if location not in self.good:
            self.good[location] = self.began_at(manager)
            self.learned.append(location)

    def rest_on(self, ref: StoredObjectRef, manager: StorageManager, since: datetime) -> None:
        self.good.setdefault(ref.location, since)
        self.rests_on.add(ref.location)
        self.oldest[manager] = min(since, self.oldest.get(manager, since))


fields_by_class: WeakKeyDictionary[type, tuple[Field, ...]] = WeakKeyDictionary()
"""The file columns of mapped classes."""


def field_of(column: Column[Any]) -> Field:
    """A file column as an attribute of whichever class has it; as one of no class where none has."""
    found = (each for fields in [*fields_by_class.values()] for each in fields if each.column is column)
    return next(found, Field(column.name, column))


def transaction_of(session: Session) -> Transaction:
    state = session.info.get(STATE_KEY)
    if not isinstance(state, Transaction):
        state = session.info[STATE_KEY] = Transaction()
    return state


def admit(
    state: Transaction,
    wanted: list[tuple[Field, StoredObjectRef]],
    look_up: Callable[[MetaData, set[str], timedelta], set[str]],
) -> None:
    """Let refs into rows, or refuse. Good is what was staged lately, or what a committed row holds.

    Args:
        state: What the transaction knows.
        wanted: The refs, and the fields they are for.
        look_up: Returns those locations that a row holds; the last argument is a quarter of the grace.

    Raises:
        StaleRefError: A ref is too old, was let go, or is held by no row.
    """
    unknown: dict[MetaData, list[tuple[Field, StoredObjectRef, StorageManager]]] = defaultdict(list)
    for each, ref in wanted:
        manager = _manager_for(each, ref)
        since = state.good.get(ref.location)
        known = manager.now() - since if since is not None else None
        may_be_held = not isinstance(ref, StagedFile) or ref.kept  # else it has never been in a flush
        plan = plan_admission(known, _age_of(ref, manager), manager.attach_within, may_be_held=may_be_held)
        if plan.must_look_up:
            unknown[each.column.table.metadata].append((each, ref, manager))
            continue
        if known is None:
            state.flushed.append((manager, ref))
        if plan.refusal is None and isinstance(ref, StagedFile) and not ref.mark_used():
            raise _stale(each, ref, manager, "it was let go already")
        _let_in(state, each, ref, manager, plan)
    for metadata, asked in unknown.items():
        within = min(manager.attach_within for _, _, manager in asked)
        held = look_up(metadata, {ref.location for _, ref, _ in asked}, within)
        for each, ref, manager in asked:
            began = manager.now() - state.began_at(manager)
            is_held = ref.location in held
            plan = plan_looked_up(began, manager.attach_within, held=is_held, staged=_age_of(ref, manager))
            if plan.since is not None and is_held:
                state.learn(ref.location, manager)
            elif plan.since is not None:
                state.flushed.append((manager, ref))
            _let_in(state, each, ref, manager, plan)


def _let_in(state: Transaction, each: Field, ref: StoredObjectRef, manager: StorageManager, plan: Admission) -> None:
    if plan.since is None:
        raise _stale(each, ref, manager, plan.refusal or "")
    state.rest_on(ref, manager, manager.now() - plan.since)


def _manager_for(each: Field, ref: StoredObjectRef) -> StorageManager:
    """The field's manager; where none is bound, the one that has just stored the file."""
    if each.bound_manager is None and isinstance(ref, StagedFile) and isinstance(ref.stored_by, StorageManager):
        return ref.stored_by
    return each.manager


def is_fresh(ref: StoredObjectRef, manager: StorageManager) -> bool:
    """Whether a ref was staged less than a quarter of the grace ago, by its own word: clients never write one."""
    return admission.is_fresh(_age_of(ref, manager), manager.attach_within)


def _age_of(ref: StoredObjectRef, manager: StorageManager) -> timedelta | None:
    """How long ago a ref was staged, by its own word."""
    try:
        return manager.now() - datetime.fromisoformat(ref.created_at or "")
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


def _stale(each: Field, ref: StoredObjectRef, manager: StorageManager, why: str) -> StaleRefError:
    limit = manager.attach_within
    return StaleRefError(
        f"{each.key}: this file may not be attached: {why} (a file is attached within {limit} of being staged, "
        "or while a committed row holds it); store it again",
        operation="attach",
        field=each.key,
        backend=ref.backend,
        location=ref.location,
        limit=limit,
    )
