"""The verbs of ``StoredContentMixin``, on every engine, for callers of either colour."""

from __future__ import annotations

import asyncio
import io
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from fastapi import UploadFile as FastAPIUploadFile
from litestar.datastructures import UploadFile as LitestarUploadFile
from sqlalchemy import create_engine, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.datastructures import Headers
from starlette.datastructures import UploadFile as StarletteUploadFile
from starlette.testclient import TestClient

from granite_core import (
    BackendUnavailableError,
    ConfigurationError,
    ContentTooLargeError,
    MemoryStorageBackend,
    StagedFile,
    StorageError,
    StorageManager,
    StoragePolicy,
    StoredContentMixin,
    StoredObjectRef,
    StoredObjectRefType,
    unsaved,
)
from granite_core.integrations.sqlalchemy import file_field
from granite_core.manager import MANAGER_KEY
from granite_core.testing.faults import FaultyBackend
from tests.integration.sqlalchemy.world import World, make_world


class Base(DeclarativeBase):
    pass


class Document(StoredContentMixin, Base):
    __tablename__ = "document"
    __stored_content_field_name__ = "_file_ref"
    __stored_content_storage_key__ = "documents"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    title: Mapped[str | None]
    _file_ref: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType(), nullable=True)


@pytest.fixture
def world(url: str) -> Iterator[World]:
    with make_world(url, base=Base) as world:
        yield world


@pytest.fixture
def document_id(world: World) -> uuid.UUID:
    """A committed row with a file."""

    def scenario() -> uuid.UUID:
        with world.session() as session:
            document = Document(id=uuid.uuid4())
            document.set_content(b"first", filename="first.txt")
            session.add(document)
            session.commit()
            return document.id

    return world.run(scenario)


def upload(kind: str, content: bytes, name: str = "report.csv", claimed: str = "text/csv") -> Any:
    if kind == "litestar":
        return LitestarUploadFile(claimed, name, content)
    made = {"starlette": StarletteUploadFile, "fastapi": FastAPIUploadFile}[kind]
    return made(io.BytesIO(content), filename=name, headers=Headers({"content-type": claimed}))


UPLOADS = pytest.mark.parametrize("kind", ["starlette", "fastapi", "litestar"])


class TestStoring:
    def test_a_bulk_insert_stores_by_the_policy_of_the_class(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.execute(insert(Document), [{"title": "a", "_file_ref": unsaved(b"bulk")}])
                session.commit()
            [ref] = world.rows()
            assert (ref.storage_key, world.manager.get(ref)) == ("documents", b"bulk")

        world.run(scenario)

    def test_bytes_text_and_streams_are_stored_and_held(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = Document()
                session.add(document)
                session.flush()
                for store, content, kind in (
                    (
                        lambda: document.set_content(b"%PDF-1.7 x", filename="report.pdf"),
                        b"%PDF-1.7 x",
                        "application/pdf",
                    ),
                    (lambda: document.set_content("# Grüße"), "# Grüße".encode(), "text/plain"),
                    (
                        lambda: document.set_content_from_stream(
                            io.BytesIO(b"a,b"), filename="a.csv", content_type="text/csv", extra={"page": 1}
                        ),
                        b"a,b",
                        "text/csv",
                    ),
                ):
                    ref = store()
                    assert isinstance(ref, StagedFile)
                    assert document._file_ref is ref
                    assert (document.get_content(), ref.content_type) == (content, kind)
                    session.commit()
                assert (ref.original_filename, ref.extra, ref.storage_key) == ("a.csv", {"page": 1}, "documents")
                assert ref.location.startswith(f"document/{document.id}/file_ref/")
            assert world.held() == {ref.location}
            world.check_laws()

        world.run(scenario)

    def test_a_stream_is_read_from_where_it_stands_and_stays_open(self, world: World) -> None:
        stream = io.BytesIO(b"0123456789")
        stream.seek(4)
        document = Document(id=uuid.uuid4())
        document.set_content_from_stream(stream)
        assert (document.get_content(), stream.closed) == (b"456789", False)

    def test_another_policy_may_be_named(self, world: World) -> None:
        document = Document(id=uuid.uuid4())
        assert document.set_content(b"x", storage_key="pages").storage_key == "pages"

    def test_what_the_policy_refuses_changes_nothing(self, world: World) -> None:
        document = Document(id=uuid.uuid4())
        held = document.set_content(b"x")
        for store in (
            lambda: document.set_content(bytes(1001)),
            lambda: document.replace_content(bytes(1001)),
            lambda: document.set_content_from_stream(io.BytesIO(bytes(1001))),
        ):
            with pytest.raises(ContentTooLargeError):
                store()
        assert document._file_ref is held
        assert world.stored() == {held.location}

    def test_before_there_is_a_primary_key_the_error_says_what_to_do(self, world: World) -> None:
        document = Document()
        for store in (lambda: document.set_content(b"x"), lambda: document.replace_content(b"x")):
            with pytest.raises(StorageError, match=r"session\.flush\(\).*unsaved"):
                store()
        assert world.stored() == set()
        document.id = uuid.uuid4()
        assert document.set_content(b"x").size == 1

    def test_unsaved_content_goes_by_the_class_s_policy(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = Document(_file_ref=unsaved(b"x", filename="a.txt"))
                session.add(document)
                for read in (document.get_content, document.get_content_text, document.open_content):
                    with pytest.raises(StorageError, match="next flush"):
                        read()
                session.commit()
                assert (document.get_content_text(), document._file_ref.storage_key) == ("x", "documents")

        world.run(scenario)

    def test_a_primary_key_of_any_kind_is_one_segment_of_the_key(self) -> None:
        class Own(DeclarativeBase):
            pass

        class Page(StoredContentMixin, Own):
            __tablename__ = "page"
            __stored_content_field_name__ = "file"
            book: Mapped[str] = mapped_column(primary_key=True)
            number: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("pages")

        Page.configure_storage_manager(StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("pages")]))
        ref = Page(book="../a/b", number=2).set_content(b"x")
        assert ref.location.startswith("page/%2E.%2Fa%2Fb%2C2/file/")
        assert ref.storage_key == "pages"


class TestReading:
    def test_an_object_without_a_file_has_no_content(self, world: World) -> None:
        document = Document(id=uuid.uuid4())
        assert (document.get_content(), document.get_content_text(), document.open_content()) == (None, None, None)

    def test_the_content_comes_back_in_each_form(self, world: World, document_id: uuid.UUID) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = session.get_one(Document, document_id)
                assert (document.get_content(), document.get_content_text()) == (b"first", "first")
                with document.open_content() as file:
                    file.seek(2)
                    assert file.read() == b"rst"
                document.set_content("Grüße".encode("utf-16"))
                assert document.get_content_text("utf-16") == "Grüße"

        world.run(scenario)


class TestLettingGo:
    def test_replacing_tells_both_refs_and_keeps_the_old_file_until_the_sweep(
        self, world: World, document_id: uuid.UUID
    ) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = session.get_one(Document, document_id)
                before = document._file_ref
                result = document.replace_content(b"second", filename="second.txt")
                assert (result.previous_ref, result.new_ref) == (before, document._file_ref)
                assert world.manager.get(before) == b"first"
                session.commit()
            assert (world.manager.get(result.previous_ref), world.manager.get(result.new_ref)) == (b"first", b"second")
            assert world.tombstones() == [before.location]
            world.check_laws()

        world.run(scenario)

    def test_replacing_nothing_tells_nothing(self, world: World) -> None:
        assert Document(id=uuid.uuid4()).replace_content("x").previous_ref is None
        pending = Document(id=uuid.uuid4(), _file_ref=unsaved(b"x"))
        assert pending.replace_content("y").previous_ref is None

    def test_clearing_returns_the_ref_and_keeps_the_file_until_the_sweep(
        self, world: World, document_id: uuid.UUID
    ) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = session.get_one(Document, document_id)
                before = document.clear_content_reference()
                assert (document.get_content(), document.clear_content_reference()) == (None, None)
                session.commit()
                assert world.manager.get(before) == b"first"
            assert (world.held(), world.tombstones()) == (set(), [before.location])

        world.run(scenario)

    def test_a_rollback_leaves_the_row_its_file(self, world: World, document_id: uuid.UUID) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = session.get_one(Document, document_id)
                document.replace_content(b"second")
                session.flush()
                session.rollback()
                assert document.get_content() == b"first"
            assert world.tombstones() == []
            world.check_laws()

        world.run(scenario)

    def test_what_was_stored_and_replaced_before_a_flush_is_noted(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = Document(id=uuid.uuid4())
                session.add(document)
                first = document.set_content(b"first")
                document.set_content(b"second")
                document.clear_content_reference()
                document.set_content(b"third")
                session.commit()
                assert world.manager.get(first) == b"first"  # nobody but the collector deletes it
            assert len(world.stored()) == 3
            world.check_laws()

        world.run(scenario)

    def test_deleting_the_row_lets_its_file_go(self, world: World, document_id: uuid.UUID) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.delete(session.get_one(Document, document_id))
                session.commit()
            assert len(world.tombstones()) == 1
            world.check_laws()

        world.run(scenario)


class TestUploads:
    @UPLOADS
    @pytest.mark.parametrize("size", [0, 10, 3 * 1024 * 1024])
    async def test_an_upload_is_stored_from_its_beginning_and_stays_open(self, kind: str, size: int) -> None:
        content = bytes(size)
        manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents")])
        document = bound_to(manager)
        sent = upload(kind, content)
        await sent.read(5)
        ref = await document.set_content_from_uploadfile(sent, extra={"from": kind})
        assert (document.get_content() == content, ref.original_filename, ref.extra) == (
            True,
            "report.csv",
            {"from": kind},
        )
        assert not sent.file.closed
        assert (await document.set_content_from_uploadfile(sent)).checksum == ref.checksum

    @UPLOADS
    async def test_what_an_upload_claims_is_cleaned_and_checked(self, kind: str) -> None:
        manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents", max_size=10)])
        document = bound_to(manager)
        ref = await document.set_content_from_uploadfile(upload(kind, b"%PDF-1.7", "../../etc/x.pdf", "image/png"))
        assert (ref.original_filename, ref.content_type) == ("x.pdf", "application/pdf")
        with pytest.raises(ContentTooLargeError):
            await document.set_content_from_uploadfile(upload(kind, bytes(11)))
        assert document._file_ref is ref

    @UPLOADS
    async def test_nothing_of_it_runs_on_the_event_loop(self, kind: str) -> None:
        seen: set[int] = set()

        class Watched(MemoryStorageBackend):
            def _store(self, location: str, content: bytes) -> None:
                seen.add(threading.get_ident())
                super()._store(location, content)

        sent = upload(kind, b"x")
        read = sent.file.read
        sent.file.read = lambda *size: (seen.add(threading.get_ident()), read(*size))[1]
        document = bound_to(StorageManager({"main": Watched()}, [StoragePolicy("documents")]))
        await document.set_content_from_uploadfile(sent)
        assert seen
        assert threading.get_ident() not in seen

    async def test_a_cancelled_upload_leaves_nothing(self) -> None:
        store = FaultyBackend(MemoryStorageBackend())
        document = bound_to(StorageManager({"main": store}, [StoragePolicy("documents")]))
        reached, go_on = threading.Event(), threading.Event()

        class Slow(io.BytesIO):
            def read(self, *size: Any) -> bytes:
                reached.set()
                assert go_on.wait(12)
                return super().read(*size)

        task = asyncio.ensure_future(
            document.set_content_from_uploadfile(StarletteUploadFile(Slow(b"x"), filename="a"))
        )
        await asyncio.to_thread(reached.wait)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (document._file_ref, [*store.inner.iter_locations()]) == (None, [])

    async def test_a_failing_store_leaves_what_was_held(self) -> None:
        store = FaultyBackend(MemoryStorageBackend())
        document = bound_to(StorageManager({"main": store}, [StoragePolicy("documents")]))
        held = document.set_content(b"x")
        store.fail("commit", BackendUnavailableError("down"))
        with pytest.raises(BackendUnavailableError):
            await document.set_content_from_uploadfile(upload("starlette", b"y"))
        assert document._file_ref is held

    async def test_what_is_no_upload_is_refused(self) -> None:
        document = bound_to(StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents")]))
        with pytest.raises(TypeError, match="bytes has none"):
            await document.set_content_from_uploadfile(b"content")  # type: ignore[arg-type]

    def test_an_endpoint_of_fastapi_stores_what_a_client_sends(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
        Base.metadata.create_all(engine)
        StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents")]).register(Base)
        app = FastAPI()

        async def attach(file: FastAPIUploadFile) -> dict[str, Any]:
            with Session(engine) as session:
                document = Document(title="Annual report")
                session.add(document)
                session.flush()
                await document.set_content_from_uploadfile(file)
                session.commit()
                return {"id": str(document.id)}

        app.post("/documents")(attach)
        with TestClient(app) as client:
            sent = client.post("/documents", files={"file": ("a.csv", b"a,b\n1,2\n", "text/csv")})
        assert sent.status_code == 200, sent.text
        with Session(engine) as session:
            document = session.scalars(select(Document)).one()
            assert (str(document.id), document.get_content_text()) == (sent.json()["id"], "a,b\n1,2\n")
        engine.dispose()

    @UPLOADS
    def test_an_unsaved_upload_is_stored_by_the_flush(self, world: World, kind: str) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = Document(_file_ref=unsaved(upload(kind, b"x")))
                session.add(document)
                session.commit()
                assert (document.get_content(), document._file_ref.original_filename) == (b"x", "report.csv")

        world.run(scenario)


class TestAsynchronousSessions:
    @pytest.fixture(params=["aiosqlite", "asyncpg"])
    async def engine(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
        postgres = request.param == "asyncpg" and request.getfixturevalue("postgres_async_url")
        engine = create_async_engine(postgres or f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3")
        yield engine
        await engine.dispose()

    async def test_an_upload_is_committed_and_read_back(self, engine: AsyncEngine) -> None:
        manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents")])
        manager.register(Base)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            document = Document()
            session.add(document)
            await session.flush()
            await document.set_content_from_uploadfile(upload("litestar", b"first"))
            await session.commit()
            await session.run_sync(lambda _: document.replace_content(b"second"))
            await session.commit()
            assert await session.run_sync(lambda _: document.get_content()) == b"second"


class TestManagers:
    @pytest.fixture(autouse=True)
    def _unbound(self) -> Iterator[None]:
        Base.metadata.info.pop(MANAGER_KEY, None)
        yield
        Base.metadata.info.pop(MANAGER_KEY, None)

    @staticmethod
    def manager(**options: Any) -> StorageManager:
        return StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents")], **options)

    def test_without_one_the_error_names_the_calls(self) -> None:
        with pytest.raises(ConfigurationError, match=r"Document\.configure_storage_manager.*manager\.register\(Base\)"):
            Document(id=uuid.uuid4()).set_content(b"x")

    def test_each_class_has_its_own(self, tmp_path: Path) -> None:
        class Own(DeclarativeBase):
            pass

        class One(StoredContentMixin, Own):
            __tablename__ = "one"
            __stored_content_field_name__ = "file"
            __stored_content_storage_key__ = "documents"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType)

        class Other(StoredContentMixin, Own):
            __tablename__ = "other"
            __stored_content_field_name__ = "file"
            __stored_content_storage_key__ = "documents"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType)

        one, other = self.manager(), self.manager()
        One.configure_storage_manager(one)
        Other.__storage_manager__ = other  # the older spelling
        engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
        Own.metadata.create_all(engine)
        with Session(engine) as session:
            for class_ in (One, Other):
                row = class_(id=1)
                session.add(row)
                row.set_content(class_.__name__)
                session.commit()
                row.replace_content(class_.__name__.lower())
                session.commit()
                row.file = None
                session.flush()
                row.file = unsaved(b"unsaved")
                session.commit()
                assert row.get_content() == b"unsaved"
        for manager, name in ((one, "one"), (other, "other")):
            keys = [*manager.get_backend("main").iter_locations()]
            assert len(keys) == 3
            assert all(key.startswith(f"{name}/1/file/") for key in keys)
        engine.dispose()

    def test_a_class_s_own_comes_before_that_of_the_base(self) -> None:
        class Derived(Document):
            __storage_manager__: ClassVar[StorageManager | None] = None

        of_base, of_class = self.manager(), self.manager()
        of_base.register(Base)
        assert Derived(id=uuid.uuid4())._require_storage_manager() is of_base
        Derived.configure_storage_manager(of_class)
        assert Derived(id=uuid.uuid4())._require_storage_manager() is of_class
        assert Document(id=uuid.uuid4())._require_storage_manager() is of_base

    def test_a_column_without_one_takes_what_a_manager_has_just_stored(self, tmp_path: Path) -> None:
        class Own(DeclarativeBase):
            pass

        class Profile(Own):
            __tablename__ = "profile"
            id: Mapped[int] = mapped_column(primary_key=True)
            avatar: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType, nullable=True)

        manager = self.manager()
        engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
        Own.metadata.create_all(engine)
        with Session(engine) as session:
            profile = Profile(id=1)
            session.add(profile)
            for content in (b"first", b"second"):
                profile.avatar = manager.put_bytes("documents", "profile", 1, "avatar", content=content)
                session.commit()
                assert manager.get(profile.avatar) == content
            session.add(Profile(id=2, avatar=StoredObjectRef("documents", "main", "invented", 1)))
            with pytest.raises(ConfigurationError, match=r"manager\.register\(Base\)"):
                session.commit()
        with Session(engine) as session:
            assert session.connection().exec_driver_sql("SELECT count(*) FROM granite_tombstone").scalar() == 1
        engine.dispose()

    def test_what_the_class_does_not_say_is_asked_for(self) -> None:
        class Silent(StoredContentMixin):
            id = 1

        Silent.configure_storage_manager(self.manager())
        with pytest.raises(ConfigurationError, match="__stored_content_field_name__"):
            Silent().set_content(b"x")
        Silent.__stored_content_field_name__ = "file"
        with pytest.raises(ConfigurationError, match="__stored_content_storage_key__"):
            Silent().set_content(b"x")

    def test_a_class_that_is_not_mapped_will_do(self) -> None:
        class Plain(StoredContentMixin):
            __stored_content_field_name__ = "file"
            __stored_content_storage_key__ = "documents"
            file: StoredObjectRef | None = None
            id: int | None = None

        Plain.configure_storage_manager(self.manager())
        plain = Plain()
        with pytest.raises(StorageError, match="must have an id"):
            plain.set_content(b"x")
        plain.id = 7
        assert plain.set_content(b"x").location.startswith("plain/7/file/")
        assert plain.get_content() == b"x"


def bound_to(manager: StorageManager) -> Document:
    """A new document of a class of its own, which has this manager."""

    class Plain(StoredContentMixin):
        __tablename__ = "document"
        __stored_content_field_name__ = "_file_ref"
        __stored_content_storage_key__ = "documents"
        _file_ref: StoredObjectRef | None = None
        id = 1

    Plain.configure_storage_manager(manager)
    return Plain()  # type: ignore[return-value]  # it has all that the tests use
