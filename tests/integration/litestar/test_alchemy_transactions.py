"""What ends a request's transaction under advanced-alchemy's plugin: on one database, on several, with a replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from advanced_alchemy.config.routing import RoutingConfig
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar, post
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.testing import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    MemoryStorageBackend,
    StagedFile,
    StaleRefError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    unsaved,
)
from granite_core.gc import GCConfig
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO
from tests.integration.litestar.alchemy_support import QUARTER, Alchemy, Report


class NewReport(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Report.file)]
    end: str = "answer"


@post("/form")
async def create(data: MultipartBody[NewReport], db_session: NamedDependency[AsyncSession]) -> None:
    await db_session.run_sync(lambda session: _create(data, session))


@post("/form", sync_to_thread=True)
def create_in_thread(data: MultipartBody[NewReport], db_session: NamedDependency[Session]) -> None:
    _create(data, db_session)


def _create(data: NewReport, session: Session) -> None:
    """A handler that leaves the commit to the plugin."""
    if data.end == "forget":
        return
    session.add(Report(title=data.title, file=data.file))
    if data.end != "answer":
        session.flush()
    if data.end == "refuse":
        raise HTTPException(status_code=409)


class TestAutocommit:
    @pytest.fixture(params=["sqlite", "aiosqlite", "psycopg", "asyncpg"])
    def alchemy(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Alchemy]:
        urls = {"psycopg": "postgres_url", "asyncpg": "postgres_async_url"}
        database = "sqlite" if request.param == "sqlite" else "sqlite+aiosqlite"
        url = (
            request.getfixturevalue(urls[request.param])
            if request.param in urls
            else f"{database}:///{tmp_path}/db.sqlite3"
        )
        alchemy = Alchemy(url, before_send_handler="autocommit")
        with alchemy.running(create if alchemy.is_async else create_in_thread) as running:
            yield running

    def send(self, alchemy: Alchemy, title: str, end: str = "answer") -> int:
        data = {"title": title, "end": end}
        return alchemy.client.post("/form", data=data, files={"file": b"content"}).status_code

    def test_keeps_what_the_handler_added(self, alchemy: Alchemy) -> None:
        assert self.send(alchemy, "a") == 201
        assert self.send(alchemy, "b", "flush") == 201
        assert len(alchemy.held()) == 2
        assert alchemy.stored() == alchemy.held()

    def test_lets_go_at_once_what_was_not_added(self, alchemy: Alchemy) -> None:
        assert self.send(alchemy, "a", "forget") == 201
        assert alchemy.stored() == set()

    def test_a_commit_that_fails_is_told_to_nobody_and_its_file_is_collected(self, alchemy: Alchemy) -> None:
        """The plugin answers before it knows: hence "flush before you answer"."""
        assert self.send(alchemy, "same") == 201
        assert self.send(alchemy, "same") == 201
        assert len(alchemy.rows()) == 1
        assert len(alchemy.stored()) == 2
        assert {ref.location for ref in alchemy.manager.take_notes()} == alchemy.stored() - alchemy.held()
        alchemy.collect()

    def test_a_flush_that_fails_is_told(self, alchemy: Alchemy) -> None:
        assert self.send(alchemy, "same", "flush") == 201
        assert self.send(alchemy, "same", "flush") >= 400
        assert len(alchemy.rows()) == 1
        alchemy.collect()

    def test_an_answer_that_is_an_error_rolls_back_and_leaves_the_file_to_the_collector(self, alchemy: Alchemy) -> None:
        assert self.send(alchemy, "a", "refuse") == 409
        assert alchemy.rows() == []
        assert len(alchemy.stored()) == 1
        alchemy.collect()

    def test_a_file_that_is_too_old_keeps_its_row_from_being_committed(self, alchemy: Alchemy) -> None:
        """Told where it is flushed; swallowed, like any other error of COMMIT, where it is not."""
        old = alchemy.old()

        async def unflushed(service: Any) -> None:
            service.repository.session.add(Report(title="unflushed", file=old))

        async def flushed(service: Any) -> None:
            await service.create({"title": "flushed", "file": old})

        alchemy.run(unflushed)
        alchemy.run(flushed, status=409)
        assert alchemy.rows() == []


class Home(DeclarativeBase):
    pass


class Away(DeclarativeBase):
    pass


class Third(DeclarativeBase):
    pass


class Letter(Home):
    __tablename__ = "letter"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("files")


class Parcel(Away):
    __tablename__ = "parcel"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("files")


class Invoice(Third):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("files")


@post("/letters")
async def write_letters(home: NamedDependency[AsyncSession], away: NamedDependency[AsyncSession]) -> None:
    letter, parcel = Letter(id=1, file=unsaved(b"old letter")), Parcel(id=1, file=unsaved(b"old parcel"))
    home.add(letter)
    away.add(parcel)
    await home.commit()
    await away.commit()
    shared = letter.file
    letter.file, parcel.file = unsaved(b"letter"), unsaved(b"parcel")
    away.add(Parcel(id=2, file=shared))  # fresh: it may be in two databases
    await away.commit()
    await home.commit()


@post("/invoices", sync_to_thread=True)
def write_invoices(third: NamedDependency[Session], storage: NamedDependency[StorageManager]) -> None:
    invoice = Invoice(id=1, file=unsaved(b"old invoice"))
    third.add(invoice)
    third.commit()
    invoice.file = unsaved(b"invoice")
    third.commit()
    third.execute(sa.insert(Invoice).values(id=2, file=unsaved(b"bulk")))
    third.execute(sa.delete(Invoice).where(Invoice.id == 2))
    third.commit()
    storage.put_bytes("files", content=b"in no row")


def test_several_databases_of_both_colours_share_one_store(postgres_async_url: str, tmp_path: Path) -> None:
    grace = timedelta(seconds=12)
    store = MemoryStorageBackend()
    manager = StorageManager({"main": store}, [StoragePolicy("files", "main")], grace=grace)
    session = AsyncSessionConfig(expire_on_commit=False)

    def config(name: str, base: Any, url: str) -> SQLAlchemyAsyncConfig:
        return SQLAlchemyAsyncConfig(
            connection_string=url,
            metadata=base.metadata,
            bind_key=name,
            session_dependency_key=name,
            engine_dependency_key=f"{name}_engine",
            session_config=session,
            create_all=True,
        )

    alchemy = SQLAlchemyPlugin(
        [
            config("home", Home, f"sqlite+aiosqlite:///{tmp_path}/home.sqlite3"),
            config("away", Away, postgres_async_url),
            SQLAlchemySyncConfig(
                connection_string=f"sqlite:///{tmp_path}/third.sqlite3",
                metadata=Third.metadata,
                bind_key="third",
                session_dependency_key="third",
                engine_dependency_key="third_engine",
                create_all=True,
            ),
        ]
    )
    routes = {"/letters": Letter.file, "/parcels": Parcel.file, "/invoices": Invoice.file}
    downloads = [FileRoute(f"{path}/{{id:int}}/file", field, public=True) for path, field in routes.items()]
    quick = timedelta(milliseconds=200)
    gc = GCConfig(sweep_every=quick, reconcile_every=quick)
    granite = GranitePlugin(GraniteConfig(manager, downloads=downloads, gc=gc))
    with TestClient(Litestar([write_letters, write_invoices], plugins=[granite, alchemy])) as client:
        client.post("/letters").raise_for_status()
        client.post("/invoices").raise_for_status()
        live = {b"letter", b"parcel", b"old letter", b"invoice"}

        def stored() -> set[bytes]:
            return {store.get(each) for each in store.iter_locations() if not each.startswith(".granite/")}

        assert stored() > live
        assert granite.runner is not None
        deadline = time.monotonic() + 90
        while stored() != live and time.monotonic() < deadline:
            granite.runner.wake()
            threading.Event().wait(0.2)
        assert stored() == live
        for path in ("/letters/1/file", "/parcels/1/file", "/parcels/2/file", "/invoices/1/file"):
            assert client.get(path).content in live


@pytest.mark.parametrize("sticky", [True, False])
def test_whether_a_row_holds_a_file_is_asked_of_the_primary(tmp_path: Path, *, sticky: bool) -> None:
    """A replica that lags still shows a row that is gone, and does not show one that is there."""
    primary, replica = (f"sqlite:///{tmp_path}/{name}.sqlite3" for name in ("primary", "replica"))
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("files", "main")])
    manager.register(Home)
    gone, held = (manager.put_bytes("files", content=each) for each in (b"gone", b"held"))
    for url, file in ((replica, gone), (primary, held)):
        engine = sa.create_engine(url)
        Home.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(Letter(id=1, file=file))
            session.commit()
        engine.dispose()
    now = manager.now
    later = StorageManager(manager.backends, manager.policies, now=lambda: now() + QUARTER)
    later.register(Home)

    routing = RoutingConfig(primary_connection_string=primary, read_replicas=[replica], sticky_after_write=sticky)
    config = SQLAlchemySyncConfig(routing_config=routing, metadata=Home.metadata, bind_key="routed")
    try:
        with config.get_session() as session:
            assert session.scalars(sa.select(Letter.file)).one() == gone  # reads go to the replica
            session.rollback()
            session.execute(sa.insert(Letter).values(id=2, file=StoredObjectRef.from_dict(held.to_dict())))
            session.commit()
            session.add(Letter(id=3, file=StoredObjectRef.from_dict(held.to_dict())))
            session.commit()
            for write in (
                lambda: session.execute(sa.insert(Letter).values(id=4, file=StoredObjectRef.from_dict(gone.to_dict()))),
                lambda: (session.add(Letter(id=4, file=StoredObjectRef.from_dict(gone.to_dict()))), session.flush()),
            ):
                with pytest.raises(StaleRefError):
                    write()
                session.rollback()
    finally:
        config.get_engine().dispose()
