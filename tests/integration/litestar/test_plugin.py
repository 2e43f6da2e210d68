"""What the plugin sets up, what it leaves alone, and what it refuses at start-up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
)
from litestar import Litestar, get, post
from litestar.di import NamedDependency, Provide
from litestar.testing import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    AsyncStorageManager,
    BackendUnavailableError,
    ConfigurationError,
    MemoryStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.gc import GCConfig
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import FileRoute, FileView, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO


class Base(DeclarativeBase):
    pass


class Paper(Base):
    __tablename__ = "paper"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    file: Mapped[StoredObjectRef | None] = file_field("papers")
    pages: Mapped[list[StoredObjectRef]] = files_field("papers")


class NewPaper(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Paper.file)]


class Nested(msgspec.Struct):
    refs: list[StoredObjectRef]


def make_manager(*, policies: Sequence[str] = ("papers",)) -> StorageManager:
    return StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy(each, "main") for each in policies])


@pytest.fixture
def manager() -> StorageManager:
    return make_manager()


@pytest.fixture
def alchemy(tmp_path: Path) -> SQLAlchemyPlugin:
    config = SQLAlchemyAsyncConfig(
        connection_string=f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3",
        metadata=Base.metadata,
        session_config=AsyncSessionConfig(expire_on_commit=False),
        create_all=True,
    )
    return SQLAlchemyPlugin(config)


def test_both_managers_are_dependencies_of_handlers_of_either_colour(manager: StorageManager) -> None:
    @get("/sync", sync_to_thread=True)
    def sync(storage: NamedDependency[StorageManager]) -> bool:
        return storage is manager

    @get("/async")
    async def aio(files: NamedDependency[AsyncStorageManager]) -> bool:
        return files.sync is manager

    with TestClient(Litestar([sync, aio], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])) as client:
        assert client.get("/sync").json() is True
        assert client.get("/async").json() is True


def test_their_names_can_be_chosen(manager: StorageManager) -> None:
    @get("/")
    async def handler(mine: NamedDependency[StorageManager], yours: NamedDependency[AsyncStorageManager]) -> bool:
        return yours.sync is mine

    config = GraniteConfig(manager, gc=None, manager_dependency_key="mine", async_manager_dependency_key="yours")
    with TestClient(Litestar([handler], plugins=[GranitePlugin(config)])) as client:
        assert client.get("/").json() is True


@pytest.mark.parametrize("granite_first", [True, False])
def test_upload_attach_and_download_with_nothing_to_register(
    manager: StorageManager, alchemy: SQLAlchemyPlugin, granite_first: bool
) -> None:
    @post("/papers")
    async def create(data: MultipartBody[NewPaper], db_session: NamedDependency[AsyncSession]) -> dict[str, Any]:
        paper = Paper(title=data.title, file=data.file)
        db_session.add(paper)
        await db_session.commit()
        return {"id": paper.id, "file": paper.file}

    config = GraniteConfig(manager, gc=None, downloads=[FileRoute("/papers/{id:int}/file", Paper.file, public=True)])
    plugins: list[Any] = [GranitePlugin(config), alchemy]
    with TestClient(Litestar([create], plugins=plugins if granite_first else plugins[::-1])) as client:
        made = client.post("/papers", data={"title": "t"}, files={"file": ("a.txt", b"hello")}).json()
        assert made["file"].keys() == {"filename", "size", "content_type", "checksum", "id"}
        assert client.get(f"/papers/{made['id']}/file").content == b"hello"


@pytest.mark.parametrize("granite_first", [True, False])
def test_the_collector_lives_as_long_as_the_application(
    manager: StorageManager, alchemy: SQLAlchemyPlugin, granite_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    quick = timedelta(milliseconds=50)
    manager = StorageManager(manager.backends, manager.policies, grace=timedelta(seconds=6))
    granite = GranitePlugin(
        GraniteConfig(manager, gc=GCConfig(sweep_every=quick, reconcile_every=quick), models=[Base])
    )

    @post("/replace")
    async def replace(db_session: NamedDependency[AsyncSession], files: NamedDependency[AsyncStorageManager]) -> None:
        paper = Paper(file=await files.put_bytes("papers", content=b"old"))
        db_session.add(paper)
        await db_session.commit()
        paper.file = await files.put_bytes("papers", content=b"new")
        await db_session.commit()
        await files.put_bytes("papers", content=b"attached to nothing")

    plugins: list[Any] = [granite, alchemy] if granite_first else [alchemy, granite]
    with TestClient(Litestar([replace], plugins=plugins)) as client:
        client.post("/replace").raise_for_status()
        backend = manager.get_backend("main")
        assert granite.runner is not None
        deadline = time.monotonic() + 30
        while len([*backend.iter_locations("_/")]) > 1 and time.monotonic() < deadline:
            granite.runner.wake()
            threading.Event().wait(0.05)
        [left] = backend.iter_locations("_/")
        assert backend.get(left) == b"new"
    assert not granite.runner.running
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


def test_answers_show_no_storage_key_wherever_a_ref_is_in_them(manager: StorageManager) -> None:
    @get("/")
    async def handler(files: NamedDependency[AsyncStorageManager]) -> Nested:
        return Nested([await files.put_bytes("papers", content=b"x", original_filename="a.txt")])

    with TestClient(Litestar([handler], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])) as client:
        answer = client.get("/")
        [location] = manager.get_backend("main").iter_locations()
        assert answer.json()["refs"][0]["filename"] == "a.txt"
        assert location not in answer.text
        assert "main" not in answer.text


def test_the_application_s_own_encoder_wins(manager: StorageManager) -> None:
    @get("/")
    async def handler(files: NamedDependency[AsyncStorageManager]) -> dict[str, Any]:
        return {"ref": await files.put_bytes("papers", content=b"x")}

    app = Litestar(
        [handler],
        plugins=[GranitePlugin(GraniteConfig(manager, gc=None))],
        type_encoders={StoredObjectRef: lambda ref: ref.size},
    )
    with TestClient(app) as client:
        assert client.get("/").json() == {"ref": 1}


class TestRefusals:
    def refuse(self, *plugins: Any, match: str, **options: Any) -> None:
        with pytest.raises(ConfigurationError, match=match):
            Litestar(plugins=plugins, **options)

    def test_a_field_whose_policy_is_not_there(self, alchemy: SQLAlchemyPlugin) -> None:
        config = GraniteConfig(make_manager(policies=["other"]), gc=None, models=[Base])
        self.refuse(alchemy, GranitePlugin(config), match="paper.file names the policy 'papers'")

    def test_two_plugins(self, manager: StorageManager) -> None:
        config = GraniteConfig(manager, gc=None)
        self.refuse(GranitePlugin(config), GranitePlugin(config), match="twice")

    def test_a_dependency_of_the_same_name(self, manager: StorageManager) -> None:
        taken = {"files": Provide(lambda: 1, sync_to_thread=False)}
        self.refuse(GranitePlugin(GraniteConfig(manager, gc=None)), match="'files' already", dependencies=taken)

    def test_one_name_for_both_managers(self, manager: StorageManager) -> None:
        with pytest.raises(ConfigurationError, match="two names"):
            GraniteConfig(manager, manager_dependency_key="x", async_manager_dependency_key="x")

    def test_the_asynchronous_manager_in_the_synchronous_one_s_place(self, manager: StorageManager) -> None:
        with pytest.raises(ConfigurationError, match="takes a StorageManager"):
            GraniteConfig(AsyncStorageManager(manager))  # type: ignore[arg-type]

    def test_collecting_without_a_database(self, manager: StorageManager) -> None:
        self.refuse(GranitePlugin(GraniteConfig(manager, gc=GCConfig())), match="gc=None")


class Fussy(MemoryStorageBackend):
    """Says at start-up that something is wrong."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def check(self) -> None:
        raise self.error


async def test_a_backend_that_cannot_do_what_it_claims_stops_the_application() -> None:
    manager = StorageManager({"main": Fussy(ConfigurationError("set atomic_create=False"))}, [])
    app = Litestar(plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])
    refusal = pytest.RaisesExc(ConfigurationError, match="atomic_create")
    with pytest.RaisesGroup(refusal, flatten_subgroups=True):  # Litestar runs start-up in a task group
        async with app.lifespan():
            pass


async def test_a_backend_that_is_away_does_not(caplog: pytest.LogCaptureFixture) -> None:
    manager = StorageManager({"main": Fussy(BackendUnavailableError("no answer"))}, [])
    app = Litestar(plugins=[GranitePlugin(GraniteConfig(manager, gc=None))], logging_config=None)
    async with app.lifespan():
        assert "no answer" in caplog.text


def test_a_ref_in_the_schema_is_what_clients_see(manager: StorageManager) -> None:
    @get("/")
    async def handler() -> StoredObjectRef:
        raise NotImplementedError

    app = Litestar([handler], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])
    schema = str(app.openapi_schema.to_schema())
    assert "checksum" in schema
    assert "location" not in schema


def test_a_view_of_a_file_is_public() -> None:
    assert FileView.__struct_fields__ == ("filename", "size", "content_type", "checksum", "id")
