"""A system to operate on: a database, stores, and ``litestar granite …`` run inside this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from litestar.cli.main import litestar_group
from sqlalchemy import Engine, create_engine, select, update
from sqlalchemy.orm import Session

from granite_core import StorageManager, StoredObjectRef
from granite_core.integrations.sqlalchemy import GraniteTables, db_now, tables_of
from tests.support.operated_app import Base, Document, make_manager
from tests.support.s3 import S3Server

APP = "tests.support.operated_app:create_app"


class System:
    """What is operated on, seen from beside the command line."""

    def __init__(self, engine: Engine, manager: StorageManager) -> None:
        self.engine = engine
        self.manager = manager
        manager.register(Base)
        tables = tables_of(Base.metadata)
        assert tables is not None
        self.tables: GraniteTables = tables

    def run(self, *arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 - click's name for it
        """Run a command; what it printed is in the result."""
        litestar_group._prepare_done = False  # type: ignore[attr-defined]  # it looks for plugins once in a process
        return CliRunner().invoke(litestar_group, ["--app", APP, "granite", *arguments], input=input)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json`` and return what it printed."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return json.loads(result.stdout)

    @contextmanager
    def session(self) -> Iterator[Session]:
        with Session(self.engine) as session:
            yield session

    def keep(self, content: bytes = b"content", *, pages: tuple[bytes, ...] = ()) -> Document:
        """A committed row that holds files."""
        with Session(self.engine, expire_on_commit=False) as session:
            document = Document(file=self.manager.put_bytes("documents", content=content))
            document.pages = [self.manager.put_bytes("pages", content=each) for each in pages]
            session.add(document)
            session.commit()
            return document

    def file_of(self, document: Document) -> StoredObjectRef | None:
        with self.session() as session:
            return session.scalar(select(Document.file).where(Document.id == document.id))

    def clear(self, document: Document) -> StoredObjectRef:
        """Let a row's file go."""
        with self.session() as session:
            found = session.get_one(Document, document.id)
            ref, found.file = found.file, None
            session.commit()
            assert ref is not None
            return ref

    def let_time_pass(self) -> None:
        t = self.tables.tombstone
        with self.engine.begin() as connection:
            connection.execute(update(t).values(written_at=1, retry_at=0))

    def hold_lease(self, name: str, *, seconds: float = 60) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                self.tables.state.insert().values(
                    name=f"lease:{name}", holder="another:1", expires_at=db_now() + int(seconds * 1000)
                )
            )

    def let_lease_end(self, name: str, *, in_seconds: float) -> None:
        t = self.tables.state
        with self.engine.begin() as connection:
            soon = db_now() + int(in_seconds * 1000)
            connection.execute(update(t).where(t.c.name == f"lease:{name}").values(expires_at=soon))

    def tombstones(self) -> set[str]:
        with self.engine.connect() as connection:
            return set(connection.scalars(select(self.tables.tombstone.c.location)))

    def stored(self, backend: str = "main") -> set[str]:
        return set(self.manager.get_backend(backend).iter_locations())


@contextmanager
def operated(
    monkeypatch: pytest.MonkeyPatch, database: str, plain: str, stores: dict[str, str], **environment: str
) -> Iterator[System]:
    """A fresh system.

    Args:
        database: URL the application uses.
        plain: URL of the same database for a synchronous driver.
        stores: Storage URLs by backend key.
    """
    monkeypatch.setenv("OPERATED_DATABASE", database)
    monkeypatch.setenv("OPERATED_STORES", json.dumps(stores))
    monkeypatch.setenv("LITESTAR_APP", APP)  # Litestar sets it otherwise, for good
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    engine = create_engine(plain)
    Base.metadata.create_all(engine)
    system = System(engine, make_manager())
    try:
        yield system
    finally:
        for backend in system.manager.backends.values():
            backend.close()
        engine.dispose()


@pytest.fixture(params=["sqlite", "aiosqlite", "asyncpg+ministack"])
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    stores = {"main": f"file:{tmp_path}/files", "second": f"file:{tmp_path}/second"}
    if request.param != "asyncpg+ministack":
        driver = "+aiosqlite" if request.param == "aiosqlite" else ""
        path = f"///{tmp_path}/db.sqlite3"
        with operated(monkeypatch, f"sqlite{driver}:{path}", f"sqlite:{path}", stores) as found:
            yield found
        return
    server: S3Server = request.getfixturevalue("ministack")
    make: Callable[..., tuple[Any, str]] = request.getfixturevalue("s3_bucket")
    database = request.getfixturevalue("postgres_database")
    _, bucket = make(server)
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    stores["main"] = f"s3://{bucket}/main?endpoint_url={server.endpoint}&region={server.region}"
    with operated(monkeypatch, database.async_url, database.sync_url, stores, **keys) as found:
        yield found


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    path = f"///{tmp_path}/db.sqlite3"
    stores = {"main": f"file:{tmp_path}/files", "second": f"file:{tmp_path}/second"}
    with operated(monkeypatch, f"sqlite+aiosqlite:{path}", f"sqlite:{path}", stores) as found:
        yield found
