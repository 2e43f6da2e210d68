"""What the model remembers of the world. Small integers and tuples: a state is a key.

Ages are in ticks and stop growing where nothing asks for more, so that the number of states is finite although time is
not. A row holds 0, which is nothing, or the number of an object counted from 1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias, TypeVar

__all__ = [
    "EXPIRES",
    "NOTHING",
    "UNCHANGED",
    "UNKNOWN",
    "Buried",
    "Change",
    "Collector",
    "Graces",
    "Kind",
    "Label",
    "Locks",
    "Mode",
    "Object",
    "Phase",
    "Saved",
    "Status",
    "Tombs",
    "Work",
    "World",
    "Writer",
    "buried",
    "changed",
    "recorded",
]

T = TypeVar("T")

NOTHING = 0
UNCHANGED = -1
UNKNOWN = -1
EXPIRES = -1

Label: TypeAlias = tuple[object, ...]
"""What happened: a verb, and what it was done to."""


class Status(IntEnum):
    """What there is of an object's bytes."""

    UNBORN = 0
    STORED = 1
    GONE = 2
    TAKEN = 3
    """Collected as an upload in flight, which the third law forbids."""


class Object(NamedTuple):
    status: Status = Status.UNBORN
    age: int = 0
    """Since it was staged."""
    was_held: bool = False
    """Whether a committed row has held it."""


Tombs: TypeAlias = tuple[tuple[tuple[int, int], ...], ...]
"""For each object, in each database, its visible tombstones: age, and as bits which collectors have found it due."""


Graces: TypeAlias = tuple[tuple[int, int], ...]
"""The graces that can be seen to be recorded: a quarter of each, and the age of its oldest record."""


class World(NamedTuple):
    """What is stored and committed."""

    objects: tuple[Object, ...]
    rows: tuple[int, ...]
    tombs: Tombs
    replica: tuple[tuple[int, ...], Tombs] | tuple[()] = ()
    """What a lagging replica shows, where one is read from."""
    bytes_came: int = UNKNOWN
    """How long ago the upload session, which is the last row, was given bytes."""
    graces: Graces = ()

    @property
    def recorded(self) -> int:
        """A quarter of the longest grace that a process has recorded, in ticks."""
        return max(quarter for quarter, _ in self.graces)


class Mode(IntEnum):
    """How a writer's session reaches the database."""

    READ_COMMITTED = 0
    SNAPSHOT = 1
    """REPEATABLE READ; SQLite, whose writers are more alone than that, shows nothing else."""
    AUTOCOMMIT = 2
    JOINED = 3
    """A session on a connection whose transaction somebody else ends; READ COMMITTED."""
    JOINED_SNAPSHOT = 4
    SQLITE = 5
    """A transaction that begins with its first write, and keeps every other one from writing; it reads the latest."""

    @property
    def has_snapshot(self) -> bool:
        return self in (Mode.SNAPSHOT, Mode.JOINED_SNAPSHOT)

    @property
    def is_joined(self) -> bool:
        return self in (Mode.JOINED, Mode.JOINED_SNAPSHOT)


class Phase(IntEnum):
    """Where a writer stands."""

    IDLE = 0
    OUTER = 1
    """The outer transaction is open, the session is not."""
    ACTIVE = 2
    ADMITTED = 3
    """A flush has decided; its statement comes next."""
    GUARDED = 4
    """An old tombstone waits, and a young one was written beside it; the second look-up comes next."""
    READ = 5
    """Under AUTOCOMMIT: what the rows hold was read."""
    WRITTEN = 6
    """Under AUTOCOMMIT: the statements are done, the tombstones come next."""
    COMMITTING = 7


Buried: TypeAlias = tuple[tuple[int, int], ...]
"""Uncommitted tombstones: grave, age."""


class Change(NamedTuple):
    """What a flush does to a row."""

    row: int
    new: int
    old: int = UNKNOWN
    """What the row held, once that is read."""
    takes: int = NOTHING
    """The file of an upload session that it attaches, or that the session is let expire."""


class Saved(NamedTuple):
    """What a transaction had done, and learned, when a savepoint began."""

    looked_up: int
    written: tuple[int, ...]
    shared: int
    buried: Buried
    touched: int
    recording: int


class Writer(NamedTuple):
    mode: Mode
    quarter: int
    """A quarter of its process's grace, in ticks."""
    transactions: int
    """How many more it may begin."""
    phase: Phase = Phase.IDLE
    relied: int = UNKNOWN
    """A quarter of the grace that it relies on, where that is less than its own: it asks once in a transaction."""
    recording: int = UNKNOWN
    """How long ago it recorded its own, uncommitted."""
    left: int = 0
    """How many more rows it may change in this transaction."""
    opened: int = UNKNOWN
    """Age of the database's transaction."""
    began: int = UNKNOWN
    """Age of the session's."""
    known: tuple[int, ...] = ()
    """For each object, since when this transaction knows it to be good."""
    looked_up: int = 0
    """Which of these it looked up or read from a row, as bits."""
    oldest: int = UNKNOWN
    """Age of the oldest thing it rests on."""
    written: tuple[int, ...] = ()
    """What its uncommitted rows hold."""
    shared: int = 0
    """Rows it keeps others from changing, as bits."""
    buried: Buried = ()
    """Its uncommitted tombstones."""
    remembers: Buried = ()
    """Those that the session remembers, to renew them: a savepoint that is undone takes none of these."""
    snapshot: tuple[tuple[int, ...], tuple[int, ...], Graces] | tuple[()] = ()
    """The rows as its transaction sees them, the age of each object's oldest tombstone, and the recorded graces."""
    savepoint: Saved | None = None
    savepoints: int = 0
    """How many more it may make."""
    base: Saved | None = None
    """The same of the outer transaction, when the session began."""
    flush: tuple[Change, ...] = ()
    """What is left of a flush, or of a statement past it."""
    past: bool = False
    """Whether it is a statement past the flush."""
    guarding: int = 0
    """What it looks up again, as bits."""
    owed: tuple[int, ...] = ()
    """Under AUTOCOMMIT: the graves of what the flush has let go, and not buried yet."""
    touched: int = UNKNOWN
    """How long ago it moved the upload session's expiry, uncommitted."""
    takes: bool = False
    """Whether it has let an upload expire that it should not have."""
    clock: int = UNKNOWN
    """What is left of the quarter of the grace that a COMMIT may take; or what follows the first flush in an outer
    transaction, or the decision of a flush under AUTOCOMMIT."""
    flushed: int = 0
    """Objects its flushes have seen, as bits."""
    noted: int = 0
    """Objects it will tell the collector of, unless the process dies first."""
    checked: bool = False

    @property
    def limit(self) -> int:
        """A quarter of the grace that it relies on."""
        return self.quarter if self.relied == UNKNOWN else self.relied

    @property
    def timed(self) -> int:
        """The clock of an outer transaction once the session has flushed."""
        return self.limit if self.clock == UNKNOWN else min(self.clock, self.limit)


class Locks(NamedTuple):
    """Which rows other writers have changed, or keep from changing, as bits."""

    changed: int
    shared: int


class Kind(IntEnum):
    """What a collector does."""

    SWEEP = 0
    RECONCILE = 1


class Work(IntEnum):
    """Where a collector stands."""

    IDLE = 0
    HALF = 1
    """It has looked in some databases; or of rows and tombstones at one, where that is not one snapshot."""
    DELETE = 2
    DROP = 3
    LISTED = 4
    NOTED = 5
    AWAKE = 6
    """It has read the grace, and not yet anything else: where that is not one snapshot."""


class Collector(NamedTuple):
    kind: Kind
    work: Work = Work.IDLE
    object: int = 0
    """The object, or several as bits."""
    read: tuple[bool, ...] = ()
    """Which of its tombstones are due, where those were read first."""
    held: bool = False
    """Whether a row holds it, where those were read first."""
    databases: int = 0
    """In how many databases it has looked."""
    recorded: int = 0
    """A quarter of the grace it goes by, where that was read first."""


def changed(items: tuple[T, ...], position: int, item: T) -> tuple[T, ...]:
    """The items with another one in a place."""
    return (*items[:position], item, *items[position + 1 :])


def buried(tombs: Tombs, position: int, age: int = 0) -> Tombs:
    """With one more tombstone in a grave; one that differs from another in nothing is the same."""
    row = tombs[position]
    return tombs if (age, 0) in row else changed(tombs, position, tuple(sorted((*row, (age, 0)))))


def recorded(graces: Graces, quarter: int, age: int = 0) -> Graces:
    """With one more grace recorded; of two records of the same one the older counts."""
    return tuple(sorted({**dict(graces), quarter: max(age, dict(graces).get(quarter, age))}.items()))
