"""Finding and deleting what no row points at: the full comparison, and the routine sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, delete, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import Capability, MemoryStorageBackend, ObjectStat, StorageManager, StoragePolicy
from granite_core import StoredObjectRef as Ref
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, db_now, file_field, tables_of
from granite_core.integrations.sqlalchemy.references import ref_location
from tests.benchmarks.content import MIB
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.worker import Task, Work
from tests.support.broker import ask
from tests.support.parts import why_missing

ORPHAN_EVERY = 100
NOW = datetime(2026, 1, 2, tzinfo=UTC)
DATABASE = "granite_benchmark"


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    file: Mapped[Ref | None] = file_field("documents")


def key(number: int) -> str:
    return f"documents/_/{number:026d}.pdf"


def ref(number: int) -> dict[str, Any]:
    return {
        "storage_key": "documents",
        "backend": "main",
        "location": key(number),
        "size": 100,
        "checksum": f"sha256:{number:064x}",
        "content_type": "application/pdf",
        "original_filename": f"Report {number}.pdf",
        "created_at": "2026-01-02T03:04:05.678901Z",
        "extra": None,
    }


class Listed(MemoryStorageBackend):
    """A store of so many objects, made up while it is listed: what is measured is the comparison.

    It names them by their keys alone, as folders do, and as the alternative's store does here.
    """

    capabilities = MemoryStorageBackend.capabilities | {Capability.KEY_LISTING}

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def list_keys(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[str]:
        first = int(start_after[-30:-4]) + 1 if start_after else 0
        return (key(number) for number in range(first, self.count))

    def stat(self, location: str) -> ObjectStat:
        return ObjectStat(location, 100, NOW)


# ---------------------------------------------------------------------------------------------------------- database
def fill(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Rows for all objects but one in a hundred, with the index a file field brings."""
    url = _postgres_url() if values["on"] == "PostgreSQL" else f"sqlite:///{folder}/documents.sqlite3"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    numbers = (number for number in range(values["objects"]) if number % ORPHAN_EVERY)
    with engine.begin() as connection:
        table = Document.__table__
        for index in table.indexes:
            index.drop(connection)
        if engine.dialect.name == "sqlite":
            statement = "INSERT INTO document (id, title, file) VALUES (?, ?, ?)"
            cursor = connection.connection.cursor()
            cursor.executemany(statement, ((each, f"Document {each}", json.dumps(ref(each))) for each in numbers))
        else:
            driver = connection.connection.driver_connection
            with driver.cursor().copy("COPY document (id, title, file) FROM STDIN") as copy:
                for each in numbers:
                    copy.write_row((each, f"Document {each}", json.dumps(ref(each))))
        for index in table.indexes:
            index.create(connection)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()
    return {"url": url}


def _postgres_url() -> str:
    server = ask("postgres")
    engine = create_engine(server.url("postgres", driver="psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {DATABASE}"))
    engine.dispose()
    found: str = server.url(DATABASE, driver="psycopg")
    return found


def _without_tombstones(engine: Engine) -> None:
    tables = tables_of(Base.metadata)
    assert tables is not None
    with engine.begin() as connection:
        connection.execute(delete(tables.tombstone))


# --------------------------------------------------------------------------------------------------------- reconcile
@contextmanager
def granite_reconcile(task: Task) -> Iterator[Work]:
    engine = create_engine(task["url"])
    manager = StorageManager({"main": Listed(task["objects"])}, [StoragePolicy("documents", "main")])
    collector = Collector(manager, SQLAlchemyLedger([engine], Base.metadata))
    reports: list[Any] = []

    def run() -> int:
        reports[:] = [collector.reconcile()]
        return int(reports[0].listed)

    def check() -> None:
        found = reports[0]
        assert (found.listed, found.noted) == (task["objects"], task["objects"] // ORPHAN_EVERY), found

    yield Work(run, prepare=partial(_without_tombstones, engine), check=check)
    engine.dispose()


@contextmanager
def granite_storage_collect(task: Task) -> Iterator[Work]:
    from granite_storage import StorageManager as TheirManager
    from granite_storage import StoragePolicy as TheirPolicy
    from granite_storage import StoredObjectRefType
    from granite_storage.gc import StorageGarbageCollector
    from granite_storage.integrations.sqlalchemy import iter_model_storage_refs

    class TheirBase(DeclarativeBase):
        pass

    class TheirDocument(TheirBase):
        __tablename__ = "document"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        file: Mapped[Any] = mapped_column(StoredObjectRefType())

    class Store:
        backend_name = "main"

        def iter_locations(self, prefix: str | None = None) -> Iterator[str]:
            return (key(number) for number in range(task["objects"]))

        def delete(self, ref: Any) -> None:
            """There is nothing."""

    engine = create_engine(task["url"])
    manager = TheirManager({"main": Store()}, {"documents": TheirPolicy("documents", "main")})  # type: ignore[dict-item]
    reports: list[Any] = []

    def run() -> int:
        with Session(engine) as session:
            references = partial(iter_model_storage_refs, session, TheirDocument, "file")
            collector = StorageGarbageCollector(manager, iter_references=references)
            reports[:] = [collector.collect(storage_key="documents", dry_run=False)]
        return int(reports[0].scanned)

    def check() -> None:
        assert reports[0].deleted == task["objects"] // ORPHAN_EVERY, reports[0]

    yield Work(run, check=check)
    engine.dispose()


@contextmanager
def merge_join(task: Task) -> Iterator[Work]:
    """Both sides in order, side by side: the least a comparison can be. What is found is written to a table."""
    engine = create_engine(task["url"])
    location = "(file ->> 'location') COLLATE \"C\""
    if engine.dialect.name == "sqlite":
        location = "json_extract(file, '$.location')"
    query = text(f"SELECT {location} AS location FROM document WHERE {location} IS NOT NULL ORDER BY 1")
    orphans: list[str] = []

    def run() -> int:
        orphans.clear()
        count = 0
        with engine.connect() as connection:
            held = connection.execution_options(yield_per=1000).execute(query).scalars()
            last = next(held, None)
            for number in range(task["objects"]):
                count += 1
                each = key(number)
                while last is not None and last < each:
                    last = next(held, None)
                if last != each:
                    orphans.append(each)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS note (location VARCHAR)"))
            connection.execute(text("DELETE FROM note"))
            connection.execute(text("INSERT INTO note VALUES (:location)"), [{"location": each} for each in orphans])
        return count

    def check() -> None:
        assert len(orphans) == task["objects"] // ORPHAN_EVERY, len(orphans)

    yield Work(run, check=check)
    engine.dispose()


def reconcile(objects: int, on: str, *, rounds: int) -> Case:
    missing = why_missing("postgres") if on == "PostgreSQL" else None
    return Case(
        "collection",
        f"reconcile of {objects:,} objects, 1 in {ORPHAN_EVERY} of them garbage, {on}",
        [
            Contender("merge join", merge_join, kind="floor", missing=missing),
            Contender("granite", granite_reconcile, kind="ours", missing=missing),
            Contender(
                "granite-storage", granite_storage_collect, needs=("granite_storage",), missing=missing, note="no grace"
            ),
        ],
        baseline="merge join",
        values={"objects": objects, "on": on},
        rounds=rounds,
        unit="object",
        set_up=None if missing else fill,
        room=objects * 1500,
        goals=[
            Goal("granite", 0.1 if on == "SQLite" else 0.5, to="granite-storage"),
            Goal("granite", 32 * MIB, metric="memory"),
        ],
    )


# ------------------------------------------------------------------------------------------------------------- sweep
def _bury(engine: Engine, backend: MemoryStorageBackend, count: int) -> None:
    """So many objects that nobody holds, each with a tombstone that is due."""
    _without_tombstones(engine)
    tables = tables_of(Base.metadata)
    assert tables is not None
    old = 3 * 3600 * 1000
    with engine.begin() as connection:
        now = connection.execute(db_now().select()).scalar_one()
        rows = [
            {"location": key(number * ORPHAN_EVERY), "backend": "main", "storage_key": "documents"}
            for number in range(count)
        ]
        connection.execute(insert(tables.tombstone).values(written_at=now - old), rows)
    for each in rows:
        if not backend.exists(each["location"]):
            backend.put_bytes(each["location"], b"x")


@contextmanager
def granite_sweep(task: Task) -> Iterator[Work]:
    engine, backend = create_engine(task["url"]), MemoryStorageBackend()
    manager = StorageManager({"main": backend}, [StoragePolicy("documents", "main")])
    collector = Collector(manager, SQLAlchemyLedger([engine], Base.metadata))
    reports: list[Any] = []

    def run() -> int:
        reports[:] = [collector.sweep()]
        return int(reports[0].examined)

    def check() -> None:
        assert (reports[0].deleted, list(backend.iter_locations())) == (task["garbage"], []), reports[0]

    yield Work(run, prepare=partial(_bury, engine, backend, task["garbage"]), check=check)
    engine.dispose()


@contextmanager
def ledger(task: Task) -> Iterator[Work]:
    """The same, in as few statements as there can be, trusting everybody."""
    engine, backend = create_engine(task["url"]), MemoryStorageBackend()
    due = text("SELECT id, location FROM granite_tombstone WHERE written_at < :until ORDER BY id LIMIT 1000")
    location = ref_location(Document.file)
    done = [0]

    def run() -> int:
        done[0] = 0
        with engine.connect() as connection:
            until = connection.execute(db_now().select()).scalar_one() - 2 * 3600 * 1000
            while batch := connection.execute(due, {"until": until}).all():
                found = [each for _, each in batch]
                held = set(connection.execute(select(location).where(location.in_(found))).scalars())
                for each in found:
                    if each not in held:
                        backend.delete(each)
                marks = ", ".join(str(int(number)) for number, _ in batch)
                connection.execute(text(f"DELETE FROM granite_tombstone WHERE id IN ({marks})"))
                connection.commit()
                done[0] += len(batch)
        return done[0]

    def check() -> None:
        assert (done[0], list(backend.iter_locations())) == (task["garbage"], [])

    yield Work(run, prepare=partial(_bury, engine, backend, task["garbage"]), check=check)
    engine.dispose()


def sweep(garbage: int, live: int, on: str, *, rounds: int) -> Case:
    missing = why_missing("postgres") if on == "PostgreSQL" else None
    return Case(
        "collection",
        f"sweep of {garbage:,} objects beside {live:,} others, {on}",
        [
            Contender("bare statements", ledger, kind="floor", missing=missing),
            Contender("granite", granite_sweep, kind="ours", missing=missing),
        ],
        baseline="bare statements",
        values={"objects": live, "garbage": garbage, "on": on},
        rounds=rounds,
        unit="object",
        set_up=None if missing else fill,
        room=live * 1500,
    )


def cases(*, quick: bool) -> list[Case]:
    databases: Sequence[str] = ("SQLite", "PostgreSQL")
    if quick:
        return [
            *(reconcile(2000, on, rounds=1) for on in databases),
            sweep(300, 1000, "SQLite", rounds=1),
        ]
    return [
        *(reconcile(1_000_000, on, rounds=3) for on in databases),
        *(sweep(10_000, 1_000_000, on, rounds=5) for on in databases),
    ]


__all__ = ["cases"]
