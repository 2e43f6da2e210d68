"""An application with resumable uploads, to be run as a process: `python -m tests.support.resumable_app PORT`.

`DATABASE_URL`, `STORAGE_URL` and `GRACE` (seconds) say where everything is. A bearer token names the user.
"""

from __future__ import annotations

import os
import sys
import uuid
from datetime import timedelta
from typing import Any

from litestar import Litestar, Request, get, post
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
    backend_from_url,
)
from granite_core.integrations.sqlalchemy import file_field, prepare_sqlite
from granite_core.uploads import UploadSettings
from granite_litestar import GraniteConfig, GranitePlugin, ResumableUploads, finished_upload

LIMIT = 2 * 1024**3
ORIGIN = "https://pages.example"


class Base(DeclarativeBase):
    pass


class Video(Base):
    __tablename__ = "video"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    owner: Mapped[str]
    file: Mapped[StoredObjectRef] = file_field("videos")


def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    return connection.headers.get("authorization", "").removeprefix("Bearer ")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
    if not user_of(connection):
        raise NotAuthorizedException("who are you?")


def nothing_goes(connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
    if connection.scope["method"] == "DELETE":
        raise PermissionDeniedException("uploads stay")


def make_app(
    database: str,
    storage: str,
    *,
    grace: float = 7200,
    origin: str = ORIGIN,
    cors: CORSConfig | None = None,
    **settings: float,
) -> Litestar:
    engine = create_async_engine(database)
    if database.startswith("sqlite"):
        prepare_sqlite(engine.sync_engine)
    times = UploadSettings(**{name: timedelta(seconds=value) for name, value in settings.items()})
    manager = StorageManager(
        {"main": MemoryStorageBackend() if storage == "memory:" else backend_from_url(storage)},
        [
            StoragePolicy("videos", max_size=LIMIT),
            StoragePolicy("pictures", max_size=100_000, content_types=["image/png"]),
        ],
        grace=timedelta(seconds=grace),
        urls=UrlSettings(secrets=["a secret that is as long as it has to be"]),
    )

    async def make_tables() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    @post("/videos")
    async def attach(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Attach what a token stands for."""
        said, user = await request.json(), user_of(request)
        file = await finished_upload(request, said["token"], Video.file, subject=user)
        async with AsyncSession(engine, expire_on_commit=False) as db_session:
            video = Video(owner=user, file=file)
            db_session.add(video)
            await db_session.commit()
        return {"size": file.size, "checksum": file.checksum, "type": file.content_type, "name": file.original_filename}

    @get("/pid")
    async def pid() -> int:
        return os.getpid()

    plugin = GranitePlugin(
        GraniteConfig(
            manager=manager,
            engines=[engine],
            models=[Base],
            gc=None,
            uploads=[
                ResumableUploads(
                    "/uploads",
                    storage_key="videos",
                    guards=[signed_in],
                    subject=user_of,
                    allow_origins=[origin],
                    settings=times,
                ),
                ResumableUploads("/pictures", storage_key="pictures", public=True, settings=times),
                ResumableUploads("/kept", storage_key="pictures", guards=[nothing_goes], settings=times),
            ],
        )
    )
    return Litestar([attach, pid], plugins=[plugin], on_startup=[make_tables], cors_config=cors)


def serve(port: int) -> None:
    import uvicorn

    settings = {name[7:].lower(): float(value) for name, value in os.environ.items() if name.startswith("UPLOAD_")}
    grace = float(os.environ.get("GRACE", "7200"))
    app = make_app(os.environ["DATABASE_URL"], os.environ["STORAGE_URL"], grace=grace, **settings)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
