"""An application on advanced-alchemy whose one route runs what a test hands it, in a session of the plugin.

A program is written once, as a coroutine function that takes a service. For a synchronous configuration it gets one
whose methods answer at once, and runs in the handler's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from advanced_alchemy.base import BigIntAuditBase, UUIDAuditBase
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
    SyncSessionConfig,
)
from advanced_alchemy.repository import SQLAlchemyAsyncRepository, SQLAlchemySyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService, SQLAlchemySyncRepositoryService
from litestar import Litestar, post
from litestar.di import NamedDependency
from litestar.testing import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column

from granite_core import MemoryStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_columns, file_field, files_field, tables_of
from granite_core.integrations.sqlalchemy.references import refs_in
from granite_litestar import GraniteConfig, GranitePlugin

GRACE = timedelta(hours=2)
QUARTER = GRACE / 4
BIND = "reports"

Program: TypeAlias = Callable[[Any], Awaitable[Any]]


class Report(UUIDAuditBase):
    __bind_key__ = BIND
    __tablename__ = "report"
    title: Mapped[str] = mapped_column(unique=True)
    summary: Mapped[str | None]
    file: Mapped[StoredObjectRef | None] = file_field("reports")
    pages: Mapped[list[StoredObjectRef]] = files_field("reports")


class Bill(BigIntAuditBase):
    __bind_key__ = BIND
    __tablename__ = "bill"
    number: Mapped[int] = mapped_column(unique=True)
    scan: Mapped[StoredObjectRef | None] = file_field("reports")


def service_of(model: type[Any], session: AsyncSession | Session) -> Any:
    """A service for a model, as a user declares it."""
    if isinstance(session, Session):
        repository: Any = type("Repo", (SQLAlchemySyncRepository,), {"model_type": model})
        base: Any = SQLAlchemySyncRepositoryService
    else:
        repository = type("Repo", (SQLAlchemyAsyncRepository,), {"model_type": model})
        base = SQLAlchemyAsyncRepositoryService
    return type("Service", (base,), {"repository_type": repository})(session=session)


class _AtOnce:
    """A synchronous object whose methods can be awaited."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name in ("session", "repository"):
            return _AtOnce(found)
        if not callable(found) or name in ("add", "add_all", "expunge", "to_schema"):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return found(*args, **kwargs)

        return call


class Alchemy:
    """The application, its store, and a look into both."""

    def __init__(self, url: str, *, model: type[Any] = Report, **options: Any) -> None:
        self.is_async = "aiosqlite" in url or "asyncpg" in url
        self.url = url
        self.model = model
        self.store = MemoryStorageBackend()
        self.offset = timedelta(0)
        self.manager = StorageManager(
            {"main": self.store},
            [StoragePolicy("reports", "main", max_size=1000)],
            grace=GRACE,
            now=lambda: datetime.now(UTC) + self.offset,
        )
        self.metadata: sa.MetaData = Report.metadata
        if self.is_async:
            session: Any = AsyncSessionConfig(expire_on_commit=False)
            self.config: Any = SQLAlchemyAsyncConfig(
                connection_string=url, bind_key=BIND, session_config=session, create_all=True, **options
            )
        else:
            session = SyncSessionConfig(expire_on_commit=False)
            self.config = SQLAlchemySyncConfig(
                connection_string=url, bind_key=BIND, session_config=session, create_all=True, **options
            )
        self.program: Program | None = None
        self.status = 201
        self.result: Any = None
        self.client: TestClient[Litestar]

    def handler(self) -> Any:
        async def run(service: Any) -> None:
            assert self.program is not None
            self.result = await self.program(service)

        if self.is_async:

            @post("/run")
            async def handle(db_session: NamedDependency[AsyncSession]) -> None:
                await run(service_of(self.model, db_session))

            return handle

        @post("/run", sync_to_thread=True)
        def handle_in_thread(db_session: NamedDependency[Session]) -> None:
            asyncio.run(run(_AtOnce(service_of(self.model, db_session))))

        return handle_in_thread

    @contextmanager
    def running(self, *handlers: Any, **granite: Any) -> Iterator[Alchemy]:
        plugin = GranitePlugin(GraniteConfig(self.manager, gc=None, **granite))
        app = Litestar(
            [self.handler(), *handlers], plugins=[SQLAlchemyPlugin(self.config), plugin], logging_config=None
        )
        with TestClient(app, raise_server_exceptions=False) as self.client:
            yield self

    def run(self, program: Program, *, status: int = 201) -> Any:
        """Run a program in a request, and return what it returned."""
        self.program, self.result = program, None
        answer = self.client.post("/run")
        assert answer.status_code == status, answer.text
        return self.result

    def stage(self, content: bytes = b"content", name: str = "a.txt") -> StagedFile:
        return self.manager.put_bytes("reports", content=content, original_filename=name)

    def old(self) -> StagedFile:
        """A ref that was staged too long ago, and that no row holds."""
        staged = self.stage(b"old")
        self.offset += QUARTER
        return staged

    # -- what another connection sees ----------------------------------------------------------------------------------

    @contextmanager
    def look(self) -> Iterator[sa.Connection]:
        engine = sa.create_engine(self.url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg"))
        with engine.begin() as connection:
            yield connection
        engine.dispose()

    def rows(self) -> list[Any]:
        with self.look() as connection:
            return list(connection.execute(sa.select(self.model.__table__)).mappings())

    def held(self) -> set[str]:
        with self.look() as connection:
            values = [
                value for column in file_columns(self.metadata) for value in connection.scalars(sa.select(column)).all()
            ]
        return {ref.location for value in values for ref in refs_in(value)}

    def tombstones(self) -> set[str]:
        tables = tables_of(self.metadata)
        assert tables is not None
        with self.look() as connection:
            return set(connection.scalars(sa.select(tables.tombstone.c.location)))

    def stored(self) -> set[str]:
        return {location for location in self.store.iter_locations() if not location.startswith(".granite/")}

    def collect(self) -> None:
        """Reconcile, let the grace pass, and sweep: what is left is what rows hold."""
        tables = tables_of(self.metadata)
        assert tables is not None

        async def run() -> None:
            engine = self.config.get_engine()
            collector = Collector(self.manager, SQLAlchemyLedger([engine], self.metadata), GCConfig())
            await collector.areconcile()
            t = tables.tombstone
            with self.look() as connection:
                connection.execute(t.update().values(written_at=0, retry_at=0))
            await collector.asweep()
            if self.is_async:
                await engine.dispose()

        self.client.blocking_portal.call(run)
        assert self.stored() == self.held()
