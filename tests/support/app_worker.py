"""One worker of an application on PostgreSQL: a server of its own on a port that all workers share."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import uvicorn
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import LocalStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.gc import GCConfig
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, RawUpload

from .many import begin_child

__all__ = ["GRACE", "LEASE", "Base", "Note", "serve"]

GRACE = timedelta(seconds=16)
LEASE = timedelta(seconds=4)


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


class SlowToDelete(LocalStorageBackend):
    """A sweep takes long enough to be caught at it."""

    def delete(self, location: str | StoredObjectRef) -> None:
        import time

        time.sleep(0.02)
        super().delete(location)


def make_app(folder: Path, url: str) -> Litestar:
    engine = create_async_engine(url, connect_args={"server_settings": {"application_name": str(os.getpid())}})
    alchemy = SQLAlchemyAsyncConfig(
        engine_instance=engine, metadata=Base.metadata, session_config=AsyncSessionConfig(expire_on_commit=False)
    )
    manager = StorageManager({"main": SlowToDelete(folder / "files")}, [StoragePolicy("notes", "main")], grace=GRACE)
    every = timedelta(seconds=0.3)
    collecting = GCConfig(sweep_every=every, reconcile_every=10 * every, lease_for=LEASE, batch_size=20)
    downloads = [FileRoute("/notes/{id:uuid}", Note.file, public=True)]
    plugin = GranitePlugin(GraniteConfig(manager, downloads=downloads, gc=collecting))
    return Litestar([pid, keep], plugins=[SQLAlchemyPlugin(alchemy), plugin])


def serve(name: str, life: int, folder: Path, url: str, port: int) -> None:
    """Serve until the end of the process."""
    begin_child(folder, name)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", port))
        uvicorn.Server(uvicorn.Config(make_app(folder, url), log_level="warning")).run(sockets=[listening])
