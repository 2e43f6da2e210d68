"""advanced-alchemy's data transfer objects: clients read what a file is, and write no ref, however they are set up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from advanced_alchemy.base import UUIDBase
from advanced_alchemy.extensions.litestar import SQLAlchemyDTO, SQLAlchemyDTOConfig
from litestar import get, patch, post
from litestar.di import NamedDependency
from litestar.dto import DTOData, dto_field
from litestar.params import FromPath, JSONBody
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, relationship

from granite_core import StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import FileRoute
from tests.integration.litestar.alchemy_support import BIND, Alchemy, Report, service_of

SHOWN = {"filename", "size", "content_type", "checksum", "id"}


class Album(UUIDBase):
    __bind_key__ = BIND
    __tablename__ = "album"
    title: Mapped[str]
    cover: Mapped[StoredObjectRef | None] = file_field("reports")
    secret: Mapped[StoredObjectRef | None] = file_field("reports", info=dto_field("private"))
    photos: Mapped[list[Photo]] = relationship(lazy="selectin", cascade="all, delete-orphan")


class Photo(UUIDBase):
    __bind_key__ = BIND
    __tablename__ = "photo"
    album_id: Mapped[UUID | None] = mapped_column(ForeignKey("album.id"))
    image: Mapped[StoredObjectRef | None] = file_field("reports")
    sizes: Mapped[list[StoredObjectRef]] = files_field("reports")


class ReportView(msgspec.Struct):
    """How a service's `to_schema` shows a row."""

    title: str
    file: StoredObjectRef | None
    pages: list[StoredObjectRef]


AlbumDTO = SQLAlchemyDTO[Annotated[Album, SQLAlchemyDTOConfig(max_nested_depth=2)]]
PatchDTO = SQLAlchemyDTO[Annotated[Report, SQLAlchemyDTOConfig(partial=True)]]
InterpretedDTO = SQLAlchemyDTO[Annotated[Report, SQLAlchemyDTOConfig(experimental_codegen_backend=False)]]


@post("/reports", dto=SQLAlchemyDTO[Report])
async def create(data: JSONBody[Report], db_session: NamedDependency[AsyncSession]) -> Report:
    return await service_of(Report, db_session).create(data, auto_commit=True)  # type: ignore[no-any-return]


@patch("/reports/{report_id:uuid}", dto=PatchDTO, return_dto=SQLAlchemyDTO[Report])
async def change(
    report_id: FromPath[UUID], data: JSONBody[DTOData[Report]], db_session: NamedDependency[AsyncSession]
) -> Report:
    return await service_of(Report, db_session).update(data.create_instance(), item_id=report_id, auto_commit=True)  # type: ignore[no-any-return]


@get("/reports/{report_id:uuid}", return_dto=SQLAlchemyDTO[Report])
async def read(report_id: FromPath[UUID], db_session: NamedDependency[AsyncSession]) -> Report:
    return await service_of(Report, db_session).get(report_id)  # type: ignore[no-any-return]


@get("/interpreted", return_dto=InterpretedDTO)
async def read_all(db_session: NamedDependency[AsyncSession]) -> list[Report]:
    return list(await service_of(Report, db_session).get_many())


@get("/views/{report_id:uuid}")
async def view(report_id: FromPath[UUID], db_session: NamedDependency[AsyncSession]) -> ReportView:
    service = service_of(Report, db_session)
    return service.to_schema(await service.get(report_id), schema_type=ReportView)  # type: ignore[no-any-return]


@post("/albums", dto=AlbumDTO)
async def create_album(data: JSONBody[Album], db_session: NamedDependency[AsyncSession]) -> Album:
    return await service_of(Album, db_session).create(data, auto_commit=True)  # type: ignore[no-any-return]


@get("/albums", return_dto=AlbumDTO)
async def read_albums(db_session: NamedDependency[AsyncSession]) -> list[Album]:
    return list(await service_of(Album, db_session).get_many())


@pytest.fixture
def alchemy(tmp_path: Path) -> Iterator[Alchemy]:
    handlers = [create, change, read, read_all, view, create_album, read_albums]
    downloads = [FileRoute("/reports/{id:uuid}/pages/{item:str}", Report.pages, public=True)]
    with Alchemy(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3").running(*handlers, downloads=downloads) as alchemy:
        yield alchemy


def given(alchemy: Alchemy) -> Any:
    async def program(service: Any) -> Any:
        data = {"title": "given", "file": alchemy.stage(b"file"), "pages": [alchemy.stage(b"page")]}
        return await service.create(data, auto_commit=True)

    return alchemy.run(program)


def check_shows_no_key(alchemy: Alchemy, text: str) -> None:
    assert "location" not in text
    assert "main" not in text
    for location in alchemy.stored():
        assert location not in text


@pytest.mark.parametrize("path", ["/reports/{0}", "/interpreted", "/views/{0}"])
def test_what_is_read_shows_files_without_their_keys(alchemy: Alchemy, path: str) -> None:
    report = given(alchemy)
    answer = alchemy.client.get(path.format(report.id))
    told = answer.json()
    [told] = told if isinstance(told, list) else [told]
    assert told["file"].keys() == SHOWN
    assert (told["file"]["filename"], told["file"]["size"]) == ("a.txt", 4)
    assert [page.keys() for page in told["pages"]] == [SHOWN]
    check_shows_no_key(alchemy, answer.text)
    page = alchemy.client.get(f"/reports/{report.id}/pages/{told['pages'][0]['id']}")
    assert page.content == b"page"


def test_a_row_without_files_shows_none(alchemy: Alchemy) -> None:
    made = alchemy.client.post("/reports", json={"title": "empty"})
    assert made.status_code == 201, made.text
    assert (made.json()["file"], made.json()["pages"]) == (None, [])


def test_what_is_written_holds_no_ref_of_a_client_s(alchemy: Alchemy) -> None:
    report = given(alchemy)
    forged = report.file.to_dict()
    made = alchemy.client.post("/reports", json={"title": "forged", "file": forged, "pages": [forged]})
    assert made.status_code == 201, made.text
    assert (made.json()["file"], made.json()["pages"]) == (None, [])
    changed = alchemy.client.patch(f"/reports/{report.id}", json={"summary": "new", "file": None, "pages": [forged]})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["summary"], changed.json()["file"]["size"]) == ("new", 4)
    assert len(changed.json()["pages"]) == 1
    assert alchemy.held() == {report.file.location, report.pages[0].location}


def test_files_of_related_rows_are_guarded_alike(alchemy: Alchemy) -> None:
    report = given(alchemy)
    forged = report.file.to_dict()
    photo = {"image": forged, "sizes": [forged]}
    made = alchemy.client.post("/albums", json={"title": "a", "cover": forged, "secret": forged, "photos": [photo]})
    assert made.status_code == 201, made.text
    assert made.json()["photos"][0] == {
        "image": None,
        "sizes": [],
        "id": made.json()["photos"][0]["id"],
        "album_id": made.json()["id"],
    }

    async def attach(service: Any) -> None:
        session = service.repository.session
        album = await session.get(Album, UUID(made.json()["id"]))
        album.cover, album.secret = alchemy.stage(b"cover"), alchemy.stage(b"secret")
        album.photos[0].image = alchemy.stage(b"image")
        await session.commit()

    alchemy.run(attach)
    answer = alchemy.client.get("/albums")
    [album] = answer.json()
    assert album["cover"].keys() == SHOWN
    assert album["photos"][0]["image"].keys() == SHOWN
    assert "secret" not in album  # what the model says of a field itself holds
    check_shows_no_key(alchemy, answer.text)


def test_the_api_s_description_tells_the_same(alchemy: Alchemy) -> None:
    paths = alchemy.client.get("/schema/openapi.json").json()
    components = paths["components"]["schemas"]

    def schema(path: str, method: str, *, of: str) -> dict[str, Any]:
        operation = paths["paths"][path][method]
        place = operation["requestBody"] if of == "request" else operation["responses"][of]
        found = place["content"]["application/json"]["schema"]
        return dict(components[found["$ref"].rsplit("/", 1)[1]]["properties"])

    assert not {"file", "pages"} & schema("/reports", "post", of="request").keys()
    told = schema("/reports", "post", of="201")
    assert "#/components/schemas/FileView" in str(told["file"])
    assert told["pages"]["items"] == {"$ref": "#/components/schemas/FileView"}
