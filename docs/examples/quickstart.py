"""Documents with a file each: sent by a form, kept with the row, given back by a guarded route."""

from __future__ import annotations

import os
from typing import Annotated, Any
from uuid import UUID

from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, post
from litestar.di import NamedDependency
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import StagedFile, StorageManager, StoragePolicy, StoredObjectRef, backend_from_url
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO

MB = 1024 * 1024


class Document(UUIDAuditBase):
    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("documents")


class NewDocument(UploadDTO):  # a multipart form: fields validated, the file stored while it arrives
    title: str
    file: Annotated[StagedFile, Upload(Document.file)]


@post("/documents")
async def create(data: MultipartBody[NewDocument], db_session: NamedDependency[AsyncSession]) -> dict[str, UUID]:
    document = Document(title=data.title, file=data.file)
    db_session.add(document)
    await db_session.commit()  # keeps the file; without it the file goes
    return {"id": document.id}


def everyone(document: Document, connection: Any) -> bool:
    """Who may read it. Here: everyone who knows the id."""
    return True


manager = StorageManager(
    backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
    policies=[StoragePolicy("documents", "main", max_size=50 * MB, content_types=["application/pdf", "image/*"])],
)

app = Litestar(
    [create],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string=os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///quickstart.sqlite3"),
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(
            GraniteConfig(
                manager=manager,
                downloads=[FileRoute("/documents/{id:uuid}/file", Document.file, authorize=everyone)],
            )
        ),
    ],
)
