"""What a run of the collector found and did, for logs, pages and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

__all__ = [
    "BackendReconcile",
    "Discrepancy",
    "DiscrepancyKind",
    "GarbageCollectionReport",
    "Problem",
    "Progress",
    "ReconcileReport",
    "StoreCount",
    "SweepReport",
    "VerifyReport",
]

MAX_DETAILS: Final = 100
"""A report names so many objects and problems at most, and counts the others."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that failed, and will be tried again.

    Args:
        backend: ``backend_key`` of the backend.
        location: The object's key, where it was about one.
        message: What was wrong.
    """

    backend: str
    location: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, told after each of its steps.

    Args:
        place: The backend or column it is at; empty for a sweep.
        done: Objects it has looked at there.
        found: What came of it: objects deleted by a sweep, noted by a reconcile, found wrong by a verification.
        bytes: Bytes listed or read, where the run knows.
    """

    place: str
    done: int
    found: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class GarbageCollectionReport:
    """What ``StorageGarbageCollector.collect`` found and did.

    Args:
        scanned: Objects listed under the policy's prefix.
        referenced: Those that a reference names.
        orphaned: Those that nobody names and that are the policy's: deleted, or in a dry run would be.
        deleted: Objects that are gone; 0 in a dry run.
        failed: Objects that could not be deleted.
        shared: Those that nobody names and that another policy may have stored: they stay.
        dry_run: Whether nothing was deleted.
        problems: The first of what failed.
    """

    scanned: int = 0
    referenced: int = 0
    orphaned: int = 0
    deleted: int = 0
    failed: int = 0
    shared: int = 0
    dry_run: bool = False
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did; in a dry run, what it would have done.

    Args:
        dry_run: Whether nothing was written or deleted.
        examined: Objects that had a due tombstone.
        deleted: Objects that are gone.
        held: Objects that a row holds: they stay, their tombstones are dropped.
        younger: Objects that somebody let go again since: they wait.
        failed: Objects that could not be deleted: they are tried again.
        uploads: Uploads that had expired, or had ended otherwise, and were cleared away.
        waiting: Tombstones whose time is still to come, after the grace and their policy's retention.
        notes: Notes of this process that were written down.
        grace: How long what was let go had to wait, in seconds: the longest grace that any process has worked with.
        examples: The first of the objects that are gone, by location.
        problems: The first of what failed.
        skipped: Why nothing was done; None when the run was made.
        stopped: Whether the run ended early because it was told to, or lost its lease.
        seconds: How long it took.
        ended_at: When it ended, ISO 8601 in UTC, by this process's clock.
    """

    dry_run: bool = False
    examined: int = 0
    deleted: int = 0
    held: int = 0
    younger: int = 0
    failed: int = 0
    uploads: int = 0
    waiting: int = 0
    notes: int = 0
    grace: float = 0.0
    examples: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    skipped: str | None = None
    stopped: bool = False
    seconds: float = 0.0
    ended_at: str | None = None

    @property
    def did_anything(self) -> bool:
        """Whether the run was made."""
        return self.skipped is None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BackendReconcile:
    """What a reconcile found in one backend.

    Args:
        backend: Its ``backend_key``; the first one where it has several.
        listed: Objects seen, those of the run that this one went on with included.
        noted: Objects nobody points at.
        noted_bytes: Their size in bytes, as far as the store tells it.
        cleared: Leftovers of writers that died which were removed.
        resumed: Whether this run went on with an earlier one.
        complete: Whether the end of the listing was reached.
        released: Whether the sweep may act on the notes.
        skipped: Why it was not looked at; None when it was.
        examples: The first of the objects noted, by location.
    """

    backend: str
    listed: int = 0
    noted: int = 0
    noted_bytes: int = 0
    cleared: int = 0
    resumed: bool = False
    complete: bool = False
    released: bool = False
    skipped: str | None = None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What a reconcile found; in a dry run it wrote nothing.

    Args:
        dry_run: Whether nothing was written.
        backends: One entry for each physical backend.
        problems: What failed.
        skipped: Why nothing was done; None when the run was made.
        stopped: Whether the run ended early; the next one goes on where it stood.
        seconds: How long it took.
        ended_at: When it ended, ISO 8601 in UTC, by this process's clock.
    """

    dry_run: bool = False
    backends: tuple[BackendReconcile, ...] = ()
    problems: tuple[Problem, ...] = ()
    skipped: str | None = None
    stopped: bool = False
    seconds: float = 0.0
    ended_at: str | None = None

    @property
    def did_anything(self) -> bool:
        """Whether the run was made, and any backend was due."""
        return self.skipped is None and any(each.skipped is None for each in self.backends)

    @property
    def listed(self) -> int:
        """Objects seen in all backends."""
        return sum(each.listed for each in self.backends)

    @property
    def noted(self) -> int:
        """Objects nobody points at, in all backends."""
        return sum(each.noted for each in self.backends)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form."""
        return {**asdict(self), "listed": self.listed, "noted": self.noted}


class DiscrepancyKind(StrEnum):
    """In what way a row and its object differ."""

    MISSING = "missing"
    """There is no such object."""
    SIZE = "size"
    """The object is longer or shorter than the row says."""
    CHECKSUM = "checksum"
    """The object's SHA-256 is another one than the row says."""
    UNREADABLE = "unreadable"
    """The backend refused, or failed, to tell or to read."""
    NO_BACKEND = "no-backend"
    """The row names a backend that the manager does not have."""
    UNDECODABLE = "undecodable"
    """What is in the column is no ref."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A row whose object is not what the row says.

    Args:
        kind: In what way.
        column: Table and column.
        row: The row's primary key as text.
        backend: ``backend_key`` of the backend; empty where the ref cannot be read.
        location: The object's key; empty where the ref cannot be read.
        message: What was expected, and what was found.
    """

    kind: DiscrepancyKind
    column: str
    row: str
    backend: str
    location: str
    message: str


@dataclass(frozen=True, slots=True)
class StoreCount:
    """What a listing of one backend shows, seen from the rows.

    Args:
        backend: Its ``backend_key``; the first one where it has several.
        objects: What is there.
        bytes: Their size.
        held: Those that a row holds.
        waiting: Those that no row holds, and that have a tombstone.
        nobodys: Those that neither a row nor a tombstone names: uploads under way, or work for the reconcile.
        nobodys_bytes: Their size.
    """

    backend: str
    objects: int = 0
    bytes: int = 0
    held: int = 0
    waiting: int = 0
    nobodys: int = 0
    nobodys_bytes: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found. Numbers are of the whole, the runs that this one went on with included.

    Args:
        checksums: Whether every object was read and hashed.
        rows: Rows looked at, per file column.
        refs: Files they hold.
        bytes: Their size by what the rows say.
        read: Bytes read.
        without_checksum: Files that could not be compared, since their rows hold no SHA-256.
        found: How many discrepancies of each kind.
        discrepancies: The first of them.
        stores: What the backends' listings show; empty where they were not asked for.
        problems: What could not be looked at.
        skipped: Why nothing was done; None when the run was made.
        resumed: Whether this run went on with an earlier one.
        stopped: Whether it ended early; the next run with the same options goes on there.
        seconds: How long it took, this run only.
        ended_at: When it ended, ISO 8601 in UTC, by this process's clock.
    """

    checksums: bool = False
    rows: int = 0
    refs: int = 0
    bytes: int = 0
    read: int = 0
    without_checksum: int = 0
    found: Mapping[str, int] = field(default_factory=dict)
    discrepancies: tuple[Discrepancy, ...] = ()
    stores: tuple[StoreCount, ...] = ()
    problems: tuple[Problem, ...] = ()
    skipped: str | None = None
    resumed: bool = False
    stopped: bool = False
    seconds: float = 0.0
    ended_at: str | None = None

    @property
    def did_anything(self) -> bool:
        """Whether the run was made."""
        return self.skipped is None

    @property
    def sound(self) -> bool:
        """Whether all that was looked at is as the rows say."""
        return not self.discrepancies and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form."""
        return {**asdict(self), "sound": self.sound}
