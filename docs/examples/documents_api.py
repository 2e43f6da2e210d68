"""An API for documents: sent by a form, their file replaced by a raw body, and given back in whole or in part."""

from __future__ import annotations

import os
import secrets
from typing import Annotated, Any
from uuid import UUID

import msgspec
from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import StagedFile, StorageManager, StoragePolicy, StoredObjectRef, UrlSettings, backend_from_url
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import (
    FileRoute,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    StagedUploads,
    TokenConfig,
    Upload,
    UploadDTO,
    UploadRoute,
    item_id,
)

MB = 1024 * 1024
TOKEN = os.environ.get("API_TOKEN", secrets.token_urlsafe())


class Document(UUIDAuditBase):
    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")


class NewDocument(UploadDTO):
    """A document as it is sent."""

    title: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    file: Annotated[StagedFile | None, Upload(Document.file, description="The document itself", tokens=True)] = None
    pages: Annotated[list[StagedFile], Upload(Document.pages, max_count=10, description="Its pages as pictures")] = []


class DocumentView(msgspec.Struct):
    """A document as it is shown."""

    id: UUID
    title: str
    file: StoredObjectRef | None  # shown as name, size, type and checksum
    page_ids: list[str]


def with_token(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Let in who knows the token."""
    given = connection.headers.get("authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {TOKEN}".encode()):
        raise NotAuthorizedException


# What a guard asks for cannot be read from it: this says it in the API's description.
guarded: Any = {"guards": [with_token], "raises": [NotAuthorizedException], "security": [{"token": []}]}


@post("/documents", operation_id="createDocument", **guarded)
async def create(data: MultipartBody[NewDocument], db_session: NamedDependency[AsyncSession]) -> DocumentView:
    document = Document(title=data.title, file=data.file, pages=data.pages)
    db_session.add(document)
    await db_session.commit()
    return DocumentView(document.id, document.title, document.file, [item_id(page) for page in document.pages])


app = Litestar(
    [create],
    openapi_config=OpenAPIConfig(
        title="Documents",
        version="1.0.0",
        components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
    ),
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string=os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///documents.sqlite3"),
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(
            GraniteConfig(
                manager=StorageManager(
                    backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
                    policies=[
                        StoragePolicy(
                            "documents", "main", max_size=5 * MB, content_types=["application/pdf", "text/*"]
                        ),
                        StoragePolicy("pages", "main", max_size=2 * MB, content_types=["image/*"]),
                    ],
                    urls=UrlSettings(secrets=[os.environ.get("SECRET", secrets.token_urlsafe(32))]),
                ),
                downloads=[
                    FileRoute("/documents/{id:uuid}/file", Document.file, **guarded),
                    FileRoute("/documents/{id:uuid}/pages/{item:str}", Document.pages, **guarded),
                ],
                uploads=[
                    UploadRoute("/documents/{id:uuid}/file", Document.file, **guarded),
                    StagedUploads("/staged", Document.file, **guarded),
                ],
                tokens=TokenConfig(subject=None),  # there is one client, which knows the API's token
            )
        ),
    ],
)
