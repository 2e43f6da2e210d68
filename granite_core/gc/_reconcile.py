"""The reconcile: compares a store with all references, and writes notes."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from granite_core.backends.base import Capability, ObjectStat, StorageBackend
from granite_core.errors import CollectionRefusedError, ObjectNotFoundError, StorageError
from granite_core.gc._run import Run
from granite_core.gc.plan import (
    Note,
    RunState,
    plan_page,
    plan_release,
)
from granite_core.gc.ports import LedgerBusyError
from granite_core.gc.reports import MAX_DETAILS, BackendReconcile, ReconcileReport
from granite_core.gc.status import reconcile_name
from granite_core.keys import RESERVED_PREFIX, is_reserved
from granite_core.quotas import Counted
from granite_core.uploads.settings import milliseconds

if TYPE_CHECKING:
    from granite_core.gc.collector import Collector

__all__ = ["Reconcile"]

SAVE_EVERY: Final = 1.0
"""So many seconds of listing at most are lost when a run dies; each save is a commit, which waits for a disk."""


@dataclass(slots=True)
class _Place:
    """What a reconcile has found in one backend so far, and what of it is not written down yet."""

    key: str
    name: str
    state: RunState
    unsaved: list[Note] = field(default_factory=list)
    saved: RunState | None = None
    saved_at: float = field(default_factory=time.monotonic)
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


class _Listing:
    """The keys of a backend, in pages; its objects are looked at only where they are nobody's.

    Where a listing tells sizes anyway they are kept for a page; where each would cost a look, as on a file system, the
    few that are wanted are asked for.
    """

    def __init__(self, backend: StorageBackend, after: str | None) -> None:
        self._backend = backend
        self._keys: Iterator[str] | None = None
        self._objects: Iterator[ObjectStat] = iter(())
        self._page: list[ObjectStat] = []
        if Capability.KEY_LISTING in backend.capabilities:
            self._keys = backend.list_keys(start_after=after)
        else:
            self._objects = backend.list_objects(start_after=after)

    def next_page(self, size: int) -> tuple[list[str], bool]:
        """Return the next keys, without Granite's own, and whether the listing has ended."""
        if self._keys is not None:
            keys = list(islice(self._keys, size))
        else:
            self._page = list(islice(self._objects, size))
            keys = [each.location for each in self._page]
        at_end = len(keys) < size
        if RESERVED_PREFIX in "/".join(keys):  # a listing shows none, and to ask of each by itself costs more
            keys = [each for each in keys if not is_reserved(each)]
        return keys, at_end

    def look_at(self, wanted: Collection[str]) -> list[ObjectStat]:
        """Return some objects of the page, in order; what is gone meanwhile is left out."""
        if self._keys is None:
            return [each for each in self._page if each.location in wanted]
        found = []
        for each in sorted(wanted):
            with suppress(ObjectNotFoundError):
                found.append(self._backend.stat(each))
        return found


class Reconcile(Run):
    """One reconcile."""

    lease = "lease:reconcile"
    kind = "reconcile"

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
        self.retentions = [
            (f"{prefix}/" if (prefix := (policy.key_prefix or "").strip("/")) else "", milliseconds(policy.retention))
            for policy in collector.manager.policies.values()
            if policy.retention
        ]

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
            if not self.dry_run and any(each.complete for each in self.found):
                self.give_back_unproven()  # what is there and nobody's has been noted by now
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

    def give_back_unproven(self) -> None:
        """Give back what processes that died had reserved: what nobody holds, and no store has.

        What a store has is noted, if nobody holds it, and given back when it is swept. Costs a look at each object that
        is nobody's, and a look-up of everything that is counted.
        """
        for database in self.ledger.databases:
            after: int | None = None
            while not self.must_stop():
                page = self.ledger.counted(database, older_than=self.grace, after=after, limit=self.config.page_size)
                if not page:
                    break
                after = page[-1][0]
                counted = {each.location: each for _, each in page}
                loose = self.ledger.loose(list(counted))
                gone = [location for location in sorted(loose) if self.is_gone(counted[location])]
                self.ledger.release(gone, older_than=self.grace)

    def is_gone(self, counted: Counted) -> bool:
        """Whether a store that can be asked says that it has no such object."""
        key = self.manager.backend_key_of(counted.backend, counted.storage_key, counted.location)
        if key not in self.usable:
            return False
        backend = self.backends[key]
        try:
            return not self.ledger.call(backend, backend.exists, counted.location)
        except StorageError as error:
            self.fail(key, counted.location, error)
            return False

    def reconcile_place(self, key: str) -> None:
        """List one backend to its end, then decide whether its notes may be acted on."""
        if key not in self.usable:
            self.found.append(BackendReconcile(key, skipped="it cannot be asked in this run"))
            return
        backend = self.backends[key]
        name = reconcile_name(backend)
        opened = self.open(name)
        if isinstance(opened, int):
            when = datetime.fromtimestamp(opened / 1000, UTC).isoformat(timespec="seconds")
            self.found.append(BackendReconcile(key, skipped=f"it was reconciled at {when}"))
            return
        place = _Place(key, name, opened, saved=opened, resumed=opened.after is not None)
        try:
            place.complete = self.list_place(place, backend)
            if place.complete:
                self.decide(place)
                if not self.dry_run:
                    place.cleared = self.clear(backend)
        except StorageError as error:
            self.fail(key, None, error)
        self.found.append(place.report())

    def clear(self, backend: StorageBackend) -> int:
        """Remove what writers that died left behind, but for what is still received."""
        told: dict[str, Collection[str]] = {}
        if backend.capabilities & {Capability.RESUMABLE_WRITES, Capability.PRESIGNED_PUT}:
            told["keep"] = self.ledger.receiving()
        return self.ledger.call(backend, backend.clear_unfinished, self.config.unfinished_after, **told)

    def open(self, name: str) -> RunState | int:
        if self.dry_run or not self.ledger.durable:
            return RunState("")
        return self.ledger.open_run(name, self.holder, not_within=milliseconds(self.not_within))

    def list_place(self, place: _Place, backend: StorageBackend) -> bool:
        """Note page by page; whether the end was reached. Memory holds one page, and as many notes."""
        try:
            at_end = self.list_pages(place, backend)
        except StorageError:
            with suppress(Exception):  # what was found is listed again; why the listing ended is told
                self.save(place)
            raise
        complete = self.save(place) and at_end
        self.stopped = self.stopped or not complete
        return complete

    def list_pages(self, place: _Place, backend: StorageBackend) -> bool:
        listing = _Listing(backend, place.state.after)
        size = self.page_size()
        while not self.must_stop():
            began = time.monotonic()
            page, at_end = self.ledger.call(backend, listing.next_page, size)
            if page:
                loose = self.ledger.loose(page)
                loose -= self.held_elsewhere(loose)
                objects = self.ledger.call(backend, listing.look_at, loose) if loose else []
                plan = plan_page(place.state, page, objects, place.key, self.retentions)
                place.state = plan.state
                place.unsaved += plan.notes
                place.examples += [each.location for each in plan.notes[: MAX_DETAILS - len(place.examples)]]
                if self.is_to_save(place) and not self.save(place):
                    return False
                self.tell(place.key, plan.state.listed, plan.state.noted)
            if at_end:
                return True
            if self.is_over_time():
                break
            self.pace(len(page), time.monotonic() - began)
        return False

    def is_to_save(self, place: _Place) -> bool:
        """Whether to write down now what was found. Who lists slowly does so with each page, before the wait."""
        waited = time.monotonic() - place.saved_at > SAVE_EVERY
        return waited or len(place.unsaved) >= self.config.page_size or self.config.rate_limit is not None

    def save(self, place: _Place) -> bool:
        """Write down notes and position; False when the run was taken over. Without tables notes stay in memory."""
        if self.dry_run:
            place.unsaved.clear()
        if self.dry_run or not self.ledger.durable or place.state == place.saved:
            return True
        if not self.ledger.save_page(place.name, self.holder, place.state, place.unsaved):
            return False
        place.unsaved.clear()
        place.saved, place.saved_at = place.state, time.monotonic()
        return True

    def page_size(self) -> int:
        """So many objects at a time that the lease outlasts the wait which a rate limit asks for after them."""
        if self.config.rate_limit is None:
            return self.config.page_size
        while_ours = self.config.rate_limit * self.config.lease_for.total_seconds() / 3
        return max(1, min(self.config.page_size, int(while_ours)))

    def decide(self, place: _Place) -> None:
        plan = plan_release(place.state, place.key, max_share=self.max_share, always_allowed=self.config.always_allowed)
        if plan.reason is not None:
            self.refusals.append(plan.reason)
        place.released = plan.release and not self.dry_run
        if self.dry_run:
            return
        if self.ledger.durable:
            if not self.ledger.close_run(place.name, self.holder, place.state, release=plan.release):
                self.stopped, place.released = True, False
        elif plan.release:
            known = set(self.collector._remembered())
            self.collector._remember([each for each in place.unsaved if each.location not in known])
