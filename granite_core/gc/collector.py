"""The collector: mark, wait, look, delete. The sweep is the only deleter; the reconcile only writes notes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from granite_core.errors import CollectionRefusedError
from granite_core.gc._reconcile import Reconcile
from granite_core.gc._run import MemoryNote, Run
from granite_core.gc._sweep import Sweep
from granite_core.gc._told import told
from granite_core.gc._verify import Verify, VerifyOptions
from granite_core.gc.config import GCConfig
from granite_core.gc.marker import mark_name, replace_marker
from granite_core.gc.plan import (
    Note,
)
from granite_core.gc.ports import Ledger, ReferenceSource
from granite_core.gc.reports import Progress, ReconcileReport, SweepReport, VerifyReport
from granite_core.gc.status import StatusReport, last_name, look_around, shortened
from granite_core.manager import StorageManager
from granite_core.refs import StoredObjectRef
from granite_core.uploads.settings import milliseconds

__all__ = ["Collector"]


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
        self._memory: dict[str, MemoryNote] = {}
        self._memory_lock: Final = threading.Lock()

    @property
    def ledger(self) -> Ledger:
        """Where tombstones and references are."""
        return self._ledger

    def sweep(
        self,
        *,
        dry_run: bool = False,
        wait: timedelta | None = None,
        progress: Callable[[Progress], object] | None = None,
        stop: threading.Event | None = None,
    ) -> SweepReport:
        """Delete the objects whose tombstones are all due and that no row holds.

        Args:
            dry_run: Write and delete nothing; report what would have been done.
            wait: How long to wait while another sweep holds the lease; not at all where absent.
            progress: Called after each batch, from the thread that works.
            stop: Ends the run early when it is set.

        Raises:
            CollectionRefusedError: There is reason to doubt that every reference can be seen; nothing was deleted.
            ConfigurationError: An engine is asynchronous; await ``asweep``.
        """
        run = Sweep(self, dry_run, stop or threading.Event())
        report: SweepReport = self._ledger.run(self._prepared(run, wait, progress))
        return report

    async def asweep(
        self,
        *,
        dry_run: bool = False,
        wait: timedelta | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> SweepReport:
        """Do as ``sweep`` does, without blocking the event loop. When cancelled, the run stops and is joined."""
        stop = threading.Event()
        return await self._ledger.arun(self._prepared(Sweep(self, dry_run, stop), wait, progress), stop)

    def reconcile(
        self,
        backend_key: str | None = None,
        *,
        dry_run: bool = False,
        max_share: float | None = None,
        not_within: timedelta | None = None,
        wait: timedelta | None = None,
        progress: Callable[[Progress], object] | None = None,
        stop: threading.Event | None = None,
    ) -> ReconcileReport:
        """Compare what backends list with what rows hold, and note what nobody points at. Deletes nothing.

        A run that was stopped, or died, is gone on with by the next one.

        Args:
            backend_key: The backend to look at; all of them where absent.
            dry_run: Write nothing; report what would have been noted.
            max_share: Takes the place of the configured one, for this run; 1 allows everything.
            not_within: Skip a backend whose last reconcile ended less than so long ago.
            wait: How long to wait while another reconcile holds the lease; not at all where absent.
            progress: Called after each page, from the thread that works.
            stop: Ends the run early when it is set.

        Raises:
            CollectionRefusedError: There is reason to doubt that every reference can be seen, or a backend's notes
                were more than the share allowed and were removed again.
            ConfigurationError: There is no such backend; or an engine is asynchronous: await ``areconcile``.
        """
        run = Reconcile(self, backend_key, dry_run, max_share, not_within, stop or threading.Event())
        report: ReconcileReport = self._ledger.run(self._prepared(run, wait, progress))
        return report

    async def areconcile(
        self,
        backend_key: str | None = None,
        *,
        dry_run: bool = False,
        max_share: float | None = None,
        not_within: timedelta | None = None,
        wait: timedelta | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> ReconcileReport:
        """Do as ``reconcile`` does, without blocking the event loop. When cancelled, the run stops and is joined."""
        stop = threading.Event()
        run = Reconcile(self, backend_key, dry_run, max_share, not_within, stop)
        return await self._ledger.arun(self._prepared(run, wait, progress), stop)

    def verify(
        self,
        options: VerifyOptions | None = None,
        *,
        wait: timedelta | None = None,
        progress: Callable[[Progress], object] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyReport:
        """Hold every row against its object, and every object against the rows. Changes nothing.

        Rows are read page by page, so memory is the same for any number of them. What seems wrong is looked up again
        before it is reported, so it may run beside a working application. The position is kept with every page: a run
        that was stopped, or died, is gone on with by the next one with the same options.

        Args:
            options: What is verified, and how fast.
            wait: How long to wait while another verification holds the lease; not at all where absent.
            progress: Called after each page, from the thread that works.
            stop: Ends the run early when it is set.

        Raises:
            CollectionRefusedError: Not every row can be seen.
            BackendUnavailableError: A backend is away; the next run goes on.
            ConfigurationError: There is no such policy or backend; or an engine is asynchronous: await ``averify``.
        """
        run = Verify(self, options or VerifyOptions(), stop or threading.Event())
        report: VerifyReport = self._ledger.run(self._prepared(run, wait, progress))
        return report

    async def averify(
        self,
        options: VerifyOptions | None = None,
        *,
        wait: timedelta | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> VerifyReport:
        """Do as ``verify`` does, without blocking the event loop. When cancelled, the run stops and is joined."""
        stop = threading.Event()
        run = Verify(self, options or VerifyOptions(), stop)
        return await self._ledger.arun(self._prepared(run, wait, progress), stop)

    def status(
        self, *, list_stores: bool = False, progress: Callable[[Progress], object] | None = None
    ) -> StatusReport:
        """Tell how things stand: what rows hold, what waits, who collects, what the last runs found. Writes nothing.

        Args:
            list_stores: List every backend too, and count.
            progress: Called while a backend is listed, from the thread that works.

        Raises:
            ConfigurationError: An engine is asynchronous; await ``astatus``.
        """
        look = partial(look_around, self.manager, self._ledger, list_stores=list_stores, progress=progress)
        return self._ledger.run(look)

    async def astatus(
        self, *, list_stores: bool = False, progress: Callable[[Progress], object] | None = None
    ) -> StatusReport:
        """Do as ``status`` does, without blocking the event loop."""
        look = partial(look_around, self.manager, self._ledger, list_stores=list_stores, progress=progress)
        return await self._ledger.arun(look, threading.Event())

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
        self._ledger.record(mark_name(backend), json.dumps({"database": identity}))

    def lower_grace(self) -> Sequence[timedelta]:
        """Forget the graces that are longer than the manager's: sweeps wait for the longest that was ever used.

        For when no process works with a longer one any more, and none has for a quarter of that one. A process that
        still does may lose a file.

        Returns:
            Those that were forgotten, the longest first.
        """
        return self._ledger.run(self._lower_grace)

    async def alower_grace(self) -> Sequence[timedelta]:
        """Do as ``lower_grace`` does, without blocking the event loop."""
        return await self._ledger.arun(self._lower_grace, threading.Event())

    def _lower_grace(self) -> Sequence[timedelta]:
        own = milliseconds(self.manager.grace)
        forgotten = self._ledger.forget_longer_graces(own)
        self._ledger.record_grace(own)
        return [timedelta(milliseconds=each) for each in forgotten]

    # -- how runs are made ---------------------------------------------------------------------------------------------

    def _prepared(
        self, run: Sweep | Reconcile | Verify, wait: timedelta | None, progress: Callable[[Progress], object] | None
    ) -> Callable[[], Any]:
        run.patience = wait.total_seconds() if wait is not None else 0.0
        run.on_progress = progress
        return partial(self._recorded, run)

    def _recorded(self, run: Sweep | Reconcile | Verify) -> SweepReport | ReconcileReport | VerifyReport:
        """Run, and keep what came of it for ``status``."""
        try:
            report = told(run)
        except CollectionRefusedError as error:
            ended_at = datetime.now(UTC).isoformat(timespec="seconds")
            self._keep(run, {"refused": str(error), "dry_run": run.dry_run, "ended_at": ended_at})
            raise
        if report.did_anything:
            self._keep(run, report.to_dict())
        return report

    def _keep(self, run: Run, report: dict[str, Any]) -> None:
        if self._ledger.durable and not run.dry_run:
            with suppress(Exception):  # it is only for looking at; the run itself was fine, or is told of anyway
                self._ledger.record(last_name(run.lease), json.dumps(shortened(report)))

    # -- notes ---------------------------------------------------------------------------------------------------------

    def keep_notes(self, refs: Collection[StoredObjectRef] = ()) -> int:
        """Write down what this process has noted and not written down yet, and what is given here besides.

        A run does so by itself; this is for a program that ends without one. Blocks as ``sweep`` does: on an
        asynchronous engine ``await collector.ledger.arun(collector.keep_notes, threading.Event())``.

        Args:
            refs: Objects that probably nobody points at. The sweep looks before it deletes.

        Returns:
            How many were written down.
        """
        self.manager.note(refs)
        return self._take_notes()

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
                self._memory[each.location] = MemoryNote(each, now)

    def _remembered(self) -> list[str]:
        with self._memory_lock:
            return list(self._memory)

    def _forget(self, location: str, seen: MemoryNote | None = None) -> None:
        with self._memory_lock:
            if seen is None or self._memory.get(location) is seen:
                self._memory.pop(location, None)
