"""A small world that is made anew after every death: models, a database, a store, the collector, the laws."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine, event, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    LocalStorageBackend,
    Quota,
    StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
)
from granite_core.backends import _appending, _files, local
from granite_core.backends._appending import PART_PREFIX
from granite_core.backends.local import TEMPORARY_PREFIX
from granite_core.backends.s3 import S3StorageBackend
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import (
    SQLAlchemyLedger,
    SQLAlchemyQuotaLedger,
    file_field,
    files_field,
    tables_of,
)
from granite_core.integrations.sqlalchemy._rows import registered
from granite_core.keys import DIRECT, PIECES
from granite_core.testing import FaultyBackend
from tests.faults.steps import FileSystem, Steps, watch_backend, watch_client, watch_dialect
from tests.support.s3 import S3Server

__all__ = ["MIB", "Base", "Bucket", "Document", "Place", "Rows", "World", "digest"]

MIB: Final = 1024 * 1024
GRACE: Final = timedelta(hours=2)
TWO_DAYS: Final = 2 * 86400

_QUOTA: Final = Quota(scope=lambda announced: "everybody", limit=10**9)

Rows = dict[str, tuple[str | None, tuple[str, ...]]]
"""What is committed: by title, the SHA-256 of the file and of the pages."""


class Base(DeclarativeBase):
    """A metadata of its own: other tests have file fields with other policies."""


class Document(Base):
    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    pages: Mapped[list[StoredObjectRef]] = files_field("documents")


@dataclass(frozen=True)
class Bucket:
    """A bucket of a test's own."""

    server: S3Server
    name: str


@dataclass(frozen=True)
class Place:
    """Where rows and bytes are kept; what outlives a process."""

    url: str
    async_url: str
    store: str | Bucket
    counts: bool = False
    """Whether what is stored is counted."""

    def make_tables(self) -> None:
        engine = create_engine(self.url)
        Base.metadata.create_all(engine)
        engine.dispose()


def digest(content: bytes) -> str:
    """A checksum as refs keep it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Engines:
    """Engines of either colour, and the count of what is done with them and beside them.

    Kept for all the worlds of a place: a world's end closes every connection, and what is left is compiled SQL.
    """

    def __init__(self, place: Place) -> None:
        options: dict[str, Any] = {"connect_args": {"timeout": 10}} if "sqlite" in place.url else {}
        self.steps = Steps()
        self.blocking = create_engine(place.url, **options)
        self.asynchronous = create_async_engine(place.async_url, **options)
        for engine in (self.blocking, self.asynchronous.sync_engine):
            watch_dialect(self.steps, engine.dialect)
            if "sqlite" in place.url:
                event.listen(engine, "connect", _set_up_sqlite)


WRITING: Final[tuple[Any, ...]] = (local, _appending, _files)
"""The modules that write files: each has its own name for `os`."""


class World:
    """What a process has: a manager, engines of either colour, a collector. `steps` counts what they do."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.engines = _engines(place)
        self.steps = self.engines.steps
        registered.clear()  # what a process knows of a database is forgotten with it
        self.store = _make_store(place.store, self.steps)
        self.backend = FaultyBackend(self.store)
        watch_backend(self.steps, self.backend)
        self.manager = StorageManager(
            {"main": self.backend},
            [StoragePolicy("documents", "main", key_prefix="d", quotas=[_QUOTA] if place.counts else [])],
            grace=GRACE,
            urls=UrlSettings(secrets=["a secret that is as long as it has to be"]),
        )
        self.manager.register(Base)
        self.engine, self.async_engine = self.engines.blocking, self.engines.asynchronous
        if place.counts:
            self.manager.count_in(SQLAlchemyQuotaLedger(self.engine, Base.metadata))
        # What is unfinished on a disk can be made old; a store's clock cannot be set, so there it is old at once.
        unfinished_after = timedelta(days=1) if isinstance(place.store, str) else timedelta(milliseconds=1)
        config = GCConfig(always_allowed=10**6, unfinished_after=unfinished_after)
        self.collector = Collector(self.manager, SQLAlchemyLedger([self.engine], Base.metadata), config)

    def warm_up(self) -> None:
        """Connect once: connecting is no part of an operation."""
        with self.engine.connect() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        self.engine.dispose()
        self.backend.close()
        for module in WRITING:
            module.os = os

    async def disconnect(self) -> None:
        """Close the asynchronous engine's connections, as the end of its process would."""
        pool: Any = self.async_engine.pool
        if pool.checkedout():
            gc.collect()  # SQLAlchemy leaves a connection whose ROLLBACK failed to the garbage collector
            await asyncio.sleep(0.1)  # a driver's thread tells this loop that it has ended
        await self.async_engine.dispose()

    def session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    # -- what there is -------------------------------------------------------------------------------------------------

    def rows(self) -> Rows:
        with self.session() as session:
            return {
                each.title: (each.file.checksum if each.file else None, tuple(page.checksum for page in each.pages))
                for each in session.scalars(select(Document))
            }

    def refs(self) -> list[StoredObjectRef]:
        with self.session() as session:
            found = session.scalars(select(Document)).all()
            return [ref for each in found for ref in (each.file, *each.pages) if ref is not None]

    def tombstones(self) -> list[str]:
        with self.engine.connect() as connection:
            return sorted(connection.execute(select(self._tables.tombstone.c.location)).scalars())

    def leftovers(self) -> list[str]:
        """What writers that died have left: temporary files, unfinished uploads, what clients wrote."""
        if isinstance(self.place.store, Bucket):
            client = _client(self.place.store.server)
            uploads = client.list_multipart_uploads(Bucket=self.place.store.name).get("Uploads", [])
            objects = [
                each
                for folder in (PIECES, DIRECT)
                for each in client.list_objects_v2(Bucket=self.place.store.name, Prefix=folder).get("Contents", [])
            ]
            return [each["Key"] for each in (*uploads, *objects)]
        found = Path(self.place.store).rglob("*")
        written = [each for each in found if each.name.startswith((TEMPORARY_PREFIX, PART_PREFIX))]
        return [str(each) for each in (*written, *Path(self.place.store, DIRECT).rglob("*"))]

    def uploads(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(select(self._tables.upload.c.id)).all())

    @property
    def _tables(self) -> Any:
        return tables_of(Base.metadata)

    # -- the laws ------------------------------------------------------------------------------------------------------

    def check_rows(self) -> None:
        """Law 1: what every committed row points at is there, with its SHA-256."""
        for ref in self.refs():
            self.manager.verify(ref)

    def recover(self) -> None:
        """What an operator does after a crash, which is nothing: reconcile, grace, sweep."""
        self.let_time_pass()  # the leases of the dead run out
        self._make_leftovers_old()
        noted = self.collector.reconcile()
        for _ in range(2):  # what has expired gets its tombstones from the first, and goes with the second
            self.let_time_pass()
            swept = self.collector.sweep()
        assert self.uploads() == 0
        for report in (noted, swept):
            assert report.problems == ()
            assert report.skipped is None
            assert not report.stopped

    def check_nothing_lingers(self) -> None:
        """Law 2, and law 3 with it: after reconcile, grace and sweep the listing equals the references."""
        stored, held = set(self.store.iter_locations()), {ref.location for ref in self.refs()}
        assert held - stored == set(), "lost"
        assert stored - held == set(), "lingering"
        assert self.tombstones() == []
        assert self.leftovers() == []

    def check_counted(self) -> None:
        """What is counted is what there is."""
        if self.place.counts:
            t, there = self._tables.usage, {ref.location: ref.size for ref in self.refs()}
            with self.engine.connect() as connection:
                counted = connection.execute(select(t.c.location, t.c.bytes)).all()
            assert sorted((location, size) for location, size in counted) == sorted(there.items())
            usage = self.manager.quotas.usage("everybody")
            assert (usage.bytes, usage.files) == (sum(there.values()), len(there))

    def check_pool(self) -> None:
        """No connection was returned with its transaction open."""
        if self.engine.pool.checkedout():  # type: ignore[attr-defined]
            gc.collect()  # SQLAlchemy leaves a connection whose ROLLBACK failed to the garbage collector
        assert self.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a pool that counts
        connections = [self.engine.raw_connection() for _ in range(self.engine.pool.checkedin())]  # type: ignore[attr-defined]
        for each in connections:
            driver: Any = each.driver_connection
            assert not (driver.in_transaction if "sqlite" in self.place.url else driver.info.transaction_status)
            each.close()

    def check_nothing_is_open(self) -> None:
        """No writer, no reader, no descriptor."""
        assert self.backend.open_writers == 0
        assert self.backend.open_readers == 0
        open_files = [os.readlink(each.path) for each in os.scandir("/proc/self/fd") if os.path.lexists(each.path)]
        assert not [each for each in open_files if each.startswith(str(self.place.store))]

    def let_time_pass(self) -> None:
        """Longer than the grace, and than every lease and claim."""
        tables = self._tables
        t = tables.tombstone
        later = int(GRACE.total_seconds() * 1000) + 60_000
        with self.engine.begin() as connection:
            connection.execute(t.update().values(written_at=t.c.written_at - later, retry_at=0))
            connection.execute(tables.state.update().values(expires_at=0))
            connection.execute(tables.usage.update().values(touched_at=tables.usage.c.touched_at - later))
            connection.execute(tables.upload.update().values(expires_at=0, held_until=0))

    def bury(self, location: str) -> None:
        """A tombstone."""
        values = {"location": location, "backend": "main", "storage_key": "documents", "written_at": 1}
        with self.engine.begin() as connection:
            connection.execute(self._tables.tombstone.insert().values(**values))

    def _make_leftovers_old(self) -> None:
        if isinstance(self.place.store, Bucket):
            return
        old = time.time() - TWO_DAYS
        for path in Path(self.place.store).rglob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):
                os.utime(path, (old, old))


def _make_store(store: str | Bucket, steps: Steps) -> StorageBackend:
    if isinstance(store, Bucket):
        client = _client(store.server)
        watch_client(steps, client)
        return S3StorageBackend(store.name, client=client, part_size=5 * MIB)
    made = LocalStorageBackend(store)
    for module in WRITING:
        module.os = FileSystem(steps)
    return made


@cache
def _client(server: S3Server) -> Any:
    """One for all worlds of a process: to load what boto3 knows of S3 takes longer than to be born."""
    return server.client(retries={"total_max_attempts": 1})


@lru_cache(maxsize=1)
def _engines(place: Place) -> Engines:
    return Engines(place)


def _set_up_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=OFF")  # what is killed is the process, not the machine
    cursor.close()
