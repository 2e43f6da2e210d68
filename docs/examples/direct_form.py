"""A film sent by a plain form to the store itself: pages without a line of script."""

from __future__ import annotations

import os
from html import escape
from typing import Any

from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, MediaType, Request, get
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.params import FromQuery
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import StorageManager, StoragePolicy, StoredObjectRef, UrlSettings, backend_from_url
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import (
    DirectUploads,
    GraniteConfig,
    GranitePlugin,
    begin_direct_form,
    complete_direct_upload,
)

SITE = os.environ.get("SITE", "http://127.0.0.1:8000")


class Clip(UUIDAuditBase):
    file: Mapped[StoredObjectRef] = file_field("clips")


def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """To whom an upload belongs. Here: to whoever the proxy in front says it is."""
    return connection.headers.get("x-user", "")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
    if not user_of(connection):
        raise NotAuthorizedException


# the part "pages" begins
@get("/clips/new", media_type=MediaType.HTML, guards=[signed_in])
async def show_form(request: Request[Any, Any, Any]) -> str:
    told = await begin_direct_form(request, "/direct", filename="clip.mp4", content_type="video/mp4")
    assert told.request is not None
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(text)}">'
        for name, text in told.request.fields.items()
    )
    return (
        f'<form action="{escape(told.request.url)}" method="post" enctype="multipart/form-data">'
        f'{hidden}<input type="file" name="file" accept="video/mp4"><button>Send</button></form>'
    )


@get("/clips/sent", media_type=MediaType.HTML, guards=[signed_in])
async def take(
    upload: FromQuery[str], request: Request[Any, Any, Any], db_session: NamedDependency[AsyncSession]
) -> str:
    file = await complete_direct_upload(request, "/direct", upload)
    db_session.add(Clip(file=file))
    await db_session.commit()
    return f"<p>{file.size} bytes came. Thank you.</p>"


# the part "pages" ends

manager = StorageManager(
    backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
    policies=[StoragePolicy("clips", max_size=500 * 1024**2, content_types=["video/mp4"])],
    urls=UrlSettings(secrets=[os.environ.get("SECRET", "change me: at least 32 random characters")]),
)
uploads = DirectUploads(
    "/direct", storage_key="clips", guards=[signed_in], subject=user_of, form_redirect=f"{SITE}/clips/sent"
)

app = Litestar(
    [show_form, take],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string=os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///clips.sqlite3"),
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(GraniteConfig(manager=manager, uploads=[uploads])),
    ],
)
