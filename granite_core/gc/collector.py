"""The collector: mark, wait, look, delete. The sweep is the only deleter; the reconcile only writes notes."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from granite_core.backends.base import ObjectStat, StorageBackend
from granite_core.errors import CollectionRefusedError, StorageError
from granite_core.gc.config import GCConfig
from granite_core.gc.marker import read_marker, replace_marker, write_marker
from granite_core.gc.plan import (
    LocationPlan,
    Note,
    RunState,
    Tombstone,
    Verdict,
    backoff,
    check_marker,
    check_overlaps,
    distinct_backends,
    plan_page,
    plan_release,
    plan_sweep,
)
from granite_core.gc.ports import Ledger, LedgerBusyError, Look, ReferenceSource, RowId, chunks
from granite_core.gc.reports import MAX_DETAILS, BackendReconcile, Problem, ReconcileReport, SweepReport
from granite_core.keys import is_reserved
from granite_core.manager import StorageManager

__all__ = ["Collector"]

T = TypeVar("T")

CLAIM_FOR: Final = timedelta(minutes=5)
UNFINISHED_AFTER: Final = timedelta(days=1)

_MEMORY: Final = -1
"""The number of the database of notes that are kept in memory."""


class Collector:
    """Takes away what no committed row points at, and nothing else.

    Each verb comes in two colours: ``sweep`` and ``reconcile`` block; ``asweep`` and ``areconcile`` are the same code
    for asynchronous callers, and the only ones an asynchronous engine can serve. Safe to run anywhere, any number of
    times, at the same time.

    Args:
        manager: The manager whose backends are collected; its grace rules.
        ledger: Where tombstones and references are, ``SQLAlchemyLedger([engine], Base.metadata)``.
        config: How often and how carefully.
        references: Functions that say which of some locations are referred to from outside the databases.
    """

    def __init__(
        self,
        manager: StorageManager,
        ledger: Ledger,
        config: GCConfig | None = None,
        *,
        references: Sequence[ReferenceSource] = (),
    ) -> None:
        self.manager: Final = manager
        self.config: Final = config or GCConfig()
        self._ledger: Final = ledger
        self._references: Final = tuple(references)
        self._memory: dict[str, _MemoryNote] = {}
        self._memory_lock: Final = threading.Lock()

    def sweep(self, *, dry_run: bool = False, stop: threading.Event | None = None) -> SweepReport:
        """Delete the objects whose tombstones are all due and that no row holds.

        Args:
            dry_run: Write and delete nothing; report what would have been done.
            stop: Ends the run early when it is set.

        Raises:
            CollectionRefusedError: There is reason to doubt that every reference can be seen; nothing was deleted.
            ConfigurationError: An engine is asynchronous; await ``asweep``.
        """
        return self._ledger.run(_Sweep(self, dry_run, stop or threading.Event()).run)

    async def asweep(self, *, dry_run: bool = False) -> SweepReport:
        """Do as ``sweep`` does, without blocking the event loop. When cancelled, the run stops and is joined."""
        stop = threading.Event()
        return await self._ledger.arun(_Sweep(self, dry_run, stop).run, stop)

    def reconcile(
        self,
        backend_key: str | None = None,
        *,
        dry_run: bool = False,
        max_share: float | None = None,
        not_within: timedelta | None = None,
        stop: threading.Event | None = None,
    ) -> ReconcileReport:
        """Compare what backends list with what rows hold, and note what nobody points at. Deletes nothing.

        A run that was stopped, or died, is gone on with by the next one.

        Args:
            backend_key: The backend to look at; all of them where absent.
            dry_run: Write nothing; report what would have been noted.
            max_share: Takes the place of the configured one, for this run; 1 allows everything.
            not_within: Skip a backend whose last reconcile ended less than so long ago.
            stop: Ends the run early when it is set.

        Raises:
            CollectionRefusedError: There is reason to doubt that every reference can be seen, or a backend's notes
                were more than the share allowed and were removed again.
            ConfigurationError: There is no such backend; or an engine is asynchronous: await ``areconcile``.
        """
        run = _Reconcile(self, backend_key, dry_run, max_share, not_within, stop or threading.Event())
        return self._ledger.run(run.run)

    async def areconcile(
        self,
        backend_key: str | None = None,
        *,
        dry_run: bool = False,
        max_share: float | None = None,
        not_within: timedelta | None = None,
    ) -> ReconcileReport:
        """Do as ``reconcile`` does, without blocking the event loop. When cancelled, the run stops and is joined."""
        stop = threading.Event()
        run = _Reconcile(self, backend_key, dry_run, max_share, not_within, stop)
        return await self._ledger.arun(run.run, stop)

    def adopt(self, backend_key: str) -> None:
        """Make the store of a backend belong to this database, whoever it belonged to.

        For a database that has taken another one's place for good. While both collect, each deletes what the other's
        rows hold. A database that is a copy gets an identity of its own.

        Raises:
            ConfigurationError: There is no such backend.
            CollectionRefusedError: There are no tables to keep the database's identity in.
            BackendError: The store failed.
        """
        self._ledger.run(partial(self._adopt, backend_key))

    async def aadopt(self, backend_key: str) -> None:
        """Do as ``adopt`` does, without blocking the event loop."""
        await self._ledger.arun(partial(self._adopt, backend_key), threading.Event())

    def _adopt(self, backend_key: str) -> None:
        backend = self.manager.get_backend(backend_key)
        if (identity := self._ledger.renew_identity()) is None:
            raise CollectionRefusedError("without Granite's tables a database has no identity", backend=backend_key)
        self._ledger.call(backend, replace_marker, backend, identity)

    # -- notes ---------------------------------------------------------------------------------------------------------

    def _take_notes(self) -> int:
        """Write down what this process noted; where there are no tables, keep it here."""
        refs = self.manager.take_notes()
        notes = [Note(ref.location, ref.backend, ref.storage_key) for ref in refs]
        if not self._ledger.durable:
            self._remember(notes)
            return len(notes)
        try:
            self._ledger.write_notes(notes)
        except BaseException:
            self.manager.note(refs)
            raise
        return len(notes)

    def _remember(self, notes: Collection[Note]) -> None:
        if not notes:
            return
        now = self._ledger.now()
        with self._memory_lock:
            for each in notes:
                # The later time counts: what was noted again was let go again.
                self._memory[each.location] = _MemoryNote(each, now)

    def _remembered(self) -> list[str]:
        with self._memory_lock:
            return list(self._memory)

    def _forget(self, location: str, seen: _MemoryNote | None = None) -> None:
        with self._memory_lock:
            if seen is None or self._memory.get(location) is seen:
                self._memory.pop(location, None)


@dataclass(frozen=True, slots=True)
class _MemoryNote:
    note: Note
    written_at: int
    attempts: int = 0
    retry_at: int = 0


class _Run:
    """What sweep and reconcile have in common: the checks, the lease, the end."""

    lease = ""

    def __init__(self, collector: Collector, dry_run: bool, stop: threading.Event) -> None:
        self.collector = collector
        self.manager = collector.manager
        self.config = collector.config
        self.ledger = collector._ledger
        self.dry_run = dry_run
        self.stop = stop
        self.stopped = False
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
    def grace(self) -> int:
        return _ms(self.manager.grace)

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
            return None
        if self._needs_lease and (winner := self._take_lease()) is not None:
            # What this process noted is written down all the same: nobody else can.
            self.notes = self.collector._take_notes()
            return f"the lease is held by {winner}"
        try:
            self._check_markers(self.ledger.identity())
            self.ledger.register_columns()
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
        for source in self.collector._references:
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

    def fail(self, backend: str, location: str | None, error: Exception) -> None:
        """Remember that something failed."""
        if len(self.problems) < MAX_DETAILS:
            self.problems.append(Problem(backend, location, f"{type(error).__name__}: {error}"))

    def _take_lease(self) -> str | None:
        self._renewed = time.monotonic()
        return self.ledger.take_lease(self.lease, self.holder, _ms(self.config.lease_for))

    def _check_markers(self, identity: str | None) -> None:
        """Refuse a foreign store; leave aside one that cannot be asked."""
        for key, aliases in self.places.items():
            backend = self.backends[key]
            try:
                found = self.ledger.call(backend, read_marker, backend)
                if found is None and identity is not None and not self.dry_run:
                    found = self.ledger.call(backend, write_marker, backend, identity)
            except StorageError as error:
                self.fail(key, None, error)
                continue
            check_marker(key, found, identity)
            self.usable.update(aliases)


class _Sweep(_Run):
    """One sweep."""

    lease = "lease:sweep"

    def __init__(self, collector: Collector, dry_run: bool, stop: threading.Event) -> None:
        super().__init__(collector, dry_run, stop)
        self.counts = dict.fromkeys(("examined", "deleted", "held", "younger", "failed"), 0)
        self.examples: list[str] = []

    def run(self) -> SweepReport:
        try:
            skipped = self.prepare()
        except LedgerBusyError as busy:
            return self.report(str(busy))
        if skipped is not None:
            return self.report(skipped)
        try:
            for database in self.ledger.databases:
                self.sweep_database(database)
            if not self.ledger.durable:
                self.sweep_memory()
        except LedgerBusyError as busy:
            self.stopped = True
            return self.report(str(busy))
        finally:
            self.end()
        return self.report(None)

    def report(self, skipped: str | None) -> SweepReport:
        return SweepReport(
            dry_run=self.dry_run,
            **self.counts,
            notes=self.notes,
            examples=tuple(self.examples),
            problems=tuple(self.problems),
            skipped=skipped,
            stopped=self.stopped,
            seconds=self.seconds,
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def sweep_database(self, database: int) -> None:
        """Take batch after batch. What was taken once in this run is not taken again: ``until`` stays."""
        until, after = self.ledger.now(database), None
        limit, hold = self.config.batch_size, _ms(CLAIM_FOR)
        while not self.must_stop():
            if self.dry_run:
                batch = self.ledger.peek(database, grace=self.grace, until=until, limit=limit, after=after)
                after = batch.last_id
            else:
                batch = self.ledger.claim(database, grace=self.grace, until=until, limit=limit, hold=hold)
            if not batch.locations:
                return
            self.settle(batch.locations)

    def settle(self, locations: Sequence[str]) -> None:
        """Look, decide, act."""
        look = self.ledger.look(locations, grace=self.grace)
        dropped: list[RowId] = []
        failed: list[tuple[RowId, int]] = []
        for each in plan_sweep(look.tombstones, self.held(look, locations), self.usable).objects:
            # Already claimed: when this run ends early, its rows are taken again after a while.
            if self.must_stop():
                break
            if self.act(each):
                dropped += [(row.database, row.id) for row in each.tombstones]
            else:
                failed += [((row.database, row.id), backoff(row.attempts + 1)) for row in each.tombstones]
        if not self.dry_run:
            self.ledger.drop(dropped)
            self.ledger.postpone(failed)

    def held(self, look: Look, locations: Collection[str]) -> set[str]:
        """What rows hold, and what is referred to from elsewhere."""
        return self.held_elsewhere(locations) | look.held

    def act(self, plan: LocationPlan) -> bool:
        """Carry out the decision on one object; whether its due tombstones have done their work."""
        self.counts["examined"] += 1
        if plan.verdict is Verdict.HELD or plan.verdict is Verdict.YOUNGER:
            self.counts[plan.verdict.value] += 1
            return True
        if plan.verdict is Verdict.NO_BACKEND:
            self.counts["failed"] += 1
            for key in plan.backends:
                if key not in self.usable:
                    why = "cannot be asked in this run" if key in self.backends else "is not known to the manager"
                    self.fail(key, plan.location, StorageError(f"backend {key!r} {why}"))
            return False
        if not self.dry_run and not self.delete(plan):
            self.counts["failed"] += 1
            return False
        self.counts["deleted"] += 1
        if len(self.examples) < MAX_DETAILS:
            self.examples.append(plan.location)
        return True

    def delete(self, plan: LocationPlan) -> bool:
        for key in plan.backends:
            backend = self.backends[key]
            try:
                self.ledger.call(backend, backend.delete, plan.location)
            except Exception as error:  # noqa: BLE001 - whatever one delete raises, the others go on
                self.fail(key, plan.location, error)
                return False
        return True

    def sweep_memory(self) -> None:
        """Do the same for notes that are kept in memory. One that was ever seen held is dropped, due or not."""
        collector = self.collector
        for locations in chunks(collector._remembered(), self.config.batch_size):
            if self.must_stop():
                return
            now = self.ledger.now()
            held = self.held(self.ledger.look(locations, grace=self.grace), locations)
            for location in locations:
                with collector._memory_lock:
                    seen = collector._memory.get(location)
                if seen is None or seen.retry_at > now:
                    continue
                due = location in held or seen.written_at <= now - self.grace
                row = Tombstone(_MEMORY, 0, location, seen.note.backend, due, seen.attempts)
                for plan in plan_sweep([row], held, self.usable).objects:
                    done = self.act(plan)
                    if self.dry_run:
                        continue
                    if done:
                        collector._forget(location, seen)
                    else:
                        attempts = seen.attempts + 1
                        again = replace(seen, attempts=attempts, retry_at=now + backoff(attempts))
                        with collector._memory_lock:
                            collector._memory[location] = again


@dataclass(slots=True)
class _Place:
    """What a reconcile has found in one backend so far."""

    key: str
    state: RunState
    resumed: bool = False
    complete: bool = False
    released: bool = False
    cleared: int = 0
    examples: list[str] = field(default_factory=list)

    def report(self) -> BackendReconcile:
        return BackendReconcile(
            self.key,
            listed=self.state.listed,
            noted=self.state.noted,
            noted_bytes=self.state.noted_bytes,
            cleared=self.cleared,
            resumed=self.resumed,
            complete=self.complete,
            released=self.released,
            examples=tuple(self.examples),
        )


class _Reconcile(_Run):
    """One reconcile."""

    lease = "lease:reconcile"

    def __init__(
        self,
        collector: Collector,
        backend_key: str | None,
        dry_run: bool,
        max_share: float | None,
        not_within: timedelta | None,
        stop: threading.Event,
    ) -> None:
        super().__init__(collector, dry_run, stop)
        if backend_key is not None:
            collector.manager.get_backend(backend_key)
        self.backend_key = backend_key
        self.max_share = collector.config.max_share if max_share is None else max_share
        self.not_within = timedelta(0) if not_within is None else not_within
        self.found: list[BackendReconcile] = []
        self.refusals: list[str] = []

    def run(self) -> ReconcileReport:
        try:
            skipped = self.prepare()
        except LedgerBusyError as busy:
            return self.report(str(busy))
        if skipped is not None:
            return self.report(skipped)
        try:
            for key, aliases in self.places.items():
                if (self.backend_key is None or self.backend_key in aliases) and not self.must_stop():
                    self.reconcile_place(key)
        except LedgerBusyError as busy:
            self.stopped = True
            return self.report(str(busy))
        finally:
            self.end()
        if self.refusals:
            raise CollectionRefusedError(
                "; ".join(self.refusals), operation="reconcile", limit=self.max_share, value=self.report(None).to_dict()
            )
        return self.report(None)

    def report(self, skipped: str | None) -> ReconcileReport:
        return ReconcileReport(
            dry_run=self.dry_run,
            backends=tuple(self.found),
            problems=tuple(self.problems),
            skipped=skipped,
            stopped=self.stopped,
            seconds=self.seconds,
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def reconcile_place(self, key: str) -> None:
        """List one backend to its end, then decide whether its notes may be acted on."""
        if key not in self.usable:
            self.found.append(BackendReconcile(key, skipped="it cannot be asked in this run"))
            return
        backend = self.backends[key]
        name = f"reconcile:{hashlib.sha256(repr(backend.identity).encode()).hexdigest()[:32]}"
        opened = self.open(name)
        if isinstance(opened, int):
            when = datetime.fromtimestamp(opened / 1000, UTC).isoformat(timespec="seconds")
            self.found.append(BackendReconcile(key, skipped=f"it was reconciled at {when}"))
            return
        place = _Place(key, opened, resumed=opened.after is not None)
        kept: list[Note] = []
        try:
            place.complete = self.list_place(place, name, backend, kept)
            if place.complete:
                self.decide(place, name, kept)
                if not self.dry_run:
                    place.cleared = self.ledger.call(backend, backend.clear_unfinished, UNFINISHED_AFTER)
        except StorageError as error:
            self.fail(key, None, error)
        self.found.append(place.report())

    def open(self, name: str) -> RunState | int:
        if self.dry_run or not self.ledger.durable:
            return RunState("")
        return self.ledger.open_run(name, self.holder, not_within=_ms(self.not_within))

    def list_place(self, place: _Place, name: str, backend: StorageBackend, kept: list[Note]) -> bool:
        """Note page by page; whether the end was reached. Memory holds one page."""
        listing = backend.list_objects(start_after=place.state.after)
        while not self.must_stop():
            began = time.monotonic()
            page, at_end = self.ledger.call(backend, _next_page, listing, self.config.page_size)
            if page:
                locations = [each.location for each in page]
                accounted = self.ledger.accounted(locations) | self.held_elsewhere(locations)
                plan = plan_page(place.state, page, accounted, place.key)
                if self.dry_run:
                    pass
                elif not self.ledger.durable:
                    kept += plan.notes
                elif not self.ledger.save_page(name, self.holder, plan.state, plan.notes):
                    self.stopped = True
                    return False
                place.state = plan.state
                place.examples += [each.location for each in plan.notes[: MAX_DETAILS - len(place.examples)]]
            if at_end:
                return True
            if self.is_over_time():
                break
            self.pace(len(page), time.monotonic() - began)
        self.stopped = True
        return False

    def decide(self, place: _Place, name: str, kept: list[Note]) -> None:
        plan = plan_release(place.state, place.key, max_share=self.max_share, always_allowed=self.config.always_allowed)
        if plan.reason is not None:
            self.refusals.append(plan.reason)
        place.released = plan.release and not self.dry_run
        if self.dry_run:
            return
        if self.ledger.durable:
            if not self.ledger.close_run(name, self.holder, place.state, release=plan.release):
                self.stopped, place.released = True, False
        elif plan.release:
            known = set(self.collector._remembered())
            self.collector._remember([each for each in kept if each.location not in known])

    def is_over_time(self) -> bool:
        budget = self.config.time_budget
        return budget is not None and time.monotonic() - self._began > budget.total_seconds()

    def pace(self, objects: int, took: float) -> None:
        """Wait as long as the rate limit asks."""
        if self.config.rate_limit is not None and (left := objects / self.config.rate_limit - took) > 0:
            self.ledger.pause(left, self.stop)


def _next_page(listing: Iterator[ObjectStat], size: int) -> tuple[list[ObjectStat], bool]:
    """The next objects of a listing, without Granite's own, and whether it has ended."""
    page = list(islice(listing, size))
    return [each for each in page if not is_reserved(each.location)], len(page) < size


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
