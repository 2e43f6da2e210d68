"""A small world to try the coupling in: models, an engine of either colour, a store one can look into, a clock."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, ForeignKey, UniqueConstraint, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, deferred, mapped_column, relationship
from sqlalchemy.util import greenlet_spawn  # what AsyncSession itself runs in

from granite_core import MemoryStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_columns, file_field, files_field, tables_of
from granite_core.integrations.sqlalchemy.references import refs_in
from granite_core.testing.faults import FaultyBackend

GRACE = timedelta(hours=2)
QUARTER = GRACE / 4


class Base(DeclarativeBase):
    pass


class Folder(Base):
    __tablename__ = "folder"
    id: Mapped[int] = mapped_column(primary_key=True)
    documents: Mapped[list[Document]] = relationship(cascade="all, delete-orphan", back_populates="folder")


class Document(Base):
    __tablename__ = "document"
    __table_args__ = (UniqueConstraint("title"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    title: Mapped[str | None]
    folder_id: Mapped[int | None] = mapped_column(ForeignKey("folder.id"))
    folder: Mapped[Folder | None] = relationship(back_populates="documents")
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    cover: Mapped[StoredObjectRef | None] = file_field("documents", index=False)
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")
    late: Mapped[StoredObjectRef | None] = deferred(file_field("documents", index=False))


class Account(Base):
    """The base of a joined hierarchy: the file is in the child's table."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    avatar: Mapped[StoredObjectRef | None] = file_field("documents")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "account"}


class Company(Account):
    __tablename__ = "company"
    id: Mapped[int] = mapped_column(ForeignKey("account.id"), primary_key=True)
    logo: Mapped[StoredObjectRef | None] = file_field("documents")
    __mapper_args__ = {"polymorphic_identity": "company"}


class World:
    """One engine, one manager, one store."""

    def __init__(self, engine: Engine | AsyncEngine, *, base: type[DeclarativeBase] = Base) -> None:
        self.any_engine = engine
        self.engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        self.is_async = isinstance(engine, AsyncEngine)
        self.store = MemoryStorageBackend()
        self.backend = FaultyBackend(self.store)
        self.offset = timedelta(0)
        self.manager = StorageManager(
            {"main": self.backend},
            [StoragePolicy("documents", "main", max_size=1000), StoragePolicy("pages", "main")],
            grace=GRACE,
            now=lambda: datetime.now(UTC) + self.offset,
        )
        self.metadata = base.metadata
        self.manager.register(base)

    def run(self, scenario: Callable[[], Any]) -> Any:
        """Run synchronous code; on an asynchronous engine in SQLAlchemy's greenlet, as AsyncSession does."""
        if not self.is_async:
            return scenario()

        async def main() -> Any:
            try:
                return await greenlet_spawn(scenario)
            finally:
                await self.any_engine.dispose()

        return asyncio.run(main())

    def session(self, **options: Any) -> Session:
        return Session(self.engine, **options)

    def stage(self, content: bytes = b"content", name: str = "a.txt") -> StagedFile:
        return self.manager.put_bytes("documents", content=content, original_filename=name)

    def later(self, delay: timedelta) -> None:
        """Let the manager's clock run ahead."""
        self.offset += delay

    def stored(self) -> set[str]:
        return set(self.store.iter_locations())

    def rows(self) -> list[StoredObjectRef]:
        """The refs of all committed rows, as another connection sees them."""
        with self.engine.connect() as connection:
            return [
                ref
                for column in file_columns(self.metadata)
                for value in connection.execute(select(column)).scalars()
                for ref in refs_in(value)
            ]

    def held(self) -> set[str]:
        return {ref.location for ref in self.rows()}

    def tombstones(self) -> list[str]:
        tables = tables_of(self.metadata)
        assert tables is not None
        with self.engine.connect() as connection:
            return sorted(connection.execute(select(tables.tombstone.c.location)).scalars())

    def known_columns(self) -> set[tuple[str, str]]:
        tables = tables_of(self.metadata)
        assert tables is not None
        with self.engine.connect() as connection:
            return {
                tuple(row)
                for row in connection.execute(select(tables.column.c.table_name, tables.column.c.column_name))
            }

    def check_laws(self, *, left_to_reconcile: int = 0) -> None:
        """Every committed ref verifies; what no row holds has a tombstone or a note, or is what was announced."""
        for ref in self.rows():
            self.manager.verify(ref)
        looked_at = set(self.tombstones()) | {ref.location for ref in self.manager.take_notes()}
        forgotten = self.stored() - self.held() - looked_at
        assert len(forgotten) == left_to_reconcile, forgotten


def fix_pysqlite(engine: Engine) -> None:
    """Make SAVEPOINT and BEGIN real on the sqlite3 driver, as SQLAlchemy's documentation tells."""

    @event.listens_for(engine, "connect")
    def on_connect(dbapi_connection: Any, record: Any) -> None:
        dbapi_connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


@contextmanager
def make_world(url: str, *, base: type[DeclarativeBase] = Base, **engine_options: Any) -> Iterator[World]:
    is_async = "asyncpg" in url or "aiosqlite" in url
    engine: Any = (create_async_engine if is_async else create_engine)(url, **engine_options)
    world = World(engine, base=base)
    if "sqlite" in url and engine_options.get("isolation_level") is None:
        fix_pysqlite(world.engine)
    world.run(lambda: base.metadata.create_all(world.engine))
    try:
        yield world
    finally:
        if not is_async:
            engine.dispose()
