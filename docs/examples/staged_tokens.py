"""A form that is shown again with the file it was sent, and a page that uploads first and submits later."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, Request, get, post
from litestar.connection import ASGIConnection
from litestar.contrib.jinja import JinjaTemplateEngine
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.response import Template
from litestar.template import TemplateConfig
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import StagedFile, StorageManager, StoragePolicy, StoredObjectRef, UrlSettings, backend_from_url
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import (
    FieldError,
    FormValidationError,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RequestTokens,
    StagedUploads,
    TokenConfig,
    TokenRules,
    Upload,
    UploadDTO,
)

MB = 1024 * 1024


class Candidate(UUIDAuditBase):
    name: Mapped[str]
    letter: Mapped[StoredObjectRef | None] = file_field("letters")
    works: Mapped[list[StoredObjectRef]] = files_field("works")


# the part "form" begins
class NewCandidate(UploadDTO):
    __keep_files__ = True  # a refusal tells the tokens of the files that came

    name: Annotated[str, msgspec.Meta(min_length=3)]
    letter: Annotated[StagedFile, Upload(Candidate.letter, tokens=True)]
    works: Annotated[list[StagedFile], Upload(Candidate.works, tokens=TokenRules(Candidate.works))] = []


@post("/candidates")
async def create(
    data: MultipartBody[NewCandidate],
    db_session: NamedDependency[AsyncSession],
    file_tokens: NamedDependency[RequestTokens],
) -> dict[str, UUID]:
    if await db_session.scalar(select(Candidate.id).where(Candidate.name == data.name)):
        # What only the handler finds wrong keeps the files as well.
        raise await file_tokens.refusal([FieldError("name", "taken", "there is one of this name already")])
    candidate = Candidate(name=data.name, letter=data.letter, works=[*data.works])
    db_session.add(candidate)
    await db_session.commit()  # the row has the files now; their tokens are good no more
    return {"id": candidate.id}
    # the part "form" ends


# the part "again" begins
@get("/")
async def show() -> Template:
    return Template("staged_tokens.html", context={"errors": {}, "texts": {}, "staged": {}})


def show_again(_: Request[Any, Any, Any], error: FormValidationError) -> Template:
    context = {
        "errors": {each.field: each.message for each in error.errors},
        "texts": dict(error.texts),
        "staged": error.staged,
    }
    return Template("staged_tokens.html", context=context, status_code=422)


@post("/page", exception_handlers={FormValidationError: show_again}, media_type="text/plain")
async def create_from_page(data: MultipartBody[NewCandidate], db_session: NamedDependency[AsyncSession]) -> str:
    db_session.add(Candidate(name=data.name, letter=data.letter, works=[*data.works]))
    await db_session.commit()
    return f"Thank you, {data.name}"
    # the part "again" ends


# the part "routes" begins
def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    """Stands for your application's authentication: whoever the proxy in front says it is."""
    return connection.headers.get("x-user")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
    if user_of(connection) is None:
        raise NotAuthorizedException


granite = GranitePlugin(
    GraniteConfig(
        manager=StorageManager(
            backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
            policies=[
                StoragePolicy("letters", max_size=5 * MB, content_types=["application/pdf"]),
                StoragePolicy("works", max_size=20 * MB),
            ],
            urls=UrlSettings(secrets=[os.environ.get("SECRET", "change me: at least 32 random characters")]),
        ),
        tokens=TokenConfig(subject=user_of, expires_in=timedelta(hours=12)),
        uploads=[
            StagedUploads("/staged/letters", Candidate.letter, guards=[signed_in]),
            StagedUploads("/staged/works", Candidate.works, purpose=Candidate.works, guards=[signed_in]),
        ],
    )
)
# the part "routes" ends

app = Litestar(
    [show, create, create_from_page],
    template_config=TemplateConfig(directory=Path(__file__).parent, engine=JinjaTemplateEngine),
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string=os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///candidates.sqlite3"),
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        granite,
    ],
)
