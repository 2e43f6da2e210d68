"""Many uploads at once, by asynchronous code on a synchronous engine: few threads, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core.backends.base import Capability
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger
from granite_core.integrations.sqlalchemy import uploads as module
from granite_core.uploads import AsyncUploads, Uploads, UploadStatus
from tests.integration.sqlalchemy.world import Base

MANY = 64
CONTENT = b"%PDF-1.7\n" + bytes(300_000)


class Slow(MemoryStorageBackend):
    """A store that takes its time, in pieces."""

    capabilities = frozenset({Capability.ATOMIC_CREATE})
    max_workers = 4

    def stat(self, location: str) -> Any:
        threading.Event().wait(0.01)
        return super().stat(location)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("greenlet", [True, False])
async def test_many_uploads_at_once_take_few_threads(
    engine: Engine, greenlet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_has_greenlet", lambda: greenlet)
    manager = StorageManager({"main": Slow()}, [StoragePolicy("files")])
    ledger = SQLAlchemyUploadLedger(engine, Base.metadata)
    uploads = AsyncUploads(Uploads(manager, ledger))
    before, most, beats = threading.active_count(), 0, 0

    async def one() -> None:
        session = await uploads.create("files", kind="test", length=len(CONTENT))
        async with await uploads.receive(session.id, offset=0) as reception:
            await reception.write(CONTENT)
            finished = await reception.finish()
        assert finished is not None
        assert finished.status is UploadStatus.FINISHED

    async def watch() -> None:
        nonlocal most, beats
        while True:
            most, beats = max(most, threading.active_count()), beats + 1
            await asyncio.sleep(0.001)

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(*(one() for _ in range(MANY)))
    watching.cancel()
    ledger.close()
    assert most - before <= 8 + 4 + 1
    assert beats > 20
