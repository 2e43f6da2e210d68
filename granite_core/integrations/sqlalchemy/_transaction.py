"""What a session's transaction knows of refs, and what it has done."""

from __future__ import annotations

import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias, cast
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import Column, Connection, MetaData
from sqlalchemy.orm import InstanceState, Mapper, Session, SessionTransaction

from granite_core.errors import ConfigurationError
from granite_core.events import Attached, Event, Released
from granite_core.hooks import Committed
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
    "field_of",
    "fields_by_class",
    "manager_for",
    "transaction_of",
]

STATE_KEY: Final = "granite_transaction"
"""Where a session's ``info`` holds what its root transaction knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One file column as an attribute of a mapped class."""

    key: str
    column: Column[Any]
    owner: weakref.ref[type] | None = field(default=None, repr=False)
    is_list: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_list", isinstance(self.column.type, StoredObjectRefListType))

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


Held: TypeAlias = tuple[object, ...]
"""What a row holds, in the order of its class's fields: a ref, a list of refs, or None."""
Place: TypeAlias = tuple[str, Column[Any]]
"""A column, in the schemas that a connection translates to."""


class Tombstones(msgspec.Struct):
    """Tombstones of one flush on one connection."""

    connection: Connection
    metadata: Any
    manager: StorageManager | None
    written: float
    refs: list[StoredObjectRef]


class Transaction(msgspec.Struct, weakref=True, eq=False):
    """What a root transaction of a session knows and did."""

    began: float = msgspec.field(default_factory=time.monotonic)
    connections: set[Connection] = msgspec.field(default_factory=set)
    writing: set[Connection] = msgspec.field(default_factory=set)
    good: dict[str, datetime] = msgspec.field(default_factory=dict)
    rests_on: set[str] = msgspec.field(default_factory=set)
    oldest: dict[StorageManager, datetime] = msgspec.field(default_factory=dict)
    limits: dict[tuple[StorageManager, MetaData], timedelta] = msgspec.field(default_factory=dict)
    relied: dict[StorageManager, timedelta] = msgspec.field(default_factory=dict)
    flushed: dict[StorageManager, list[StoredObjectRef]] = msgspec.field(default_factory=lambda: defaultdict(list))
    tombstones: list[Tombstones] = msgspec.field(default_factory=list)
    columns: set[tuple[Any, Place]] = msgspec.field(default_factory=set)
    committing: bool = False
    committed: bool = False
    undone: bool = False
    # what it knows to be good only as long as its locks last, in the order in which it learned that
    learned: list[str] = msgspec.field(default_factory=list)
    # what to tell of when it is committed
    events: list[Callable[[], None]] = msgspec.field(default_factory=list)
    # files that it took out of upload sessions
    taken: list[StagedFile] = msgspec.field(default_factory=list)
    # how much of these three there was when each open savepoint began; None once it is released
    savepoints: dict[SessionTransaction, tuple[int, int, int] | None] = msgspec.field(default_factory=dict)
    # of the flush that is under way
    context: Any = None
    fields: dict[Mapper[Any], tuple[Field, ...]] = msgspec.field(default_factory=dict)
    # for each field, what the rows in which it was changed were to get when the flush began
    seen: dict[Field, dict[InstanceState[Any], object]] = msgspec.field(default_factory=lambda: defaultdict(dict))
    deletes: bool | None = None
    heard: dict[tuple[Field, type[Event]], bool] = msgspec.field(default_factory=dict)
    held: dict[InstanceState[Any], Held] = msgspec.field(default_factory=dict)
    released: dict[Connection, dict[Field, list[StoredObjectRef]]] = msgspec.field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    touched: dict[Connection, set[Column[Any]]] = msgspec.field(default_factory=lambda: defaultdict(set))
    saved: dict[Connection, list[InstanceState[Any]]] = msgspec.field(default_factory=lambda: defaultdict(list))
    deleted: dict[Connection, list[InstanceState[Any]]] = msgspec.field(default_factory=lambda: defaultdict(list))

    def begin_flush(self, context: Any) -> None:
        """Forget the flush before, which may have failed half-way."""
        self.context = context
        self.fields.clear()
        self.seen.clear()
        self.deletes = None
        self.heard.clear()
        self.held.clear()
        self.released.clear()
        self.touched.clear()
        self.saved.clear()
        self.deleted.clear()

    def fields_of(self, mapper: Mapper[Any]) -> tuple[Field, ...]:
        """The file columns of a class, which may have none."""
        found = self.fields.get(mapper)
        if found is None:
            found = self.fields[mapper] = fields_by_class.get(mapper.class_, ())
        return found

    def is_as_seen(self, row: InstanceState[Any], fields: tuple[Field, ...]) -> bool:
        """Whether a row was changed when the flush began, and nobody has assigned anything to its files since.

        As far as that can be told. What is inserted may have values that nobody assigned: an object that was made
        transient keeps what it was loaded with.
        """
        values, was_changed = row.dict, False
        for each in fields:
            value = self.seen[each].get(row, row)
            if value is row:
                if each.key in row.committed_state or (row.key is None and values.get(each.key) is not None):
                    return False
            elif each.is_list or values.get(each.key) is not value:  # a list may be another one and yet the same
                return False
            else:
                was_changed = True
        return was_changed

    def deletes_rows(self) -> bool:
        """Whether the flush deletes any."""
        if self.deletes is None:
            self.deletes = any(is_delete for is_delete, _ in getattr(self.context, "states", {}).values())
        return self.deletes

    def is_heard(self, each: Field, kind: type[Event]) -> bool:
        """Whether anybody, a hook too, would hear of an event of a field in this flush."""
        if (heard := self.heard.get((each, kind))) is None:
            manager = each.bound_manager
            heard = manager is None or manager.events.wanted(kind)
            if not heard and manager is not None and kind is Attached:
                heard = manager.has_hooks_after_commit()
            self.heard[each, kind] = heard
        return heard

    def began_at(self, manager: StorageManager) -> datetime:
        return manager.now() - timedelta(seconds=time.monotonic() - self.began)

    def within(self, manager: StorageManager) -> timedelta:
        """How old anything of a manager may be that the transaction rests on."""
        known = [limit for (found, _), limit in self.limits.items() if found is manager]
        return min([*known, self.relied.get(manager, manager.attach_within)])

    def tell_attached(self, each: Field, ref: StoredObjectRef, *, named: bool = True) -> None:
        """Tell, once this is committed, that a row holds a file it did not hold before."""
        manager = manager_for(each, ref)
        name = each.column_name if named else None
        if manager.events.wanted(Attached):
            event = Attached(**manager.name_of(ref), size=ref.size, field=name)
            self.events.append(partial(manager.events.emit, event))
        if manager.has_hooks_after_commit(ref.storage_key):
            self.events.append(partial(manager.tell_committed, Committed(ref=ref, field=name)))

    def tell_released(self, each: Field, ref: StoredObjectRef) -> None:
        """Tell, once this is committed, that a row holds a file no more."""
        manager = each.bound_manager
        if manager is not None and manager.events.wanted(Released):
            event = Released(**manager.name_of(ref), size=ref.size, field=each.column_name)
            self.events.append(partial(manager.events.emit, event))

    def begin_savepoint(self, savepoint: SessionTransaction) -> None:
        """Remember what there was before a savepoint."""
        self.savepoints[savepoint] = len(self.events), len(self.learned), len(self.taken)

    def end_savepoint(self, savepoint: SessionTransaction) -> None:
        """Forget what was to be told of a savepoint that was rolled back, and what was learned in it.

        The database has given its locks back: others may have changed the rows since.
        """
        before = self.savepoints.pop(savepoint, (0, 0, 0))
        if before is None:
            return
        events, learned, taken = before
        del self.events[events:]
        del self.taken[taken:]
        for location in self.learned[learned:]:
            self.good.pop(location, None)
            self.rests_on.discard(location)
        del self.learned[learned:]
        # A grace that was written down in it is so no more, and is asked for again; what was let in by it rests on it.
        for (manager, _), limit in self.limits.items():
            self.relied[manager] = min(limit, self.relied.get(manager, limit))
        self.limits.clear()

    def learn(self, locations: Iterable[str], manager: StorageManager) -> None:
        """Know objects to be good, since a row of the database holds them: from when the transaction began."""
        since = self.began_at(manager)
        for location in locations:
            if location not in self.good:
                self.good[location] = since
                self.learned.append(location)

    def has_taken(self, ref: StagedFile) -> bool:
        """Whether it has taken a file out of an upload session."""
        return any(ref is each for each in self.taken)

    def rest_on(self, locations: Iterable[str], manager: StorageManager, since: datetime) -> None:
        for location in locations:
            self.good.setdefault(location, since)
            self.rests_on.add(location)
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


def manager_for(each: Field, ref: StoredObjectRef) -> StorageManager:
    """The field's manager; where none is bound, the one that has just stored the file."""
    if each.bound_manager is None and isinstance(ref, StagedFile) and isinstance(ref.stored_by, StorageManager):
        return ref.stored_by
    return each.manager
