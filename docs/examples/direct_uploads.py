"""Films that go to the store itself, past the application, and are put into a row when they have been looked at."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, Request, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import StorageManager, StoragePolicy, StoredObjectRef, UrlSettings, backend_from_url
from granite_core.integrations.sqlalchemy import file_field
from granite_core.uploads import DirectSettings, UploadSettings
from granite_litestar import DirectUploads, GraniteConfig, GranitePlugin, finished_upload

MB = 1024**2
GB = 1024**3


class Film(UUIDAuditBase):
    title: Mapped[str]
    file: Mapped[StoredObjectRef] = file_field("films")


class NewFilm(msgspec.Struct):
    title: str
    upload: str  # the token that completing the upload gave


def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """To whom an upload belongs. Here: to whoever the proxy in front says it is."""
    return connection.headers.get("x-user", "")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
    if not user_of(connection):
        raise NotAuthorizedException


# the part "attach" begins
@post("/films")
async def create(
    data: NewFilm, request: Request[Any, Any, Any], db_session: NamedDependency[AsyncSession]
) -> dict[str, UUID]:
    file = await finished_upload(request, data.upload, Film.file, subject=user_of(request))
    film = Film(title=data.title, file=file)
    db_session.add(film)
    await db_session.commit()  # the row has the file now; the token is good no more
    return {"id": film.id}


# the part "attach" ends

manager = StorageManager(
    backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
    policies=[StoragePolicy("films", max_size=50 * GB, content_types=["video/*"])],
    urls=UrlSettings(secrets=[os.environ.get("SECRET", "change me: at least 32 random characters")]),
)

# the part "routes" begins
uploads = DirectUploads(
    "/direct",
    storage_key="films",
    guards=[signed_in],
    subject=user_of,
    settings=UploadSettings(expires_in=timedelta(days=2)),
    direct=DirectSettings(parts_above=64 * MB, part_size=16 * MB),
)
# the part "routes" ends

app = Litestar(
    [create],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string=os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///films.sqlite3"),
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(GraniteConfig(manager=manager, uploads=[uploads])),
    ],
)
