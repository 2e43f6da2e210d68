"""What granite-storage's two documents show runs here, with the package's name changed and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, create_engine, text
from sqlalchemy import inspect as inspect_database
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile

import granite_core
from granite_core import LocalStorageBackend, StoredObjectRef
from tests.support.s3 import S3Server

PAGES = Path(__file__).parent / "granite_storage"
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
PDF = b"%PDF-1.7\n" + bytes(100)


class Reader:
    """A user who types a page's code into one session, section after section."""

    def __init__(self, page: str, **names: Any) -> None:
        text = (PAGES / f"{page}.md").read_text("utf-8").replace("from granite_storage", "from granite_core")
        assert "import granite_storage" not in text
        self.sections = dict(re.findall(r"^## (.+?)\n+```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        self.names: dict[str, Any] = {"__name__": page, **names}

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    async def types(self, *sections: str) -> None:
        for each in sections:
            code = compile(self.sections[each], each, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            if (awaited := eval(code, self.names)) is not None:
                await awaited


@pytest.fixture(autouse=True)
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_mp4: Path) -> bytes:
    """The content of a video in the folder where the code runs."""
    monkeypatch.chdir(tmp_path)
    content = sample_mp4.read_bytes()
    (tmp_path / "video.mp4").write_bytes(content)
    return content


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = (
        request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path}/db.sqlite3"
    )
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def bucket(ministack: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes buckets of given names, where boto3 finds them by itself."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", ministack.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    admin, made = ministack.client(), []

    def make(name: str) -> None:
        admin.create_bucket(Bucket=name)
        made.append(name)

    yield make
    for name in made:
        ministack.drop_bucket(name)


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


class TestThePageOnPyPI:
    async def test_content_is_stored_read_replaced_and_let_go(
        self, engine: Engine, tmp_path: Path, capsys: Any
    ) -> None:
        reader = Reader(
            "pypi_page",
            engine=engine,
            Session=Session,
            pdf_bytes=PDF,
            new_bytes=PDF + b"2",
            upload_file=UploadFile(io.BytesIO(b"a,b\n1,2\n"), filename="table.csv"),
        )
        await reader.types("backends and policies", "model")
        reader.Base.metadata.create_all(engine)
        await reader.types("content")
        assert (reader.data, reader.first_chunk) == (b"a,b\n1,2\n", b"a,b\n1,2\n")
        assert reader.result.previous_ref.original_filename == "table.csv"
        assert reader.result.new_ref == reader.old_ref
        assert reader.manager.get(reader.old_ref) == PDF + b"2"
        with Session(engine) as session:
            kept = reader.Document(title="Kept")
            session.add(kept)
            session.flush()
            kept.set_content(b"kept")
            session.commit()
            assert all(path.startswith("docs/document/") for path in files(tmp_path / "var" / "storage"))

            await reader.types("collection")
            assert capsys.readouterr().out == "Orphaned: 4 / 5\nDeleted: 4\n"
            assert (kept.get_content(), len(files(tmp_path / "var" / "storage"))) == (b"kept", 1)

    async def test_the_manager_is_used_without_the_mixin(self, tmp_path: Path) -> None:
        reader = Reader("pypi_page", user=SimpleNamespace(id=42), image_stream=io.BytesIO(JPEG))
        await reader.types("backends and policies", "without the mixin")
        assert reader.data == JPEG
        assert reader.ref.location.startswith("avatars/user/42/avatar/")
        assert reader.ref.location.endswith(".jpg")
        assert StoredObjectRef.from_dict(reader.ref.to_dict()) == reader.ref
        assert files(tmp_path / "var" / "storage") == []

    async def test_s3_takes_the_place_of_the_disk(self, bucket: Callable[[str], None], ministack: S3Server) -> None:
        bucket("my-app-uploads")
        reader = Reader("pypi_page", user=SimpleNamespace(id=42), image_stream=io.BytesIO(JPEG))
        await reader.types("backends and policies", "s3")
        ref = reader.manager.put_bytes("avatars", "user", "42", "avatar", content=PNG)
        keys = [each["Key"] for each in ministack.client().list_objects_v2(Bucket="my-app-uploads")["Contents"]]
        assert keys == [f"production/{ref.location}"]
        await reader.types("without the mixin")
        assert reader.data == JPEG

    async def test_errors_are_caught_by_their_names(self, tmp_path: Path) -> None:
        names = {"model_name": "user", "entity_id": "42", "field_name": "avatar"}
        reader = Reader("pypi_page", names=names, huge_bytes=bytes(2 * 1024 * 1024 + 1))
        await reader.types("backends and policies", "errors")
        assert "ref" not in reader.names
        assert files(tmp_path) == ["video.mp4"]
        with pytest.raises(reader.ContentTooLargeError):
            reader.manager.put_bytes("avatars", **names, content=reader.huge_bytes)
        with pytest.raises(reader.StorageError, match="no policy"):
            reader.manager.put_bytes("covers", **names, content=b"x")

    async def test_the_migration_adds_the_column_of_the_model(self, engine: Engine) -> None:
        reader = Reader("pypi_page")
        await reader.types("backends and policies", "model", "migration")
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE document (id INTEGER PRIMARY KEY)"))
            with Operations.context(MigrationContext.configure(connection)):
                reader.upgrade()
            column = inspect_database(connection).get_columns("document")[1]
        wanted = reader.Document.__table__.c._file_ref.type
        assert (column["name"], column["nullable"]) == ("_file_ref", True)
        assert str(column["type"]) == wanted.load_dialect_impl(engine.dialect).compile(engine.dialect)


class TestTheUserGuide:
    async def test_its_code_runs(
        self, tmp_path: Path, bucket: Callable[[str], None], ministack: S3Server, video: bytes
    ) -> None:
        bucket("my-bucket")
        sent: list[bytes] = []
        reader = Reader(
            "user_guide",
            user=SimpleNamespace(id=42),
            lesson=SimpleNamespace(id=7),
            image_bytes=PNG,
            send_to_client=lambda file: sent.append(file.read()),
        )
        await reader.types("manager")
        with reader.manager.override(local=LocalStorageBackend(tmp_path / "uploads")):  # not in /var
            await reader.types("from bytes")
            avatar = reader.ref
            assert avatar.location.startswith("avatars/user/42/avatar/")
            assert (avatar.content_type, avatar.backend, reader.manager.get(avatar)) == ("image/png", "local", PNG)
            await reader.types("from a stream", "retrieving")
            assert reader.ref.location.startswith("attach/lesson/7/video/")
            assert (reader.data == video, sent == [video], reader.ref.size) == (True, True, len(video))
            assert ministack.client().list_objects_v2(Bucket="my-bucket")["KeyCount"] == 1
            await reader.types("existence and deleting", "existence and deleting")
            assert ministack.client().list_objects_v2(Bucket="my-bucket")["KeyCount"] == 0
            assert reader.manager.exists(avatar)

    async def test_a_ref_has_the_fields_it_shows_in_their_order(self) -> None:
        reader = Reader("user_guide", dataclass=dataclasses.dataclass)
        await reader.types("the ref")
        shown = [field.name for field in dataclasses.fields(reader.StoredObjectRef)]
        assert [*inspect.signature(StoredObjectRef).parameters] == shown
        ref = StoredObjectRef("a", "b", "c", 1, "sha256:00", "text/plain", "c.txt", "2026-01-01T00:00:00Z", {"x": 1})
        assert [*ref.to_dict()] == shown


TYPED = """
import uuid
from typing import BinaryIO

from fastapi import UploadFile as FastAPIUpload
from litestar.datastructures import UploadFile as LitestarUpload
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.datastructures import UploadFile as StarletteUpload

from granite_core import (
    ReplaceContentResult, StorageManager, StoragePolicy, StoredContentMixin, StoredObjectRef, StoredObjectRefType,
)
from granite_core.backends.local import LocalStorageBackend
from granite_core.gc import StorageGarbageCollector
from granite_core.integrations.sqlalchemy import iter_model_storage_refs

class Base(DeclarativeBase):
    pass

class Document(StoredContentMixin, Base):
    __tablename__ = "document"
    __stored_content_field_name__ = "_file_ref"
    __stored_content_storage_key__ = "documents"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    _file_ref: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType(), nullable=True)

class Page(Base, StoredContentMixin):
    __tablename__ = "page"
    __stored_content_field_name__ = "file"
    __stored_content_storage_key__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType)

class Seven:
    backend_name = "seven"
    def put_bytes(
        self, *, key: str, content: bytes, content_type: str | None = None, original_filename: str | None = None,
        extra: dict[str, object] | None = None,
    ) -> StoredObjectRef: ...
    def put_stream(
        self, *, key: str, stream: BinaryIO, size: int | None = None, checksum: str | None = None,
        content_type: str | None = None, original_filename: str | None = None, extra: dict[str, object] | None = None,
    ) -> StoredObjectRef: ...
    def get(self, ref: StoredObjectRef) -> bytes: ...
    def open(self, ref: StoredObjectRef) -> BinaryIO: ...
    def delete(self, ref: StoredObjectRef) -> None: ...
    def exists(self, ref: StoredObjectRef) -> bool: ...
    def iter_locations(self, prefix: str | None = None): ...

manager = StorageManager(
    backends={"local": LocalStorageBackend("."), "seven": Seven()},
    policies={"documents": StoragePolicy("documents", backend_key="local")},
)
Document.configure_storage_manager(manager)
Page.__storage_manager__ = manager

async def use(
    one: FastAPIUpload, two: StarletteUpload, three: LitestarUpload, session: Session, stream: BinaryIO
) -> None:
    document = Document()
    ref: StoredObjectRef = document.set_content(b"x", filename="a.pdf", content_type=None, extra={"a": 1})
    ref = document.set_content_from_stream(stream)
    for upload in (one, two):
        ref = await document.set_content_from_uploadfile(upload)
    ref = await document.set_content_from_uploadfile(three)
    content: bytes | None = document.get_content()
    written: str | None = document.get_content_text("utf-8")
    opened: BinaryIO | None = document.open_content()
    result: ReplaceContentResult = document.replace_content("x")
    old: StoredObjectRef | None = result.previous_ref or document.clear_content_reference()
    gc = StorageGarbageCollector(manager, lambda: iter_model_storage_refs(session, Document, "_file_ref"))
    deleted: int = gc.collect(storage_key="documents", dry_run=False).deleted
    bad: int = document.get_content()
"""


def test_a_user_s_model_type_checks(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "users.py").write_text(TYPED)
    (tmp_path / "mypy.ini").write_text("[mypy]\nallow_empty_bodies = True\nallow_untyped_defs = True\n")
    found, _, _ = api.run(["--config-file", "mypy.ini", "--no-error-summary", "users.py"])
    lines = [line for line in found.splitlines() if "error" in line and "users.py" in line]
    assert len(lines) == 1, found
    assert '"bytes | None", variable has type "int"' in lines[0]


def test_the_modules_that_its_other_pages_name_are_there() -> None:
    """Its guide to writing a backend imports from them."""
    from granite_core import contracts, exceptions, integrations, mixin, models, types, utils  # noqa: F401
    from granite_core.alembic_helpers import portable_storage_ref_type
    from granite_core.contracts import StorageBackend
    from granite_core.manager import SizeLimitedStream
    from granite_core.policies import StoragePolicy

    assert exceptions.StorageError is granite_core.StorageError
    assert models.StoredObjectRef is granite_core.StoredObjectRef
    assert (types.StoredObjectRefType, mixin.StoredContentMixin) == (
        granite_core.StoredObjectRefType,
        granite_core.StoredContentMixin,
    )
    assert portable_storage_ref_type is granite_core.portable_storage_ref_type
    assert (SizeLimitedStream, StoragePolicy) == (granite_core.SizeLimitedStream, granite_core.StoragePolicy)
    assert utils.sha256_bytes(b"x") == granite_core.MemoryStorageBackend().put_bytes("x", b"x").checksum
    assert datetime.fromisoformat(utils.utcnow_iso()).tzinfo is not None

    class Own(StorageBackend):
        backend_name = "own"

    assert Own.backend_name == "own"
