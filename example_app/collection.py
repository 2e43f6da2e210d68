"""What the page shows of storage and collection. Nothing here is needed to use Granite."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from litestar import Litestar
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from example_app.models import Item
from granite_core import StoredObjectRef
from granite_core.gc import ReconcileReport, SweepReport
from granite_core.integrations.sqlalchemy import db_now, tables_of
from granite_litestar import GranitePlugin

__all__ = ["Collected", "Gauge", "Keeper", "StorageView", "Waiting"]

LISTED_FOR = 1.0
"""Seconds that a listing of the backend is good for, however many pages are open."""


@dataclass(frozen=True)
class Gauge:
    """A number of objects, and their size in bytes."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class Waiting:
    """An object that no row points at any more, and when it goes."""

    name: str
    size: int
    seconds_left: float


@dataclass(frozen=True)
class Collected:
    """An object that the sweep took away."""

    name: str
    size: int
    at: datetime


@dataclass(frozen=True)
class StorageView:
    """What lies where, and what the collector did and will do."""

    backend: str
    database: str
    grace: float
    in_rows: Gauge
    in_uploads: Gauge
    waiting_total: Gauge
    unaccounted: Gauge
    on_backend: Gauge
    waiting: list[Waiting]
    collected: list[Collected]
    collected_total: Gauge
    swept_at: datetime | None
    reconciled_at: datetime | None
    orphans: int
    problem: str | None


class Keeper:
    """Watches the collector that the plugin runs, remembers what it reported, and counts what there is."""

    def __init__(self, granite: GranitePlugin, engine: AsyncEngine) -> None:
        self._granite = granite
        self._manager = granite.config.manager
        self._engine = engine
        self._names: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._listing: dict[str, int] = {}
        self._listed_at = float("-inf")
        self._lock = asyncio.Lock()
        self._collected: deque[Collected] = deque(maxlen=20)
        self._total = Gauge(0, 0)
        self._sweep: SweepReport | None = None
        self._swept_at: datetime | None = None
        self._reconcile: ReconcileReport | None = None
        self._reconciled_at: datetime | None = None

    @asynccontextmanager
    async def lifespan(self, _: Litestar) -> AsyncGenerator[None, None]:
        """Watch for as long as the application runs."""
        task = asyncio.create_task(self._watch())
        yield
        task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            if (runner := self._granite.runner) is None:
                continue
            if runner.last_sweep is not None and runner.last_sweep is not self._sweep:
                self._saw_sweep(runner.last_sweep)
            if runner.last_reconcile is not self._reconcile:
                self._reconcile, self._reconciled_at = runner.last_reconcile, datetime.now(UTC)

    def _saw_sweep(self, report: SweepReport) -> None:
        now = self._swept_at = datetime.now(UTC)
        self._sweep = report
        gone = [Collected(self._name(each), self._sizes.get(each, 0), now) for each in report.examples]
        self._collected.extendleft(gone)
        size = sum(each.size for each in gone)
        self._total = Gauge(self._total.objects + report.deleted, self._total.bytes + size)
        if report.deleted:
            self._listed_at = float("-inf")

    # -- what the page shows

    def remember(self, refs: Iterable[StoredObjectRef]) -> None:
        """Remember the names of files that were let go; a tombstone has none."""
        for ref in refs:
            self._names[ref.location] = ref.original_filename or "unnamed"
            self._sizes[ref.location] = ref.size

    async def view(self, session: AsyncSession, refs: list[StoredObjectRef]) -> StorageView:
        """Compare what rows hold, what waits, and what is on the backend."""
        due = await self._due(session)
        sent = await self._sent(session)
        listing = await self._list()
        held = {ref.location for ref in refs}
        waiting = {key: left for key, left in due.items() if key in listing and key not in held}
        rest = [key for key in listing if key not in held | sent.keys() and key not in waiting]
        backend = self._manager.get_backend_for_policy("library")
        return StorageView(
            backend="local disk" if backend.identity[0] == "file" else backend.identity[0].upper(),
            database=self._engine.dialect.name,
            grace=self._manager.grace.total_seconds(),
            in_rows=Gauge(len(held), sum(ref.size for ref in set(refs))),
            in_uploads=Gauge(len(sent), sum(sent.values())),
            waiting_total=Gauge(len(waiting), sum(listing[key] for key in waiting)),
            unaccounted=Gauge(len(rest), sum(listing[key] for key in rest)),
            on_backend=Gauge(len(listing), sum(listing.values())),
            waiting=[
                Waiting(self._name(key), listing[key], max(left, 0))
                for key, left in sorted(waiting.items(), key=lambda each: each[1])[:50]
            ],
            collected=list(self._collected),
            collected_total=self._total,
            swept_at=self._swept_at,
            reconciled_at=self._reconciled_at,
            orphans=self._reconcile.noted if self._reconcile else 0,
            problem=str(error) if (error := self._granite.runner and self._granite.runner.last_error) else None,
        )

    async def _due(self, session: AsyncSession) -> dict[str, float]:
        """Seconds until each object that was let go may be deleted."""
        tables = tables_of(Item.metadata)
        assert tables is not None
        t = tables.tombstone.c
        last = func.max(t.written_at + t.retention) - db_now()
        rows = await session.execute(select(t.location, last).where(t.run.is_(None)).group_by(t.location))
        return {key: left / 1000 + self._manager.grace.total_seconds() for key, left in rows}

    async def _sent(self, session: AsyncSession) -> dict[str, int]:
        """Bytes that each upload has, whose file is in no row yet, by location."""
        tables = tables_of(Item.metadata)
        assert tables is not None
        rows = await session.execute(select(tables.upload.c.location, tables.upload.c.received))
        return dict(row.tuple() for row in rows)

    async def _list(self) -> dict[str, int]:
        """Size of every object on the backend, by location."""
        async with self._lock:
            if time.monotonic() - self._listed_at > LISTED_FOR:
                backend = self._manager.get_backend_for_policy("library")
                self._listing = await asyncio.to_thread(lambda: {o.location: o.size for o in backend.list_objects()})
                self._listed_at = time.monotonic()
                self._sizes |= self._listing
        return self._listing

    def _name(self, location: str) -> str:
        return self._names.get(location) or f"unknown{location[location.rfind('.') :] if '.' in location else ''}"
