"""An album that takes pictures from elsewhere, and shows how far they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from litestar import Litestar, get, post
from litestar.exceptions import NotFoundException
from litestar.response import ServerSentEvent
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    AsyncStorageManager,
    Committed,
    FetchRules,
    StagedFile,
    StorageError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    backend_from_url,
    from_data_uri,
    from_url,
    unsaved,
)
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import GraniteConfig, GranitePlugin

MB = 1024 * 1024


class Base(DeclarativeBase):
    pass


class Picture(Base):
    __tablename__ = "picture"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    file: Mapped[StoredObjectRef] = file_field("pictures")


# the part "after" begins
INDEX: list[str | None] = []


def add_to_index(committed: Committed) -> None:
    INDEX.append(committed.ref.original_filename)


# the part "after" ends

# the part "rules" begins
manager = StorageManager(
    {"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
    [StoragePolicy("pictures", max_size=20 * MB, content_types=["image/*"], after_commit=[add_to_index])],
    fetch=FetchRules(
        allow=os.environ.get("INNER_HOSTS", "").split(),  # inside, only what is named here
        ports=[int(port) for port in os.environ.get("PORTS", "80 443").split()],
    ),
)
# the part "rules" ends
manager.register(Base)
files = AsyncStorageManager(manager)
engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///imports.sqlite3"))
sessions = async_sessionmaker(engine, expire_on_commit=False)


# the part "other" begins
async def from_other_places(folder: Path, signature: str) -> list[StagedFile]:
    async def rendered() -> AsyncIterator[bytes]:
        yield b"\x89PNG\r\n\x1a\n"
        yield bytes(1000)

    return [
        await files.put("pictures", folder / "a.png"),
        await files.put("pictures", from_data_uri(signature), original_filename="signature.png"),
        await files.put("pictures", rendered(), original_filename="rendered.png"),
    ]


async def at_flush(url: str) -> Picture:
    async with sessions() as session:
        picture = Picture(file=unsaved(from_url(url)))
        session.add(picture)
        await session.commit()  # fetches and stores it, then writes the row
    return picture


# the part "other" ends


# the part "progress" begins
@dataclass
class Import:
    """One that is under way. It lives in this process: with several, tell of it through Litestar's channels."""

    url: str
    told: asyncio.Queue[tuple[str, str]] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            stored = await files.put_url("pictures", self.url, progress=self.progress)
            async with sessions() as session:
                session.add(Picture(file=stored))
                await session.commit()
        except StorageError as error:
            self.told.put_nowait(("failed", error.public_message))
        else:
            self.told.put_nowait(("stored", stored.original_filename or ""))

    def progress(self, done: int, total: int | None) -> None:
        self.told.put_nowait(("progress", f"{done} {total or '?'}"))

    async def events(self) -> AsyncIterator[dict[str, str]]:
        kind = "progress"
        while kind == "progress":
            kind, data = await self.told.get()
            yield {"event": kind, "data": data}


imports: dict[UUID, Import] = {}


@post("/imports")
async def begin(data: dict[str, str]) -> dict[str, UUID]:
    imports[number := uuid4()] = wanted = Import(data["url"])
    wanted.task = asyncio.create_task(wanted.run())
    return {"id": number}


@get("/imports/{number:uuid}/events")
async def follow(number: UUID) -> ServerSentEvent:
    wanted = imports.pop(number, None)
    if wanted is None:
        raise NotFoundException("There is no such import")
    return ServerSentEvent(wanted.events())


# the part "progress" ends


@asynccontextmanager
async def tables(app: Litestar) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = Litestar(
    [begin, follow],
    lifespan=[tables],
    plugins=[GranitePlugin(GraniteConfig(manager=manager, models=[Base], gc=None))],
)
