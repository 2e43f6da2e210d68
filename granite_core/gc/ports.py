"""What the collector needs of a ledger: tombstones, look-ups, a lease, and where a reconcile stands.

A ledger keeps its rows in one or several databases, numbered from 0. Each method is one short transaction in each
database it concerns; none is open when it returns, so no lock or cursor is held while the collector talks to a
backend. Every time is in milliseconds since 1970 by the database's own clock, every duration in milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

import msgspec

from granite_core.backends.base import StorageBackend
from granite_core.findings import Finding
from granite_core.gc.plan import Note, RunState, Tombstone
from granite_core.manager import StorageManager
from granite_core.quotas import Counted
from granite_core.refs import StoredObjectRef
from granite_core.uploads.sessions import EndedUpload

__all__ = [
    "Batch",
    "FileColumn",
    "Ledger",
    "LedgerBusyError",
    "Look",
    "RefPage",
    "RefRow",
    "ReferenceSource",
    "RowId",
    "State",
    "UploadCounts",
    "Usage",
    "Waiting",
]

P = ParamSpec("P")
T = TypeVar("T")

RowId: TypeAlias = tuple[int, int]
"""A tombstone: the number of its database, and its id there."""

ReferenceSource: TypeAlias = Callable[[Collection[str]], Collection[str]]
"""Which of some locations are referred to from outside the databases. May block."""


class LedgerBusyError(Exception):
    """The database cannot be used at this moment without harming someone else's transaction: try again later."""


class Batch(msgspec.Struct, frozen=True):
    """Locations that have a due tombstone in one database.

    Args:
        locations: The locations.
        last: When the last tombstone of the batch was written, and its id, to go on after; None when there was none.
    """

    locations: tuple[str, ...]
    last: tuple[int, int] | None


class Look(msgspec.Struct, frozen=True):
    """What all databases say of some locations, each database as of one moment.

    Args:
        tombstones: Every released tombstone of those locations.
        held: The locations that a row holds.
    """

    tombstones: tuple[Tombstone, ...]
    held: frozenset[str]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the rows of one database hold of one policy in one backend.

    Args:
        storage_key: The policy the objects were stored under.
        backend: ``backend_key`` of the backend that holds them.
        objects: How many there are; one that several rows hold counts once.
        bytes: Their size, by what the refs say.
    """

    storage_key: str
    backend: str
    objects: int
    bytes: int


class Waiting(msgspec.Struct, frozen=True):
    """The tombstones of one database.

    Args:
        waiting: All that a sweep will look at, due or not.
        due: Those a sweep would take now.
        retained: Those that only their policy's retention keeps: the grace has passed.
        failing: Those whose object could not be deleted so far.
        unreleased: Notes of a reconcile that has not ended.
        oldest: When the oldest of ``waiting`` was written; None where there is none.
    """

    waiting: int
    due: int
    retained: int
    failing: int
    unreleased: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class UploadCounts:
    """The upload sessions of one database.

    Args:
        receiving: Those that are not complete yet.
        received_bytes: What has come of them.
        finished: Those that wait for a row.
        finished_bytes: Their size.
        ending: Those that are over, and are being cleared away.
        expired: Those whose time has passed: the next sweep ends them.
    """

    receiving: int = 0
    received_bytes: int = 0
    finished: int = 0
    finished_bytes: int = 0
    ending: int = 0
    expired: int = 0


class State(msgspec.Struct, frozen=True):
    """A row of the collector's state.

    Args:
        holder: Who holds it, for a lease.
        expires_in: For how many milliseconds more.
        data: What was recorded there.
    """

    holder: str | None
    expires_in: int
    data: str | None


class FileColumn(msgspec.Struct, frozen=True):
    """A column that holds refs: the number of its database, the table with its schema, and its name."""

    database: int
    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


class RefRow(msgspec.Struct, frozen=True):
    """What a row holds in one file column.

    Args:
        key: The row's primary key as text.
        refs: What it holds there.
        error: Why that cannot be read; None where it can.
    """

    key: str
    refs: tuple[StoredObjectRef, ...]
    error: str | None = None


class RefPage(msgspec.Struct, frozen=True):
    """Some rows of a file column, in the order of the primary key.

    Args:
        rows: Those that hold anything.
        after: What to ask for the next page with; None at the end.
    """

    rows: tuple[RefRow, ...]
    after: str | None


class Ledger(Protocol):
    """The rows beneath the collector. See the module's text for what holds of every method."""

    @property
    def durable(self) -> bool:
        """Whether there are tables; without them there are no tombstones, lease, identity or state."""
        ...

    @property
    def databases(self) -> Sequence[int]:
        """The numbers of the databases that keep tombstones."""
        ...

    def check(self) -> None:
        """See that every row can be seen. Writes nothing.

        Raises:
            CollectionRefusedError: No file column is known; a table cannot be read; its rows are hidden by a security
                policy; or a column that ever held a ref is not known to this process.
        """
        ...

    def register_columns(self) -> None:
        """Write down the columns this process knows, so that one that does not know them refuses."""
        ...

    def identity(self) -> str | None:
        """Return the database's lasting name, made at first use; None without tables.

        Raises:
            CollectionRefusedError: The name was made elsewhere: this database is a copy, where that can be told.
        """
        ...

    def peek_identity(self) -> str | None:
        """Return the database's lasting name, or None while it has none. Writes nothing.

        Raises:
            CollectionRefusedError: As ``identity``.
        """
        ...

    def renew_identity(self) -> str | None:
        """Return the database's lasting name; a copy gets one of its own first."""
        ...

    def now(self, database: int = 0) -> int:
        """Return a database's clock."""
        ...

    # -- the grace

    def record_grace(self, grace: int) -> int:
        """Write down that somebody works with a grace, where that is not known; return the longest that anybody does.

        In each database; without tables it does nothing, and returns ``grace``.
        """
        ...

    def longest_grace(self) -> int:
        """Return the longest grace that was ever written down in any database; 0 where none was. Writes nothing."""
        ...

    def forget_longer_graces(self, grace: int) -> Sequence[int]:
        """Remove the graces that are longer than one; return them, the longest first."""
        ...

    # -- the lease

    def take_lease(self, name: str, holder: str, duration: int) -> str | None:
        """Take or renew a lease; None when it is ours now, else who holds it."""
        ...

    def drop_lease(self, name: str, holder: str) -> None:
        """Give a lease back. Does nothing where another one has it."""
        ...

    # -- the sweep

    def clocks(self) -> Sequence[int]:
        """Return the clock of every database. What is due by them is so before anything that is read later."""
        ...

    def due(self, database: int, *, grace: int, until: int, limit: int, after: tuple[int, int] | None) -> Batch:
        """Return due tombstones, the oldest first, that come after the last one of the batch before. Writes nothing.

        Due: released, written longer ago than grace and their retention at the moment ``until``, and not to be retried
        later than that.
        """
        ...

    def look(self, locations: Collection[str], *, grace: int, clocks: Sequence[int] | None = None) -> Look:
        """Say what is known of locations. In each database tombstones and columns are read in one snapshot.

        A tombstone is called due only if it was so before the snapshots were taken: by ``clocks``, which are asked for
        first where they are not given; and by the longest grace that is written down, if that is longer than ``grace``.
        """
        ...

    def drop(self, rows: Collection[RowId], gone: Collection[str] = ()) -> None:
        """Remove tombstones, and count the objects that are gone no more; see ``release``.

        Tombstones that are gone already are passed over. No tombstone goes before its object is given back everywhere.
        """
        ...

    def postpone(self, rows: Collection[tuple[RowId, int]]) -> None:
        """Count a failed attempt on tombstones, and retry each after its delay."""
        ...

    def write_notes(self, notes: Collection[Note]) -> None:
        """Write released tombstones, as of now."""
        ...

    # -- quotas

    def release(self, locations: Collection[str], *, older_than: int | None = None) -> None:
        """Count objects no more, in each database; each is given back once.

        Args:
            locations: The objects.
            older_than: Leave what was counted less than so many milliseconds ago; None for nothing.
        """
        ...

    def counted(
        self, database: int, *, older_than: int, after: int | None, limit: int
    ) -> Sequence[tuple[int, Counted]]:
        """Return a page of what was counted longer ago than that, with the ids of the rows, in their order."""
        ...

    # -- uploads

    def expire_uploads(self, database: int, *, limit: int, hold: int) -> Sequence[EndedUpload]:
        """End uploads that have expired, each in a transaction of its own, with a tombstone of its object.

        Those are returned, and others that have ended but were not cleared away: all are the caller's for ``hold``.
        """
        ...

    def forget_upload(self, upload: EndedUpload, *, leftovers: Sequence[str] = ()) -> None:
        """Remove the row of an upload that was cleared away; keys that may be written yet get tombstones."""
        ...

    def receiving(self) -> Collection[str]:
        """Return the keys that are being written in several goes."""
        ...

    # -- the reconcile

    def loose(self, locations: Sequence[str]) -> set[str]:
        """Return the locations that no row holds and that have no tombstone, released or not, in any database."""
        ...

    def open_run(self, name: str, holder: str, *, not_within: int) -> RunState | int:
        """Begin or take over a reconcile, and remove the notes of those that nobody can go on with.

        Returns:
            Where to go on; or, when the last one ended less than ``not_within`` ago, when that was.
        """
        ...

    def save_page(self, name: str, holder: str, state: RunState, notes: Collection[Note]) -> bool:
        """Write a page's notes, unreleased, and the new position, both or neither; False when it was taken over."""
        ...

    def close_run(self, name: str, holder: str, state: RunState, *, release: bool) -> bool:
        """End a reconcile: release its notes as of now, or remove them; False when it was taken over."""
        ...

    # -- what operators look at

    def record(self, name: str, data: str) -> None:
        """Keep some text under a name of the collector's state, whoever holds it. Does nothing without tables."""
        ...

    def states(self) -> Mapping[str, State]:
        """Return the collector's state; empty without tables."""
        ...

    def labels(self) -> Sequence[str]:
        """Return what to call each database in a message; without credentials."""
        ...

    def waiting(self, database: int, *, grace: int) -> Waiting | None:
        """Count the tombstones of a database; None without tables."""
        ...

    def uploads(self, database: int) -> UploadCounts | None:
        """Count the upload sessions of a database; None without tables."""
        ...

    def usage(self, database: int) -> Sequence[Usage]:
        """Add up what the rows of a database hold."""
        ...

    def columns(self) -> Sequence[FileColumn]:
        """Return every file column of every database, in a stable order."""
        ...

    def refs(self, column: FileColumn, *, after: str | None, limit: int) -> RefPage:
        """Read a page of a file column, of at most ``limit`` rows.

        Args:
            column: Which, as ``columns`` returns them.
            after: Where the page before ended; None for the first.
            limit: Rows at most.

        Raises:
            ConfigurationError: The table has no primary key to go by.
        """
        ...

    def policies_named(self) -> Collection[str]:
        """Return the policies that file fields name."""
        ...

    def strangers(self, manager: StorageManager) -> Sequence[Finding]:
        """Say which models with file fields this ledger does not look at, or ``manager`` does not know."""
        ...

    def diagnose(self, database: int) -> Sequence[Finding]:
        """Say what is wrong with a database, what is missing, and what is fine. Writes nothing."""
        ...

    # -- how calls are made

    def call(self, backend: StorageBackend | None, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that blocks, on a backend or elsewhere, without blocking an event loop beneath."""
        ...

    def pause(self, seconds: float, stop: threading.Event) -> None:
        """Wait, but no longer than until ``stop`` is set."""
        ...

    def run(self, call: Callable[[], T]) -> T:
        """Run a collector's whole run for a synchronous caller.

        Raises:
            ConfigurationError: The ledger needs an event loop, and there is none beneath.
        """
        ...

    async def arun(self, call: Callable[[], T], stop: threading.Event) -> T:
        """Run a collector's whole run for an asynchronous caller; when that is cancelled, stop it and join it."""
        ...

    def close(self) -> None:
        """Close the connections that nobody uses, for a program that ends; called inside ``run`` or ``arun``."""
        ...
