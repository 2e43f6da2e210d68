"""The testing kit: samples, refs, uploads, stores in memory, assertions, factories."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import Any, get_args

import httpx
import msgspec
import pytest
from litestar import Litestar, Request, post
from litestar.testing import TestClient
from polyfactory.factories import DataclassFactory
from polyfactory.factories.base import BaseFactory
from polyfactory.factories.msgspec_factory import MsgspecFactory
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from granite_core import (
    Capability,
    ContentTypeNotAllowedError,
    LocalStorageBackend,
    MemoryStorageBackend,
    ObjectNotFoundError,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_core.media import sniff_content_type
from granite_core.testing import (
    Kind,
    MemoryStorage,
    aput_sample,
    assert_nothing_stored,
    assert_only_stored,
    assert_stored,
    make_ref,
    make_upload,
    memory_manager,
    memory_storage,
    put_sample,
    sample_bytes,
    stored_objects,
)
from granite_core.testing.factories import FileModelFactory, StoredObjectRefProvider, register
from tests.support.parts import find_program

KINDS = get_args(Kind)


# -- samples -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_what_its_name_and_type_say(kind: Kind) -> None:
    upload = make_upload(kind)
    assert sniff_content_type(upload.content) == upload.content_type
    assert sniff_content_type(upload.content, upload.filename, "application/x-lie") == upload.content_type
    assert sample_bytes(kind) == upload.content
    assert len(upload.content) < 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [16, 17, 65_531, 65_536, 200_001])
def test_a_sample_can_have_any_size(kind: Kind, more: int) -> None:
    size = len(sample_bytes(kind)) + more
    content = sample_bytes(kind, size=size)
    assert len(content) == size
    assert sniff_content_type(content[:4096]) == make_upload(kind).content_type
    check_whole(kind, content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_whole(kind: Kind) -> None:
    check_whole(kind, sample_bytes(kind))


def check_whole(kind: Kind, content: bytes) -> None:
    """Programs that know the kind can read it."""
    if kind in ("png", "jpeg"):
        image = pytest.importorskip("PIL.Image")
        with image.open(io.BytesIO(content)) as opened:
            opened.load()
            assert opened.size == (1, 1)
    elif kind == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
    elif kind == "pdf":
        start = int(content.split(b"startxref\n")[1].split()[0])
        assert content[start : start + 4] == b"xref"
        first = int(content[start:].split(b"\n")[3].split()[0])
        assert content[first : first + 7] == b"1 0 obj"
    elif kind == "mp4" and (ffprobe := find_program("ffprobe")):
        argv = [ffprobe, "-v", "error", "-show_entries", "stream=width", "-of", "csv=p=0", "-"]
        done = subprocess.run(argv, input=content, capture_output=True, check=False)
        assert (done.stdout.strip(), done.stderr) == (b"16", b"")


def test_a_sample_cannot_be_smaller_than_its_kind() -> None:
    with pytest.raises(ValueError, match="at least"):
        sample_bytes("png", size=10)
    with pytest.raises(ValueError, match="there is no sample"):
        make_upload("gif")  # type: ignore[arg-type]


def test_an_upload_is_what_clients_take_for_files() -> None:
    request = httpx.Request("POST", "http://x", files={"file": make_upload("png", filename="é.png")})
    body = request.read()
    assert b"Content-Type: image/png" in body
    assert sample_bytes("png") in body

    @post("/")
    async def take(request: Request[Any, Any, Any]) -> dict[str, Any]:
        file = (await request.form())["file"]
        return {"name": file.filename, "type": file.content_type}

    with TestClient(Litestar([take])) as client:
        told = client.post("/", files={"file": make_upload("pdf", content_type="text/html")}).json()
    assert told == {"name": "report.pdf", "type": "text/html"}


def test_a_made_ref_says_what_a_stored_one_would() -> None:
    manager = memory_manager("documents")
    stored, made = put_sample(manager, "documents", "pdf"), make_ref("documents", "pdf")
    told, wanted = made.to_dict(), stored.to_dict()
    assert set(told) == set(wanted)
    same = set(told) - {"location", "created_at"}
    assert {key: told[key] for key in same} == {key: wanted[key] for key in same}
    assert make_ref().location != make_ref().location
    with pytest.raises(ObjectNotFoundError):
        manager.get(made)


async def test_a_sample_is_stored_by_its_policys_rules() -> None:
    manager = memory_manager(StoragePolicy("pictures", content_types=["image/*"]))
    assert (await aput_sample(manager, "pictures", "jpeg")).content_type == "image/jpeg"
    with pytest.raises(ContentTypeNotAllowedError):
        put_sample(manager, "pictures", "pdf")


# -- stores in memory --------------------------------------------------------------------------------------------------


def test_a_manager_in_memory_has_the_backends_that_its_policies_name() -> None:
    manager = memory_manager("documents", StoragePolicy("films", "big"))
    assert sorted(manager.backends) == ["big", "main"]
    assert put_sample(manager, "films", "mp4").backend == "big"
    assert put_sample(manager, "documents").backend == "main"


def test_every_backend_is_replaced_and_comes_back(tmp_path: Any) -> None:
    manager = StorageManager(
        {"main": LocalStorageBackend(tmp_path / "a"), "second disk": LocalStorageBackend(tmp_path / "b")},
        [StoragePolicy("documents"), StoragePolicy("films", "second disk")],
    )
    before = manager.backends
    manager.note([noted := make_ref()])
    with memory_storage(manager) as storage:
        storage.put("documents")
        film = storage.put("films", "mp4")
        manager.note([film])
        with memory_storage(manager) as inner:
            inner.assert_nothing_stored()
        assert len(storage.stored_objects()) == 2
    assert manager.backends == before
    assert manager.take_notes() == [noted]
    assert not list(tmp_path.rglob("*"))


def test_backends_come_back_after_a_failure() -> None:
    manager = memory_manager("documents")
    before = manager.backends
    with pytest.raises(RuntimeError), memory_storage(manager):
        raise RuntimeError
    assert manager.backends == before


@pytest.mark.parametrize("capability", [Capability.PRESIGNED_GET, Capability.PUBLIC_ADDRESS])
async def test_clients_that_are_sent_to_the_store_can_be_followed(capability: Capability) -> None:
    class Far(MemoryStorageBackend):
        capabilities = MemoryStorageBackend.capabilities | {capability}

    public = capability is Capability.PUBLIC_ADDRESS
    manager = StorageManager({"a b": Far()}, [StoragePolicy("documents", delivery="redirect", public=public)])
    with memory_storage(manager) as storage:
        ref = storage.put("documents", "png", filename="é #.png")
        plan = manager.plan_redirect(ref)
        assert plan is not None
        address = await storage.files.carry_out(plan)
        assert address.startswith("https://storage.invalid/")
        assert storage.read_address(address) == sample_bytes("png")
        with pytest.raises(AssertionError, match="no address"):
            storage.read_address("https://example.org/a")
        manager.delete(ref)
        with pytest.raises(AssertionError, match="no object"):
            storage.read_address(address)
    with memory_storage(memory_manager("documents")) as plain:
        assert plain.manager.plan_redirect(plain.put("documents")) is None


# -- assertions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(memory_manager("documents", "films"))


def test_what_is_stored_is_told_apart_from_what_is_not(storage: MemoryStorage) -> None:
    ref = storage.put("documents", content=b"hello")
    storage.assert_stored(ref)
    storage.assert_stored(ref, b"hello")
    with pytest.raises(AssertionError, match="holds b'hello', not b'other'"):
        storage.assert_stored(ref, b"other")
    with pytest.raises(AssertionError, match="is not stored; stored is"):
        storage.assert_stored(make_ref())
    with pytest.raises(AssertionError, match="the field is empty"):
        storage.assert_stored(None)
    storage.manager.delete(ref)
    with pytest.raises(AssertionError, match="is not stored; nothing is"):
        assert_stored(storage.manager, ref)


def test_what_was_changed_at_rest_is_noticed(storage: MemoryStorage) -> None:
    ref = storage.put("documents", content=b"hello")
    backend = storage.manager.get_backend("main")
    backend.delete(ref.location)
    backend.put_bytes(ref.location, b"jello")
    with pytest.raises(AssertionError, match="is not what it was"):
        storage.assert_stored(ref)


def test_nothing_stored_means_nothing_in_any_backend(storage: MemoryStorage) -> None:
    storage.assert_nothing_stored()
    for _ in range(12):
        ref = storage.put("films")
    with pytest.raises(AssertionError, match=r"nothing should be stored; stored are .* and 2 more"):
        assert_nothing_stored(storage.manager)
    [found, *_] = [each for each in stored_objects(storage.manager) if each.location == ref.location]
    assert (found.backend_key, found.size, found.read()) == ("main", ref.size, sample_bytes())


def test_only_stored_names_what_is_missing_and_what_is_too_many(storage: MemoryStorage) -> None:
    one, two = storage.put("documents"), storage.put("films")
    storage.assert_only_stored([two, one, one, None])
    with pytest.raises(AssertionError, match=two.location):
        storage.assert_only_stored([one])
    with pytest.raises(AssertionError, match="is not stored"):
        assert_only_stored(storage.manager, [one, two, make_ref()])


# -- factories ---------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Case(Base):
    __tablename__ = "case"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    report: Mapped[StoredObjectRef] = file_field("documents")
    cover: Mapped[StoredObjectRef | None] = file_field("films")
    pages: Mapped[list[StoredObjectRef]] = files_field("films")
    notes: Mapped[list[Note]] = relationship(back_populates="case")


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("case.id"))
    scan: Mapped[StoredObjectRef] = file_field("films")
    case: Mapped[Case] = relationship(back_populates="notes")


class CaseFactory(FileModelFactory[Case]):
    __set_relationships__ = False


def test_a_factory_of_models_makes_refs_by_their_columns() -> None:
    for _ in range(20):
        case = CaseFactory.build()
        assert case.report.storage_key == "documents"
        assert case.cover is None or case.cover.storage_key == "films"
        assert case.pages
        assert {each.storage_key for each in case.pages} == {"films"}
        assert isinstance(case.title, str)


def test_a_factory_with_a_manager_stores_the_files(storage: MemoryStorage) -> None:
    class StoringFactory(FileModelFactory[Case]):
        __files__ = StoredObjectRefProvider(lambda: storage.manager, kind="png", size=500)
        __set_relationships__ = False

    case = StoringFactory.build(cover=None)
    storage.assert_only_stored([case.report, *case.pages])
    assert isinstance(case.report, StagedFile)
    assert (case.report.size, case.report.content_type) == (500, "image/png")
    given = make_ref("documents")
    assert StoringFactory.build(report=given).report is given


def test_related_models_get_their_files_too(storage: MemoryStorage) -> None:
    class NoteFactory(FileModelFactory[Note]):
        __files__ = StoredObjectRefProvider(storage.manager)

    note = NoteFactory.build()
    assert note.scan.storage_key == "films"
    assert note.case.report.storage_key == "documents"


def test_any_factory_can_learn_what_a_ref_is(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseFactory, "_providers", dict(BaseFactory._providers))

    @dataclass
    class Mail:
        subject: str
        attachment: StoredObjectRef

    class Form(msgspec.Struct):
        file: StagedFile

    class MailFactory(DataclassFactory[Mail]): ...

    register()
    assert MailFactory.build().attachment.storage_key == "documents"
    register(StoredObjectRefProvider(storage.manager, kind="zip", storage_key="films"))
    mail = MailFactory.build()
    assert mail.attachment.storage_key == "films"
    storage.assert_stored(mail.attachment, sample_bytes("zip"))

    class FormFactory(MsgspecFactory[Form]): ...

    assert isinstance(FormFactory.build().file, StagedFile)


def test_a_provider_that_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="at least"):
        StoredObjectRefProvider(kind="pdf", size=3)


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_the_kit_needs_neither_pytest_nor_polyfactory_until_they_are_used() -> None:
    code = """
import sys
sys.modules["pytest"] = sys.modules["polyfactory"] = None
from granite_core.testing import memory_manager, memory_storage, make_upload, sweep_now
with memory_storage(memory_manager("documents")) as storage:
    storage.assert_stored(storage.put("documents", "png"))
assert "litestar" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
