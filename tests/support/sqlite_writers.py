"""What several processes do at once to one SQLite file: the transactions of an ordinary application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field, prepare_sqlite

__all__ = ["SET_UPS", "Base", "Paper", "collect_beside", "make_manager", "make_rows", "write", "write_async"]


class Base(DeclarativeBase):
    pass


class Paper(Base):
    __tablename__ = "paper"
    id: Mapped[int] = mapped_column(primary_key=True)
    writer: Mapped[int]
    file: Mapped[StoredObjectRef | None] = file_field("papers")


def as_it_comes(engine: Engine) -> None:
    """The rollback journal."""


def write_ahead(engine: Engine) -> None:
    """What everybody is told first."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")


def prepared(engine: Engine) -> None:
    """What we tell."""
    prepare_sqlite(engine, patience=timedelta(seconds=PATIENCE))


def real_transactions(engine: Engine) -> None:
    """SQLAlchemy's advice for savepoints: every transaction begins with BEGIN, one that only reads at first too."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


SET_UPS: dict[str, Callable[[Engine], None]] = {
    each.__name__: each for each in (as_it_comes, write_ahead, real_transactions, prepared)
}
PATIENCE = 100
"""Seconds that a connection waits for a lock: long, for a busy machine is no failure, and a refusal comes at once."""


def make_engine(folder: Path, set_up: str) -> Engine:
    engine = create_engine(f"sqlite:///{folder}/db.sqlite3", connect_args={"timeout": PATIENCE})
    SET_UPS[set_up](engine)
    return engine


def make_manager(folder: Path) -> StorageManager:
    manager = StorageManager(
        {"main": LocalStorageBackend(folder / "files", durable=False)},
        [StoragePolicy("papers", "main")],
        grace=timedelta(seconds=60),
    )
    manager.register(Base)
    return manager


def make_rows(folder: Path, set_up: str, writers: int) -> None:
    """The tables, and a file for everybody that has been in a row for long."""
    engine = make_engine(folder, set_up)
    Base.metadata.create_all(engine)
    manager = make_manager(folder)
    with Session(engine) as session:
        for writer in range(writers):
            old = manager.put_bytes("papers", content=b"old")
            session.add(Paper(writer=writer, file=old))
        session.commit()
    engine.dispose()


def write(folder: Path, set_up: str, writer: int, rounds: int) -> int:
    """Add, replace, share, clear and delete, each in a transaction of its own. Returns how often all were committed."""
    engine = make_engine(folder, set_up)
    work = _Work(make_manager(folder), writer, nests=set_up == "prepared")
    for _ in range(rounds):
        for step in work.steps:
            with Session(engine, expire_on_commit=False) as session:
                step(session)
                session.commit()
    engine.dispose()
    return rounds


def write_async(folder: Path, set_up: str, writer: int, rounds: int) -> int:
    """The same, through asynchronous sessions."""

    async def main() -> int:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/db.sqlite3", connect_args={"timeout": PATIENCE})
        SET_UPS[set_up](engine.sync_engine)
        work = _Work(make_manager(folder), writer, nests=set_up == "prepared")
        for _ in range(rounds):
            for step in work.steps:
                async with AsyncSession(engine, expire_on_commit=False) as session:
                    await session.run_sync(step)
                    await session.commit()
        await engine.dispose()
        return rounds

    return asyncio.run(main())


class _Work:
    """Transactions that write and, but for Granite, do not read; what they change was read by an earlier one."""

    def __init__(self, manager: StorageManager, writer: int, *, nests: bool) -> None:
        self.manager = manager
        self.writer = writer
        self.mine: Any = None
        self.shared: Any = None
        self.old: Any = None
        self.steps = (self.add, self.read, self.replace, self.share, self.share_by_statement, self.clear, self.delete)
        if nests:
            self.steps += (self.read_and_write_in_a_savepoint,)

    def add(self, session: Session) -> None:
        self.mine = Paper(writer=self.writer, file=self.stage(b"first"))
        session.add(self.mine)

    def read(self, session: Session) -> None:
        if self.old is None:
            self.old = session.scalars(select(Paper).where(Paper.writer == self.writer).order_by(Paper.id)).first()

    def replace(self, session: Session) -> None:
        session.add(self.mine)
        self.mine.file = self.stage(b"second")

    def share(self, session: Session) -> None:
        self.shared = Paper(writer=self.writer, file=self.long_staged())
        session.add(self.shared)

    def share_by_statement(self, session: Session) -> None:
        session.execute(update(Paper).where(Paper.id == self.mine.id).values(file=self.long_staged()))

    def clear(self, session: Session) -> None:
        session.add(self.shared)
        self.shared.file = None

    def delete(self, session: Session) -> None:
        session.add_all([self.mine, self.shared])
        session.delete(self.mine)
        session.delete(self.shared)

    def read_and_write_in_a_savepoint(self, session: Session) -> None:
        with session.begin_nested():
            paper = session.scalars(select(Paper).where(Paper.writer == self.writer).order_by(Paper.id)).one()
            paper.file = self.old.file = self.stage(b"newer")

    def long_staged(self) -> StoredObjectRef:
        """A ref that is good only as long as a row holds it, so it is looked up."""
        return StoredObjectRef.from_dict(self.old.file.to_dict() | {"created_at": "2020-01-01T00:00:00+00:00"})

    def stage(self, content: bytes) -> StoredObjectRef:
        return self.manager.put_bytes("papers", content=content)


def collect_beside(folder: Path, set_up: str, runs: int) -> int:
    """Sweep and reconcile beside the writers. Returns the process's number."""
    engine = make_engine(folder, set_up)
    collector = Collector(
        make_manager(folder), SQLAlchemyLedger([engine], Base.metadata), GCConfig(always_allowed=10**6)
    )
    for _ in range(runs):
        collector.sweep()
        collector.reconcile()
    engine.dispose()
    return os.getpid()
