"""An application for several workers on one SQLite file and one folder; its folder comes from the environment.

Run as a module, it creates the tables: workers that start together would do so at the same time.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import LocalStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.gc import GCConfig
from granite_core.integrations.sqlalchemy import file_field, prepare_sqlite
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, RawUpload

FOLDER = Path(os.environ["GRANITE_WORKER_APP"])


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("notes")


@get("/pid")
async def pid() -> int:
    return os.getpid()


@put("/notes/{id:uuid}")
async def keep(
    id: FromPath[UUID],  # noqa: A002
    data: Annotated[StagedFile, RawUpload(Note.file)],
    db_session: NamedDependency[AsyncSession],
) -> None:
    await db_session.merge(Note(id=id, file=data))
    await db_session.commit()


engine = prepare_sqlite(create_async_engine(f"sqlite+aiosqlite:///{FOLDER}/notes.sqlite3"))

app = Litestar(
    [pid, keep],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                engine_instance=engine,
                metadata=Base.metadata,
                session_config=AsyncSessionConfig(expire_on_commit=False),
            )
        ),
        GranitePlugin(
            GraniteConfig(
                StorageManager(
                    {"main": LocalStorageBackend(FOLDER / "files")},
                    [StoragePolicy("notes", "main")],
                    grace=timedelta(seconds=16),  # a quarter is what a busy machine has for a commit
                ),
                downloads=[FileRoute("/notes/{id:uuid}", Note.file, public=True)],
                gc=GCConfig(sweep_every=timedelta(seconds=0.5), reconcile_every=timedelta(seconds=5)),
            )
        ),
    ],
)


async def create_tables() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create_tables())
