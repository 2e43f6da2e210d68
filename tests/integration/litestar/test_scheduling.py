"""The collector in an application's lifespan: it works, survives what goes wrong, and stops."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from sqlalchemy import create_engine, select, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import CollectionRefusedError, MemoryStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.gc import Collector, GCConfig
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, db_now, file_field, tables_of
from granite_core.testing.faults import FaultyBackend
from granite_litestar.scheduling import CollectorRunner

OFTEN = {"sweep_every": timedelta(milliseconds=20), "reconcile_every": timedelta(milliseconds=20)}
SELDOM = {"sweep_every": timedelta(hours=1), "reconcile_every": timedelta(hours=1)}


class Base(DeclarativeBase):
    pass


class Paper(Base):
    __tablename__ = "paper"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("papers")


class App:
    def __init__(self, url: str, sync_url: str) -> None:
        self.plain = create_engine(sync_url)
        Base.metadata.create_all(self.plain)
        self.engine: Any = create_async_engine(url) if url != sync_url else self.plain
        self.backend = FaultyBackend(MemoryStorageBackend())
        self.manager = StorageManager({"main": self.backend}, [StoragePolicy("papers", "main")])

    def runner(self, **config: Any) -> CollectorRunner:
        ledger = SQLAlchemyLedger([self.engine], Base.metadata)
        return CollectorRunner(Collector(self.manager, ledger, GCConfig(**config)))

    def let_time_pass(self) -> None:
        tables = tables_of(Base.metadata)
        assert tables is not None
        with self.plain.begin() as connection:
            connection.execute(update(tables.tombstone).values(written_at=1, retry_at=0))

    def bury(self, location: str) -> None:
        tables = tables_of(Base.metadata)
        assert tables is not None
        self.backend.inner.put_bytes(location, b"x")
        with self.plain.begin() as connection:
            connection.execute(
                tables.tombstone.insert().values(
                    location=location, backend="main", storage_key="papers", written_at=db_now() - 3 * 3600 * 1000
                )
            )

    def tombstones(self) -> set[str]:
        tables = tables_of(Base.metadata)
        assert tables is not None
        with self.plain.begin() as connection:
            return set(connection.scalars(select(tables.tombstone.c.location).where(tables.tombstone.c.run.is_(None))))

    def stored(self) -> set[str]:
        return set(self.backend.inner.iter_locations())


@pytest.fixture(params=["sqlite", "aiosqlite", "asyncpg", "psycopg"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[App]:
    if "sqlite" in request.param:
        sync_url = f"sqlite:///{tmp_path}/db.sqlite3"
        url = sync_url if request.param == "sqlite" else f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"
    else:
        sync_url = request.getfixturevalue("postgres_url")
        url = sync_url if request.param == "psycopg" else request.getfixturevalue("postgres_async_url")
    app = App(url, sync_url)
    yield app
    if app.engine is not app.plain:
        await app.engine.dispose()
    app.plain.dispose()


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_it_collects_by_itself(app: App) -> None:
    app.bury("old")
    app.backend.inner.put_bytes("lost", b"x")
    async with app.runner(**OFTEN) as runner:
        await until(lambda: "old" not in app.stored())
        while "lost" not in await asyncio.to_thread(app.tombstones):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(app.let_time_pass)  # the loop must go on: its transactions are open meanwhile
        await until(lambda: not app.stored())
        assert runner.running
        await until(lambda: runner.last_sweep)
        assert runner.last_error is None
    assert not runner.running


async def test_it_can_be_woken_and_entered_again(app: App) -> None:
    runner = app.runner(**SELDOM)
    runner.wake()
    for number in range(2):
        app.bury(f"old{number}")
        async with runner:
            await asyncio.to_thread(runner.wake)
            await until(lambda: not app.stored())
            app.backend.inner.put_bytes("lost", b"x")
            runner.wake(reconcile=True)
            await until(lambda: runner.last_reconcile and runner.last_reconcile.listed == 1)
            app.backend.inner.delete("lost")
            runner.last_reconcile = None
    runner.wake()


async def test_what_goes_wrong_is_logged_and_tried_again(app: App, caplog: pytest.LogCaptureFixture) -> None:
    app.bury("old")
    failures = iter([CollectionRefusedError("no such luck"), RuntimeError("a bug")])

    async def fail() -> Any:
        for error in failures:
            raise error
        return await Collector.asweep(runner.collector)

    runner = app.runner(**OFTEN)
    runner.collector.asweep = fail  # type: ignore[method-assign,assignment]
    with caplog.at_level(logging.DEBUG, "granite"):
        async with runner:
            await until(lambda: runner.last_sweep)
    messages = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert ("WARNING", "the sweep failed, and is tried again: no such luck") in messages
    assert ("WARNING", "the sweep failed, and is tried again: a bug") in messages
    assert ("INFO", "swept: 1 objects deleted, 0 held, 0 failed") in messages


async def test_a_refusal_is_there_to_be_shown(app: App) -> None:
    app.backend.inner.put_bytes(MARKER_KEY, b'{"database": "production"}')
    async with app.runner(**OFTEN) as runner:
        await until(lambda: isinstance(runner.last_error, CollectionRefusedError))


async def test_leaving_stops_a_run_after_its_current_step(app: App) -> None:
    for number in range(50):
        app.bury(f"o{number}")
    deleting, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        deleting.set()
        go_on.wait(10)

    app.backend.call("delete", wait, at=3)
    runner = app.runner(**SELDOM)
    await runner.__aenter__()
    runner.wake()
    await until(deleting.is_set)
    leaving = asyncio.create_task(runner.__aexit__())
    await asyncio.sleep(0.1)
    assert not leaving.done(), "the delete that is under way is waited for"
    go_on.set()
    await asyncio.wait_for(leaving, 10)
    assert len(app.stored()) == 47
    await asyncio.sleep(0.1)
    assert len(app.stored()) == 47
    assert not [each for each in threading.enumerate() if each.name.startswith("granite-collector")]
    await asyncio.to_thread(app.let_time_pass)  # the loop must go on: its transactions are open meanwhile
    async with app.runner(**OFTEN):
        await until(lambda: not app.stored())


async def test_leaving_does_not_wait_for_the_rate_limit(app: App) -> None:
    for number in range(100):
        app.backend.inner.put_bytes(f"o{number}", b"")
    runner = app.runner(**SELDOM, page_size=10, rate_limit=0.1)
    async with runner:
        runner.wake(reconcile=True)
        await until(lambda: app.backend.calls["list"])
        await asyncio.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 5


async def test_workers_share_one_reconcile(app: App) -> None:
    config = {"sweep_every": timedelta(milliseconds=20), "reconcile_every": timedelta(hours=1)}
    runners = [app.runner(**config) for _ in range(3)]
    for runner in runners:
        await runner.__aenter__()
        runner.wake()
    await until(lambda: all(runner.last_sweep for runner in runners))
    async with asyncio.TaskGroup() as group:
        for runner in runners:
            group.create_task(runner._reconcile(False))
    for runner in runners:
        await runner._reconcile(False)
        await runner.__aexit__()
    assert app.backend.calls["list"] == 1


async def test_it_is_one_of_an_applications_lifespans(app: App) -> None:
    runner = app.runner(**OFTEN)

    app.bury("old")
    async with Litestar(lifespan=[runner]).lifespan():
        await until(lambda: not app.stored())
        assert runner.running
    assert not runner.running
