"""Reports with a file each: the application that the tests beside it test."""

from __future__ import annotations

from typing import Annotated

from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, delete, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import LocalStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO


class Report(BigIntBase):
    title: Mapped[str]
    file: Mapped[StoredObjectRef] = file_field("reports")


manager = StorageManager(
    backends={"main": LocalStorageBackend("var/files")},
    policies=[StoragePolicy("reports", max_size=1_000_000, content_types=["application/pdf"])],
)


class NewReport(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Report.file)]


@post("/reports")
async def create(data: MultipartBody[NewReport], db_session: NamedDependency[AsyncSession]) -> int:
    report = Report(title=data.title, file=data.file)
    db_session.add(report)
    await db_session.commit()
    return report.id


@delete("/reports/{report_id:int}")
async def remove(report_id: FromPath[int], db_session: NamedDependency[AsyncSession]) -> None:
    await db_session.delete(await db_session.get_one(Report, report_id))
    await db_session.commit()


def create_app(database: SQLAlchemyAsyncConfig) -> Litestar:
    downloads = [FileRoute("/reports/{id:int}/file", Report.file, public=True)]
    granite = GranitePlugin(GraniteConfig(manager=manager, downloads=downloads))
    return Litestar([create, remove], plugins=[SQLAlchemyPlugin(database), granite])


def production() -> Litestar:
    sessions = AsyncSessionConfig(expire_on_commit=False)
    return create_app(SQLAlchemyAsyncConfig(connection_string="postgresql+asyncpg:///reports", session_config=sessions))
