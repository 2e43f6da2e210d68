"""A drive: so much for each user, so much for each company, and a page that says how much is used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated
from uuid import UUID, uuid4

from litestar import Litestar, Request, delete, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    Announcement,
    AsyncStorageManager,
    Quota,
    QuotaLimit,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
    backend_from_url,
)
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import (
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    ResumableUploads,
    Upload,
    UploadDTO,
)

KB = 1024


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    max_bytes: Mapped[int]


class Item(Base):
    __tablename__ = "item"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner: Mapped[str]
    file: Mapped[StoredObjectRef] = file_field("drive")


engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///quotas.sqlite3"))
sessions = async_sessionmaker(engine, expire_on_commit=False)


def user_of(connection: ASGIConnection) -> str:
    return connection.headers.get("x-user", "nobody")  # your guards know better who it is


# the part "quotas" begins
def user(announced: Announcement) -> str | None:
    if announced.connection is None:
        return None  # a script, not a visitor: not counted
    return f"user:{user_of(announced.connection)}"


def company(announced: Announcement) -> str | None:
    return None if announced.connection is None else "company:acme"


async def what_was_paid_for(scope: str) -> QuotaLimit | None:
    async with sessions() as session:
        account = await session.get(Account, scope.removeprefix("user:"))
    return None if account is None else QuotaLimit(max_bytes=account.max_bytes, max_files=100)


drive = StoragePolicy(
    "drive",
    quotas=[Quota(scope=user, limit=what_was_paid_for), Quota(scope=company, limit=1000 * KB)],
)
# the part "quotas" ends

manager = StorageManager(
    {"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
    [drive],
    grace=timedelta(hours=2),
    urls=UrlSettings(secrets=["a secret of at least thirty-two characters"]),
)


class NewItem(UploadDTO):
    file: Annotated[StagedFile, Upload(Item.file)]


@post("/items")
async def create(data: MultipartBody[NewItem], request: Request) -> dict[str, str]:
    return await kept(data.file, user_of(request))


@post("/raw", status_code=201)
async def create_raw(data: Annotated[StagedFile, RawUpload(Item.file)], request: Request) -> dict[str, str]:
    return await kept(data, user_of(request))


async def kept(file: StagedFile, owner: str) -> dict[str, str]:
    async with sessions() as session:
        item = Item(owner=owner, file=file)
        session.add(item)
        await session.commit()
    return {"id": str(item.id)}


@delete("/items/{item_id:uuid}")
async def remove(item_id: FromPath[UUID]) -> None:
    async with sessions() as session:
        await session.delete((await session.scalars(select(Item).where(Item.id == item_id))).one())
        await session.commit()


# the part "usage" begins
@get("/usage")
async def usage(request: Request, files: NamedDependency[AsyncStorageManager]) -> dict[str, int]:
    found = await files.quotas.usage(f"user:{user_of(request)}")
    return {"bytes": found.bytes, "files": found.files}


# the part "usage" ends


@asynccontextmanager
async def database(app: Litestar) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session:
        session.add_all([Account(name="ann", max_bytes=100 * KB), Account(name="ben", max_bytes=5000 * KB)])
        await session.commit()
    yield
    await engine.dispose()


config = GraniteConfig(
    manager=manager,
    engines=[engine],
    models=[Base],
    uploads=[ResumableUploads("/uploads", storage_key="drive", public=True, subject=user_of)],
)
app = Litestar([create, create_raw, remove, usage], lifespan=[database], plugins=[GranitePlugin(config)])
