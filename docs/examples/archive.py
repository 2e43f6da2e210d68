"""An archive of cases: private files, several in a row, uploads by form and as raw bodies, a download handler."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias
from uuid import UUID

from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, Request, delete, get, post, put, route
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware
from litestar.params import FromPath
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import LocalStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import (
    FileDownload,
    FileRoute,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    Upload,
    UploadDTO,
    UploadRoute,
    item_id,
)

MB = 1024 * 1024
AppRequest: TypeAlias = Request[str, Any, Any]


# the part "model" begins
class Case(UUIDAuditBase):
    title: Mapped[str]
    owner: Mapped[str]
    contract: Mapped[StoredObjectRef | None] = file_field("contracts")
    portrait: Mapped[StoredObjectRef | None] = file_field("portraits")
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")
    # the part "model" ends


# the part "policies" begins
manager = StorageManager(
    backends={"main": LocalStorageBackend("var/files")},
    policies=[
        StoragePolicy("contracts", max_size=20 * MB, key_prefix="contracts", content_types=["application/pdf"]),
        StoragePolicy("portraits", max_size=2 * MB, key_prefix="portraits", content_types=["image/*"]),
        StoragePolicy("pages", max_size=50 * MB, key_prefix="pages", disposition="attachment"),
    ],
)
# the part "policies" ends


# the part "form" begins
class NewCase(UploadDTO):
    title: str
    contract: Annotated[StagedFile, Upload(Case.contract)]
    portrait: Annotated[StagedFile | None, Upload(Case.portrait)] = None
    pages: Annotated[list[StagedFile], Upload("pages", max_count=20)] = []


@post("/cases")
async def create(
    data: MultipartBody[NewCase], request: AppRequest, db_session: NamedDependency[AsyncSession]
) -> dict[str, UUID]:
    case = Case(
        title=data.title, owner=request.user, contract=data.contract, portrait=data.portrait, pages=[*data.pages]
    )
    db_session.add(case)
    await db_session.commit()  # keeps the files; without it they go when the request ends
    return {"id": case.id}
    # the part "form" ends


# the part "raw" begins
@put("/cases/{case_id:uuid}/pages")
async def add_page(
    case_id: FromPath[UUID],
    data: Annotated[StagedFile, RawUpload(Case.pages)],
    request: AppRequest,
    db_session: NamedDependency[AsyncSession],
) -> dict[str, str]:
    case = await own_case(db_session, case_id, request.user)
    case.pages.append(data)
    await db_session.commit()
    return {"item": item_id(data)}
    # the part "raw" ends


# the part "list" begins
@get("/cases/{case_id:uuid}/pages")
async def pages(
    case_id: FromPath[UUID], request: AppRequest, db_session: NamedDependency[AsyncSession]
) -> list[dict[str, Any]]:
    case = await own_case(db_session, case_id, request.user)
    return [{"url": f"/cases/{case.id}/pages/{item_id(page)}", "page": page} for page in case.pages]


@delete("/cases/{case_id:uuid}/pages/{item:str}")
async def remove_page(
    case_id: FromPath[UUID],
    item: FromPath[str],
    request: AppRequest,
    db_session: NamedDependency[AsyncSession],
) -> None:
    case = await own_case(db_session, case_id, request.user)
    case.pages = [page for page in case.pages if item_id(page) != item]
    await db_session.commit()
    # the part "list" ends


# the part "handler" begins
@route("/cases/latest/contract", http_method=["GET", "HEAD"])
async def latest(request: AppRequest, db_session: NamedDependency[AsyncSession]) -> FileDownload:
    newest = select(Case).where(Case.owner == request.user).order_by(Case.created_at.desc()).limit(1)
    case = await db_session.scalar(newest)
    if case is None or case.contract is None:
        raise NotFoundException
    return FileDownload(case.contract, disposition="attachment", filename=f"{case.title}.pdf")
    # the part "handler" ends


async def own_case(db_session: AsyncSession, case_id: UUID, user: str) -> Case:
    case = await db_session.get(Case, case_id)
    if case is None or case.owner != user:
        raise NotFoundException
    return case


# the part "access" begins
class Tokens(AbstractAuthenticationMiddleware):
    """Stands for your application's authentication: the bearer token is the user's name."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        scheme, _, name = connection.headers.get("authorization", "").partition(" ")
        return AuthenticationResult(user=name if scheme == "Bearer" else None, auth=None)


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if not connection.user:
        raise NotAuthorizedException


def owner_only(case: Case, connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    return bool(case.owner == connection.user)


routes = GraniteConfig(
    manager=manager,
    downloads=[
        FileRoute("/cases/{id:uuid}/contract", Case.contract, guards=[signed_in], authorize=owner_only, denied=404),
        FileRoute("/cases/{id:uuid}/portrait", Case.portrait, public=True),
        FileRoute("/cases/{id:uuid}/pages/{item:str}", Case.pages, guards=[signed_in], authorize=owner_only),
    ],
    uploads=[UploadRoute("/cases/{id:uuid}/contract", Case.contract, guards=[signed_in], authorize=owner_only)],
)
# the part "access" ends

app = Litestar(
    [create, add_page, pages, remove_page, latest],
    middleware=[DefineMiddleware(Tokens)],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string="sqlite+aiosqlite:///archive.sqlite3",
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(routes),
    ],
)
