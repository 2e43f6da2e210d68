from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import reports
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
from litestar import Litestar
from litestar.testing import AsyncTestClient
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine

from granite_core import StorageManager
from granite_core.testing import MemoryStorage

# the part "plugin" begins
pytest_plugins = ["granite_core.testing.plugin"]


@pytest.fixture(scope="session")
def granite_manager() -> StorageManager:
    reports.manager.register(reports.Report)  # as the plugin does, for tests without an application
    return reports.manager
    # the part "plugin" ends


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# the part "session" begins
@pytest.fixture
async def connection() -> AsyncIterator[AsyncConnection]:
    """A transaction that is rolled back when the test ends."""
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:  # SQLite's driver alone would begin too late for savepoints
        connection.exec_driver_sql("BEGIN")

    async with engine.connect() as connection:
        transaction = await connection.begin()
        await connection.run_sync(reports.Report.metadata.create_all)
        yield connection
        await transaction.rollback()
    await engine.dispose()


@pytest.fixture
def sessions(connection: AsyncConnection) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
    # the part "session" ends


@pytest.fixture
async def session(sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


# the part "client" begins
@pytest.fixture
async def client(
    connection: AsyncConnection, sessions: async_sessionmaker[AsyncSession], granite_storage: MemoryStorage
) -> AsyncIterator[AsyncTestClient[Litestar]]:
    database = SQLAlchemyAsyncConfig(engine_instance=connection.engine, session_maker=sessions)
    async with AsyncTestClient(reports.create_app(database)) as client:
        yield client
        # the part "client" ends
