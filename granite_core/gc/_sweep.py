"""The sweep: the only deleter."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from granite_core._chunks import chunks
from granite_core.backends.base import Capability, StorageBackend
from granite_core.errors import StorageError
from granite_core.gc._run import MEMORY, Run
from granite_core.gc.plan import (
    LocationPlan,
    SweepPlan,
    Tombstone,
    Verdict,
    backoff,
    deletions,
    plan_sweep,
)
from granite_core.gc.ports import LedgerBusyError, Look, RowId
from granite_core.gc.reports import MAX_DETAILS, SweepReport
from granite_core.uploads.clearing import clear_away
from granite_core.uploads.sessions import EndedUpload
from granite_core.uploads.settings import milliseconds

if TYPE_CHECKING:
    from granite_core.gc.collector import Collector

__all__ = ["Sweep"]

AT_A_TIME: Final = 1.0
"""For so many seconds objects are deleted one by one until it is looked again whether the lease is still ours."""


class Sweep(Run):
    """One sweep."""

    lease = "lease:sweep"
    kind = "sweep"

    def __init__(self, collector: Collector, dry_run: bool, stop: threading.Event) -> None:
        super().__init__(collector, dry_run, stop)
        self.counts = dict.fromkeys(("examined", "deleted", "held", "younger", "failed", "uploads"), 0)
        self.examples: list[str] = []
        self.waiting = 0

    def run(self) -> SweepReport:
        try:
            skipped = self.prepare()
        except LedgerBusyError as busy:
            return self.report(str(busy))
        if skipped is not None:
            return self.report(skipped)
        try:
            for database in self.ledger.databases:
                try:
                    self.end_uploads(database)
                except LedgerBusyError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever a database raises: what is due is swept all the same
                    self.fail(self.ledger.labels()[database], None, error)
                self.sweep_database(database)
                self.count_waiting(database)
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
            waiting=self.waiting,
            notes=self.notes,
            grace=self.grace / 1000,
            examples=tuple(self.examples),
            problems=tuple(self.problems),
            skipped=skipped,
            stopped=self.stopped,
            seconds=self.seconds,
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def end_uploads(self, database: int) -> None:
        """End what has expired, and clear away what was not finished. What was is let go, and swept like all else."""
        if self.dry_run:
            counts = self.ledger.uploads(database)
            self.counts["uploads"] += counts.expired if counts is not None else 0
            return
        limit, hold = self.config.batch_size, milliseconds(self.config.lease_for)
        while not self.must_stop():
            ended = self.ledger.expire_uploads(database, limit=limit, hold=hold)
            if not ended:
                return
            for each in ended:
                if self.must_stop():  # another run takes it when the hold is over
                    return
                leftovers = self.clear(each)
                if leftovers is not None:
                    self.ledger.forget_upload(each, leftovers=leftovers)
                    self.counts["uploads"] += 1

    def clear(self, upload: EndedUpload) -> Sequence[str] | None:
        """Clear away what an upload left in its store; what may be written there yet, None where it is not done."""
        backend = self.backends.get(upload.backend)
        try:
            if backend is None or upload.backend not in self.usable:
                raise StorageError(f"backend {upload.backend!r} cannot be asked in this run")
            return self.ledger.call(backend, clear_away, backend, upload)
        except Exception as error:  # noqa: BLE001 - whatever one raises, the others go on
            self.fail(upload.backend, upload.location, error)
            return None

    def sweep_database(self, database: int) -> None:
        """Take batch after batch of what is due when this begins. Nothing is marked as taken: the lease is ours."""
        clocks, limit, after = self.ledger.clocks(), self.config.batch_size, None
        while not self.must_stop():
            batch = self.ledger.due(database, grace=self.grace, until=clocks[database], limit=limit, after=after)
            if not batch.locations:
                return
            self.settle(batch.locations, clocks)
            after = batch.last

    def count_waiting(self, database: int) -> None:
        if not self.stopped and (found := self.ledger.waiting(database, grace=self.grace)) is not None:
            self.waiting += found.waiting - found.due

    def settle(self, locations: Sequence[str], clocks: Sequence[int]) -> None:
        """Look, decide, act."""
        look = self.ledger.look(locations, grace=self.grace, clocks=clocks)
        dropped: list[RowId] = []
        failed: list[tuple[RowId, int]] = []
        gone: list[str] = []
        tombstones = [self.placed(each) for each in look.tombstones]
        plan = plan_sweep(tombstones, self.held(look, locations), self.usable)
        for each, done in self.act(plan):
            if done:
                dropped += [(row.database, row.id) for row in each.tombstones]
                if each.verdict is Verdict.DELETE:
                    gone.append(each.location)
            else:
                failed += [((row.database, row.id), backoff(row.attempts + 1)) for row in each.tombstones]
        if not self.dry_run:
            self.ledger.drop(dropped, gone)
            self.ledger.postpone(failed)
        self.tell("", self.counts["examined"], self.counts["deleted"])

    def placed(self, each: Tombstone) -> Tombstone:
        """The tombstone with the key of the backend that holds its object."""
        key = self.manager.backend_key_of(each.backend, each.storage_key, each.location)
        return each if key == each.backend else msgspec.structs.replace(each, backend=key)

    def held(self, look: Look, locations: Collection[str]) -> set[str]:
        """What rows hold, and what is referred to from elsewhere."""
        return self.held_elsewhere(locations) | look.held

    def act(self, plan: SweepPlan) -> Iterator[tuple[LocationPlan, bool]]:
        """Carry out what was decided; of each object, whether its due tombstones have done their work.

        What is not reached before the run must stop is not yielded: the next run takes it.
        """
        for each in plan.objects:
            if each.verdict is not Verdict.DELETE:
                yield each, self.leave(each)
        for some in deletions(plan.objects):
            left = some
            while left:
                if self.must_stop():
                    return
                reached, gone = (len(left), {each.location for each in left}) if self.dry_run else self.delete(left)
                for each in left[:reached]:
                    done = each.location in gone
                    self.counts["examined"] += 1
                    self.counts["deleted" if done else "failed"] += 1
                    if done and len(self.examples) < MAX_DETAILS:
                        self.examples.append(each.location)
                    yield each, done
                left = left[reached:]

    def leave(self, plan: LocationPlan) -> bool:
        self.counts["examined"] += 1
        if plan.verdict is not Verdict.NO_BACKEND:
            self.counts[plan.verdict.value] += 1
            return True
        self.counts["failed"] += 1
        for key in plan.backends:
            if key not in self.usable:
                why = "cannot be asked in this run" if key in self.backends else "is not known to the manager"
                self.fail(key, plan.location, StorageError(f"backend {key!r} {why}"))
        return False

    def delete(self, some: Sequence[LocationPlan]) -> tuple[int, Collection[str]]:
        """Delete objects that are in the same backends.

        Returns:
            How many were tried, from the first on, and the locations of those that are gone from all the backends.
        """
        keys = some[0].backends
        together = all(Capability.BATCH_DELETE in self.backends[key].capabilities for key in keys)
        if not together and len(keys) > 1:
            some = some[:1]
        left = {each.location: each for each in some}
        tried = len(left)
        for key in keys:
            if not left:
                break
            backend = self.backends[key]
            failed: Mapping[str, Exception]
            try:
                if together:
                    failed = self.ledger.call(backend, backend.delete_many, tuple(left))
                else:
                    tried, failed = self.ledger.call(backend, self.delete_for_a_while, backend, tuple(left))
            except Exception as error:  # noqa: BLE001 - whatever a backend raises, the sweep goes on
                failed = dict.fromkeys(left, error)
            for location in [each for each in left if each in failed]:
                self.fail(key, location, failed[location])
            left = {each.location: each for each in [*left.values()][:tried] if each.location not in failed}
            for location, plan in left.items():
                self.manager.events.deleted(location, plan.storage_key, key, "swept")
        return tried, left

    def delete_for_a_while(self, backend: StorageBackend, locations: Sequence[str]) -> tuple[int, dict[str, Exception]]:
        """Delete objects one after another, until it has to be looked again whether to go on.

        Returns:
            How many were tried, and which of them could not be deleted, and why.
        """
        until = time.monotonic() + min(AT_A_TIME, self.config.lease_for.total_seconds() / 3)
        failed: dict[str, Exception] = {}
        for tried, location in enumerate(locations, 1):
            try:
                backend.delete(location)
            except Exception as error:  # noqa: BLE001 - whatever one delete raises, the others go on
                failed[location] = error
            if self.stop.is_set() or time.monotonic() > until:
                return tried, failed
        return len(locations), failed

    def sweep_memory(self) -> None:
        """Do the same for notes that are kept in memory. One that was ever seen held is dropped, due or not."""
        collector = self.collector
        for locations in chunks(collector._remembered(), self.config.batch_size):
            if self.must_stop():
                return
            clocks = self.ledger.clocks()
            now = clocks[0]
            held = self.held(self.ledger.look(locations, grace=self.grace, clocks=clocks), locations)
            for location in locations:
                with collector._memory_lock:
                    seen = collector._memory.get(location)
                if seen is None or seen.retry_at > now:
                    continue
                due = location in held or seen.written_at + seen.note.retention <= now - self.grace
                note = seen.note
                row = Tombstone(MEMORY, 0, location, note.backend, due, seen.attempts, note.storage_key)
                for _, done in self.act(plan_sweep([self.placed(row)], held, self.usable)):
                    if self.dry_run:
                        continue
                    if done:
                        collector._forget(location, seen)
                    else:
                        attempts = seen.attempts + 1
                        again = msgspec.structs.replace(seen, attempts=attempts, retry_at=now + backoff(attempts))
                        with collector._memory_lock:
                            collector._memory[location] = again
