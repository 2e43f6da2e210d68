"""The sweep: the only deleter."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from granite_core.backends.base import Capability
from granite_core.errors import StorageError
from granite_core.gc._run import MEMORY, Run, milliseconds
from granite_core.gc.plan import (
    LocationPlan,
    SweepPlan,
    Tombstone,
    Verdict,
    backoff,
    deletions,
    plan_sweep,
)
from granite_core.gc.ports import LedgerBusyError, Look, RowId, chunks
from granite_core.gc.reports import MAX_DETAILS, SweepReport
from granite_core.uploads.clearing import clear_away
from granite_core.uploads.sessions import EndedUpload

if TYPE_CHECKING:
    from granite_core.gc.collector import Collector

__all__ = ["Sweep"]


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
        """Take batch after batch. What was taken once in this run is not taken again: ``until`` stays."""
        until, after = self.ledger.now(database), None
        limit, hold = self.config.batch_size, milliseconds(self.config.lease_for)
        while not self.must_stop():
            if self.dry_run:
                batch = self.ledger.peek(database, grace=self.grace, until=until, limit=limit, after=after)
                after = batch.last_id
            else:
                batch = self.ledger.claim(database, grace=self.grace, until=until, limit=limit, hold=hold)
            if not batch.locations:
                return
            self.settle(batch.locations)

    def count_waiting(self, database: int) -> None:
        if not self.stopped and (found := self.ledger.waiting(database, grace=self.grace)) is not None:
            self.waiting += found.waiting - found.due

    def settle(self, locations: Sequence[str]) -> None:
        """Look, decide, act."""
        look = self.ledger.look(locations, grace=self.grace)
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
            self.ledger.release(gone)  # first: who dies in between leaves tombstones, and it is given back again, once
            self.ledger.drop(dropped)
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

        What is not reached before the run must stop is not yielded: it is claimed, and taken again after a while.
        """
        for each in plan.objects:
            if each.verdict is not Verdict.DELETE:
                yield each, self.leave(each)
        together = {key for key, each in self.backends.items() if Capability.BATCH_DELETE in each.capabilities}
        for some in deletions(plan.objects, together):
            if self.must_stop():
                return
            gone = {each.location for each in some} if self.dry_run else self.delete(some)
            for each in some:
                done = each.location in gone
                self.counts["examined"] += 1
                self.counts["deleted" if done else "failed"] += 1
                if done and len(self.examples) < MAX_DETAILS:
                    self.examples.append(each.location)
                yield each, done

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

    def delete(self, some: Collection[LocationPlan]) -> Collection[str]:
        """Delete objects that are in the same backends; the locations of those that are gone from all of them."""
        left = {each.location: each for each in some}
        for key in next(iter(some)).backends:
            backend = self.backends[key]
            failed: Mapping[str, Exception]
            try:
                failed = self.ledger.call(backend, backend.delete_many, tuple(left))
            except Exception as error:  # noqa: BLE001 - whatever a backend raises, the sweep goes on
                failed = dict.fromkeys(left, error)
            for location in [each for each in left if each in failed]:
                self.fail(key, location, failed[location])
                del left[location]
            for location, plan in left.items():
                self.manager.events.deleted(location, plan.storage_key, key, "swept")
        return left

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
