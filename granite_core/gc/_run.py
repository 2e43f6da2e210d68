"""What a sweep and a reconcile have in common: the checks, the lease, the end."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from granite_core.backends.base import ObjectStat, StorageBackend
from granite_core.errors import CollectionRefusedError, StorageError, StorageFullError
from granite_core.gc.marker import mark_name, read_marker, write_marker
from granite_core.gc.plan import (
    Note,
    check_marker,
    check_overlaps,
    distinct_backends,
)
from granite_core.gc.reports import MAX_DETAILS, Problem, Progress
from granite_core.keys import is_reserved
from granite_core.logs import describe_error
from granite_core.uploads.settings import milliseconds

if TYPE_CHECKING:
    from granite_core.gc.collector import Collector

__all__ = ["MEMORY", "MemoryNote", "Run", "next_page"]

MEMORY: Final = -1
"""The number of the database of notes that are kept in memory."""


LEASE_POLL: Final = 1.0
"""So many seconds pass between two looks at a lease that is waited for."""


class MemoryNote(msgspec.Struct, frozen=True):
    note: Note
    written_at: int
    attempts: int = 0
    retry_at: int = 0


class Run:
    """What sweep and reconcile have in common: the checks, the lease, the end."""

    lease = ""
    kind: Literal["sweep", "reconcile", "verify"]
    patience: float = 0.0
    """For how many seconds to wait for a lease that another one holds."""
    on_progress: Callable[[Progress], object] | None = None

    def __init__(self, collector: Collector, dry_run: bool, stop: threading.Event) -> None:
        self.collector = collector
        self.manager = collector.manager
        self.config = collector.config
        self.ledger = collector._ledger
        self.dry_run = dry_run
        self.stop = stop
        self.stopped = False
        self.grace = milliseconds(self.manager.grace)
        """In milliseconds; from the beginning of the run on the longest that anybody works with."""
        self.notes = 0
        self.problems: list[Problem] = []
        self.backends: Mapping[str, StorageBackend] = {}
        self.places: dict[str, tuple[str, ...]] = {}
        self.usable: set[str] = set()
        self.holder = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._renewed = 0.0
        self._began = time.monotonic()

    @property
    def _needs_lease(self) -> bool:
        return self.ledger.durable and not self.dry_run

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def prepare(self) -> str | None:
        """Look whether all can be seen, then take the lease; why there is nothing to do, or None."""
        self.ledger.check()
        self.backends = self.manager.backends
        identities = {key: backend.identity for key, backend in self.backends.items()}
        check_overlaps(identities)
        self.places = distinct_backends(identities)
        if self.dry_run:
            self._check_markers(self.ledger.peek_identity())
            self.grace = max(self.grace, self.ledger.longest_grace())
            return None
        if self._needs_lease and (winner := self._wait_for_lease()) is not None:
            # What this process noted is written down all the same: nobody else can.
            self.notes = self.collector._take_notes()
            return f"the lease is held by {winner}"
        try:
            self._check_markers(self.ledger.identity())
            self.ledger.register_columns()
            self.grace = self.ledger.record_grace(self.grace)
            self.notes = self.collector._take_notes()
        except BaseException:
            self.end()
            raise
        return None

    def end(self) -> None:
        """Give the lease back. Never raises: one that is not given back runs out."""
        if self._needs_lease:
            with suppress(Exception):
                self.ledger.drop_lease(self.lease, self.holder)

    def held_elsewhere(self, locations: Collection[str]) -> set[str]:
        """What is referred to from outside the databases."""
        held: set[str] = set()
        for source in self.collector._references if locations else ():
            held.update(self.ledger.call(None, source, locations))
        return held

    def must_stop(self) -> bool:
        """Whether to end early; renews the lease from time to time."""
        if self.stopped:
            return True
        if self.stop.is_set():
            self.stopped = True
        elif self._needs_lease and time.monotonic() - self._renewed > self.config.lease_for.total_seconds() / 3:
            self.stopped = self._take_lease() is not None
        return self.stopped

    def is_over_time(self) -> bool:
        budget = self.config.time_budget
        return budget is not None and time.monotonic() - self._began > budget.total_seconds()

    def pace(self, objects: int, took: float) -> None:
        """Wait as long as the rate limit asks."""
        if self.config.rate_limit is not None and (left := objects / self.config.rate_limit - took) > 0:
            self.ledger.pause(left, self.stop)

    def fail(self, backend: str, location: str | None, error: Exception) -> None:
        """Remember that something failed."""
        if len(self.problems) < MAX_DETAILS:
            self.problems.append(
                Problem(backend, location, f"{type(error).__name__}: {describe_error(error, location)}")
            )

    def tell(self, place: str, done: int, found: int, size: int = 0) -> None:
        """Say where the run stands, to whoever wants to know."""
        if self.on_progress is not None:
            self.on_progress(Progress(place, done, found, size))

    def _wait_for_lease(self) -> str | None:
        until = time.monotonic() + self.patience
        while (winner := self._take_lease()) is not None and not self.stop.is_set():
            if (left := until - time.monotonic()) <= 0:
                break
            self.ledger.pause(min(left, LEASE_POLL), self.stop)
        return winner

    def _take_lease(self) -> str | None:
        self._renewed = time.monotonic()
        return self.ledger.take_lease(self.lease, self.holder, milliseconds(self.config.lease_for))

    def _check_markers(self, identity: str | None) -> None:
        """Refuse a foreign store, and one that has lost our mark; leave aside one that cannot be asked."""
        remembered = self.ledger.states() if identity is not None else {}
        for key, aliases in self.places.items():
            backend = self.backends[key]
            try:
                found = self.ledger.call(backend, read_marker, backend)
                marked = mark_name(backend) in remembered
                check_marker(key, found, identity, marked=marked)
                if identity is not None and not self.dry_run and not marked:
                    self._mark(key, backend, found, identity)
            except CollectionRefusedError:
                raise
            except StorageError as error:
                self.fail(key, None, error)
                continue
            self.usable.update(aliases)

    def _mark(self, key: str, backend: StorageBackend, found: str | None, identity: str) -> None:
        """Make a store ours that is nobody's, and remember that it is."""
        if found is None:
            try:
                found = self.ledger.call(backend, write_marker, backend, identity)
            except StorageFullError:
                return  # the next run marks it: what this one lets go makes the room
        check_marker(key, found, identity)
        self.ledger.record(mark_name(backend), json.dumps({"database": identity}))


def next_page(listing: Iterator[ObjectStat], size: int) -> tuple[list[ObjectStat], bool]:
    """The next objects of a listing, without Granite's own, and whether it has ended."""
    page = list(islice(listing, size))
    return [each for each in page if not is_reserved(each.location)], len(page) < size
