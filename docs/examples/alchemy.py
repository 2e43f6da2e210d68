"""Letters and their archive: services and data transfer objects of advanced-alchemy, on two databases."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from advanced_alchemy.base import BigIntAuditBase, UUIDAuditBase
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyDTO,
    SQLAlchemyDTOConfig,
    SQLAlchemyPlugin,
)
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from litestar import Litestar, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.dto import DTOData
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import (
    AsyncStorageManager,
    LocalStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    unsaved,
)
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, RawUpload, Upload, UploadDTO


# the part "models" begins
class Letter(UUIDAuditBase):
    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("letters")
    pages: Mapped[list[StoredObjectRef]] = files_field("letters")


class ArchivedLetter(BigIntAuditBase):
    __bind_key__ = "archive"  # another database

    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("letters")
    # the part "models" ends


# the part "services" begins
class LetterService(SQLAlchemyAsyncRepositoryService[Letter]):
    class Repository(SQLAlchemyAsyncRepository[Letter]):
        model_type = Letter

    repository_type = Repository


class NewLetter(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Letter.file)]


@post("/letters")
async def create(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> UUID:
    letter = await LetterService(db_session).create({"title": data.title, "file": data.file}, auto_commit=True)
    return letter.id


@put("/letters/{letter_id:uuid}/file")
async def replace(
    letter_id: FromPath[UUID],
    data: Annotated[StagedFile, RawUpload(Letter.file)],
    db_session: NamedDependency[AsyncSession],
) -> StagedFile:
    await LetterService(db_session).update({"file": data}, item_id=letter_id, auto_commit=True)
    return data


@put("/letters")
async def import_many(db_session: NamedDependency[AsyncSession]) -> int:
    rows = [{"title": f"Letter {number}", "file": unsaved(b"Dear all", filename="letter.txt")} for number in range(3)]
    return len(await LetterService(db_session).create_many(rows, auto_commit=True))


@delete("/letters/{letter_id:uuid}")
async def remove(letter_id: FromPath[UUID], db_session: NamedDependency[AsyncSession]) -> None:
    await LetterService(db_session).delete(letter_id, auto_commit=True)
    # the part "services" ends


# the part "dto" begins
LetterDTO = SQLAlchemyDTO[Letter]
LetterPatch = SQLAlchemyDTO[Annotated[Letter, SQLAlchemyDTOConfig(partial=True)]]


@get("/letters", return_dto=LetterDTO)
async def list_letters(db_session: NamedDependency[AsyncSession]) -> list[Letter]:
    return list(await LetterService(db_session).get_many())


@patch("/letters/{letter_id:uuid}", dto=LetterPatch, return_dto=LetterDTO)
async def change(
    letter_id: FromPath[UUID], data: JSONBody[DTOData[Letter]], db_session: NamedDependency[AsyncSession]
) -> Letter:
    return await LetterService(db_session).update(data.create_instance(), item_id=letter_id, auto_commit=True)
    # the part "dto" ends


# the part "schema" begins
class LetterView(msgspec.Struct):
    title: str
    file: StoredObjectRef | None


@get("/letters/{letter_id:uuid}")
async def show(letter_id: FromPath[UUID], db_session: NamedDependency[AsyncSession]) -> LetterView:
    service = LetterService(db_session)
    return service.to_schema(await service.get(letter_id), schema_type=LetterView)
    # the part "schema" ends


# the part "archive" begins
@post("/letters/{letter_id:uuid}/archive")
async def archive(
    letter_id: FromPath[UUID],
    db_session: NamedDependency[AsyncSession],
    archive_session: NamedDependency[AsyncSession],
    files: NamedDependency[AsyncStorageManager],
) -> int:
    letter = await LetterService(db_session).get(letter_id)
    copied = await files.copy(letter.file) if letter.file else None  # a ref of another database is taken while fresh
    archived = ArchivedLetter(title=letter.title, file=copied)
    archive_session.add(archived)
    await archive_session.commit()
    return archived.id
    # the part "archive" ends


# the part "databases" begins
manager = StorageManager({"main": LocalStorageBackend("var/files")}, [StoragePolicy("letters", "main")])
keep = AsyncSessionConfig(expire_on_commit=False)
alchemy = [
    SQLAlchemyAsyncConfig(
        connection_string="sqlite+aiosqlite:///letters.sqlite3", session_config=keep, create_all=True
    ),
    SQLAlchemyAsyncConfig(
        connection_string="sqlite+aiosqlite:///archive.sqlite3",
        bind_key="archive",
        session_dependency_key="archive_session",
        engine_dependency_key="archive_engine",
        session_config=keep,
        create_all=True,
    ),
]
downloads = [
    FileRoute("/letters/{id:uuid}/file", Letter.file, public=True),
    FileRoute("/archive/{id:int}/file", ArchivedLetter.file, public=True),
]
app = Litestar(
    [create, replace, import_many, remove, list_letters, change, show, archive],
    plugins=[SQLAlchemyPlugin(alchemy), GranitePlugin(GraniteConfig(manager, downloads=downloads))],
)
# the part "databases" ends
