"""Writing rows that hold a file: content and row together, and what a ref adds to inserts, updates and deletes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import JSON, create_engine, event, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from granite_core import LocalStorageBackend, MemoryStorageBackend, StorageManager, StoragePolicy, unsaved
from tests.benchmarks.content import KIB, MIB, clean, with_source
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.worker import Task, Work


def _document(column: Any) -> Any:
    """A model with a file, declared as each library has it."""

    class Base(DeclarativeBase):
        pass

    class Document(Base):
        __tablename__ = "document"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        file: Mapped[Any] = column

    return Document


def _engine(folder: Path) -> Any:
    engine = create_engine(f"sqlite:///{folder}/rows.sqlite3")

    @event.listens_for(engine, "connect")
    def quickly(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # the disk is nobody's subject here

    return engine


# ------------------------------------------------------------------------------------------------ content and its row
Attach = Callable[[bytes, int], None]
Read = Callable[[Any], bytes]


def plain(store: Path, engine: Any) -> tuple[Any, Attach, Read]:
    """A file, hashed and renamed, and a row of plain JSON: the least there is to do."""
    document = _document(mapped_column(JSON))

    def attach(content: bytes, number: int) -> None:
        path = str(store / uuid4().hex)
        with open(f"{path}.tmp", "xb", buffering=0) as file:
            file.write(content)
        os.rename(f"{path}.tmp", path)
        ref = {"path": path, "size": len(content), "checksum": hashlib.sha256(content).hexdigest()}
        with Session(engine) as session:
            session.add(document(title=f"Document {number}", file=ref))
            session.commit()

    return document, attach, lambda row: Path(row.file["path"]).read_bytes()


def granite(store: Path, engine: Any, *, staged: bool) -> tuple[Any, Attach, Read]:
    from granite_core.integrations.sqlalchemy import file_field

    document = _document(file_field("files"))
    manager = StorageManager({"main": LocalStorageBackend(store, durable=False)}, [StoragePolicy("files", "main")])
    manager.register(document)

    def attach(content: bytes, number: int) -> None:
        file: Any
        if staged:
            file = manager.put_bytes("files", content=content, original_filename="a.jpg")
        else:
            file = unsaved(content, filename="a.jpg")
        with Session(engine) as session:
            session.add(document(title=f"Document {number}", file=file))
            session.commit()

    return document, attach, lambda row: manager.get(row.file)


def granite_storage(store: Path, engine: Any) -> tuple[Any, Attach, Read]:
    from granite_storage import StorageManager as TheirManager
    from granite_storage import StoragePolicy as TheirPolicy
    from granite_storage import StoredContentMixin, StoredObjectRefType
    from granite_storage.backends.local import LocalStorageBackend as TheirBackend

    class Base(DeclarativeBase):
        pass

    class Document(StoredContentMixin, Base):
        __tablename__ = "document"
        __stored_content_field_name__ = "file"
        __stored_content_storage_key__ = "files"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        file: Mapped[Any] = mapped_column(StoredObjectRefType(), nullable=True)

    manager = TheirManager({"main": TheirBackend(store)}, {"files": TheirPolicy("files", "main")})
    Document.configure_storage_manager(manager)

    def attach(content: bytes, number: int) -> None:
        with Session(engine) as session:
            document = Document(title=f"Document {number}")
            session.add(document)
            session.flush()  # it wants the id first
            document.set_content(content, filename="a.jpg")
            session.commit()

    return Document, attach, lambda row: manager.get(row.file)


def sqlalchemy_file(store: Path, engine: Any) -> tuple[Any, Attach, Read]:
    from libcloud.storage.drivers.local import LocalStorageDriver
    from sqlalchemy_file import File, FileField
    from sqlalchemy_file.storage import StorageManager as TheirManager

    (store / "files").mkdir()
    TheirManager.add_storage("files", LocalStorageDriver(str(store)).get_container("files"))
    document = _document(mapped_column(FileField(upload_storage="files")))

    def attach(content: bytes, number: int) -> None:
        with Session(engine) as session:
            session.add(document(title=f"Document {number}", file=File(content=content, filename="a.jpg")))
            session.commit()

    return document, attach, lambda row: row.file.file.read()


def advanced_alchemy(store: Path, engine: Any) -> tuple[Any, Attach, Read]:
    from advanced_alchemy.config import SQLAlchemySyncConfig
    from advanced_alchemy.types.file_object import FileObject, StoredObject, storages
    from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend

    storages.register_backend(ObstoreBackend(key="files", fs=f"file://{store}/"))
    document = _document(mapped_column(StoredObject(backend="files")))
    config = SQLAlchemySyncConfig(engine_instance=engine)

    def attach(content: bytes, number: int) -> None:
        with config.get_session() as session:
            file = FileObject(backend="files", filename=f"{uuid4().hex}.jpg", content=content)
            session.add(document(title=f"Document {number}", file=file))
            session.commit()

    return document, attach, lambda row: row.file.get_content()


@contextmanager
def attaching(task: Task, make: Callable[[Path, Any], tuple[Any, Attach, Read]]) -> Iterator[Work]:
    store = task.folder / "store"
    store.mkdir()
    engine = _engine(task.folder)
    document, attach, read = make(store, engine)
    document.metadata.create_all(engine)
    content = Path(task["source"]).read_bytes()

    def prepare() -> None:
        clean(store)
        with engine.begin() as connection:
            for table in document.metadata.sorted_tables:
                if not table.name.endswith(("_column", "_state")):
                    connection.execute(table.delete())

    def run() -> int:
        for number in range(task["rows"]):
            attach(content, number)
        return int(task["rows"])

    def check() -> None:
        with Session(engine) as session:
            rows = session.scalars(select(document)).all()
            assert len(rows) == task["rows"], len(rows)
            for row in rows:
                assert hashlib.sha256(read(row)).hexdigest() == task["sha256"]

    yield Work(run, warm_up=lambda: attach(content, 0), prepare=prepare, check=check)
    engine.dispose()


def attach_case(rows: int, *, rounds: int) -> Case:
    def contender(name: str, make: Any, **options: Any) -> Contender:
        return Contender(name, partial(attaching, make=make), **options)

    return Case(
        "row writing",
        f"10 KiB and its row, {rows} commits, SQLite and local disk, not durable",
        [
            contender("plain JSON and a file", plain, kind="floor"),
            contender("granite, unsaved", partial(granite, staged=False), kind="ours", note="stored by the flush"),
            contender("granite, staged", partial(granite, staged=True), kind="ours", note="stored before, as forms do"),
            contender("granite-storage", granite_storage, needs=("granite_storage",)),
            contender("sqlalchemy-file", sqlalchemy_file, needs=("sqlalchemy_file",), note="no hash"),
            contender(
                "advanced-alchemy, obstore",
                advanced_alchemy,
                needs=("obstore",),
                note="no hash; stored after the commit",
            ),
        ],
        baseline="plain JSON and a file",
        values={"size": 10 * KIB, "rows": rows},
        rounds=rounds,
        unit="row",
        set_up=with_source,
        room=64 * MIB,
    )


# ------------------------------------------------------------------------------------------------------ rows alone
def _granite_column(count: int) -> tuple[Any, Callable[[], list[Any]]]:
    from granite_core.integrations.sqlalchemy import file_field

    document = _document(file_field("files"))
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("files", "main")])
    manager.register(document)
    return document, lambda: [manager.put_bytes("files", content=b"x") for _ in range(count)]


def _ref(number: int) -> dict[str, Any]:
    return {
        "storage_key": "files",
        "backend": "main",
        "location": f"_/{uuid4().hex}",
        "size": 1,
        "checksum": f"sha256:{number:064x}",
        "content_type": "text/plain",
        "original_filename": None,
        "created_at": "2026-01-02T03:04:05.678901Z",
        "extra": None,
    }


def _json_column(count: int) -> tuple[Any, Callable[[], list[Any]]]:
    return _document(mapped_column(JSON, nullable=True)), lambda: [_ref(number) for number in range(count)]


def _granite_storage_column(count: int) -> tuple[Any, Callable[[], list[Any]]]:
    from granite_storage import StoredObjectRef as TheirRef
    from granite_storage import StoredObjectRefType

    document = _document(mapped_column(StoredObjectRefType(), nullable=True))
    return document, lambda: [TheirRef(**_ref(number)) for number in range(count)]


@contextmanager
def changing(task: Task, column: Callable[[int], tuple[Any, Callable[[], list[Any]]]], verb: str) -> Iterator[Work]:
    count = task["rows"]
    engine = _engine(task.folder)
    document, make = column(count)
    document.metadata.create_all(engine)
    sessions = sessionmaker(engine, expire_on_commit=False)
    fresh: list[Any] = []

    def insert() -> None:
        with sessions() as session:
            session.add_all(document(title=f"Document {number}", file=file) for number, file in enumerate(fresh))
            session.commit()

    def replace() -> None:
        with sessions() as session:
            for row, file in zip(session.scalars(select(document)), fresh, strict=True):
                row.file = file
            session.commit()

    def delete() -> None:
        with sessions() as session:
            for row in session.scalars(select(document)):
                session.delete(row)
            session.commit()

    verbs = {"insert": insert, "replace": replace, "delete": delete}

    def prepare() -> None:
        with engine.begin() as connection:
            connection.execute(document.__table__.delete())
            if "granite_tombstone" in document.metadata.tables:
                connection.execute(text("DELETE FROM granite_tombstone"))
        if verb != "insert":
            fresh[:] = make()
            insert()
        fresh[:] = make()

    def run() -> int:
        verbs[verb]()
        return int(count)

    def check() -> None:
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(document)) == (0 if verb == "delete" else count)
            if "granite_tombstone" in document.metadata.tables:
                left = connection.scalar(text("SELECT count(*) FROM granite_tombstone"))
                assert left == (0 if verb == "insert" else count), left
            stored = {
                json.loads(each)["location"] for each in connection.execute(text("SELECT file FROM document")).scalars()
            }
        if verb != "delete":
            assert stored == {each["location"] if isinstance(each, dict) else each.location for each in fresh}

    prepare()
    yield Work(run, warm_up=run, prepare=prepare, check=check)
    engine.dispose()


def change_case(verb: str, rows: int, goal: float, *, rounds: int) -> Case:
    def contender(name: str, column: Any, **options: Any) -> Contender:
        return Contender(name, partial(changing, column=column, verb=verb), **options)

    return Case(
        "row writing",
        f"{verb} of {rows:,} rows, one commit, SQLite",
        [
            contender("plain JSON", _json_column, kind="floor"),
            contender("granite", _granite_column, kind="ours", note="" if verb == "insert" else "tombstones included"),
            contender("granite-storage", _granite_storage_column, needs=("granite_storage",), note="lets nothing go"),
        ],
        baseline="plain JSON",
        values={"rows": rows},
        rounds=rounds,
        unit="row",
        room=64 * MIB,
        goals=[Goal("granite", goal)],
    )


GOALS: Mapping[str, float] = {"insert": 1.1, "replace": 1.5, "delete": 1.5}


def cases(*, quick: bool) -> list[Case]:
    rows, rounds = (20, 1) if quick else (1000, 9)
    return [
        attach_case(5 if quick else 200, rounds=rounds),
        *(change_case(verb, rows, goal, rounds=rounds) for verb, goal in GOALS.items()),
    ]


__all__ = ["cases"]
