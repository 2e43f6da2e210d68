"""Reports with a file each: sent by a form, served, replaced, deleted, and collected while you watch."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from advanced_alchemy.base import BigIntAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import LocalStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.gc import GCConfig
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO, UploadRoute


# --- model
class Report(BigIntAuditBase):
    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("reports")


# --- store
manager = StorageManager(
    backends={"main": LocalStorageBackend("var/files")},
    policies=[StoragePolicy("reports", "main", max_size=5_000_000, content_types=["text/plain", "application/pdf"])],
    grace=timedelta(seconds=24),  # two hours if you say nothing; short here, so that you can watch
)


# --- form
class NewReport(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Report.file)]


# --- handlers
@post("/reports")
async def create(data: MultipartBody[NewReport], db_session: NamedDependency[AsyncSession]) -> dict[str, int]:
    report = Report(title=data.title, file=data.file)
    db_session.add(report)
    await db_session.commit()
    return {"id": report.id}


@get("/reports")
async def index(db_session: NamedDependency[AsyncSession]) -> list[dict[str, Any]]:
    return [
        {"id": each.id, "title": each.title, "file": each.file} for each in await db_session.scalars(select(Report))
    ]


@delete("/reports/{report_id:int}")
async def remove(report_id: FromPath[int], db_session: NamedDependency[AsyncSession]) -> None:
    report = await db_session.get_one(Report, report_id)
    await db_session.delete(report)
    await db_session.commit()


# --- app
def may_have(report: Report, connection: Any) -> bool:
    """Who may read and replace a report. A real application asks `connection.user`."""
    return True


app = Litestar(
    [create, index, remove],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string="sqlite+aiosqlite:///reports.sqlite3",
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(
            GraniteConfig(
                manager=manager,
                downloads=[FileRoute("/reports/{id:int}/file", Report.file, authorize=may_have)],
                uploads=[UploadRoute("/reports/{id:int}/file", Report.file, authorize=may_have)],
                gc=GCConfig(sweep_every=timedelta(seconds=3)),
            )
        ),
    ],
)
