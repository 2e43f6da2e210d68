"""Loading rows that hold a ref, beside rows whose column is plain text: what the column type costs.

Most of what differs is Python's garbage collector, which goes through every object of a process now and then. So the
floors stand for the same application with another column: they import what ours does, since a full collection costs
what the process holds. And no round is decided by a collection that one column's objects are just enough to start, and
another's are not: rows are loaded several times in a round, with nothing collected by hand between. Whom we are
compared with imports what it imports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Dialect, Engine, Integer, MetaData, String, Table, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from tests.benchmarks.content import MIB
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.worker import Task, Work

STORED = {
    "granite": lambda number: {
        "storage_key": "documents",
        "backend": "main",
        "location": f"documents/_/{number:026d}.pdf",
        "size": 123456 + number,
        "checksum": f"sha256:{number:064x}",
        "content_type": "application/pdf",
        "original_filename": f"Report {number}.pdf",
        "created_at": "2026-01-02T03:04:05.678901Z",
        "extra": None,
    },
    "advanced-alchemy": lambda number: {
        "filename": f"{number:032d}.pdf",
        "content_type": "application/pdf",
        "size": 123456 + number,
        "last_modified": 1767323045.678901,
        "checksum": None,
        "etag": f"{number:032x}",
        "version_id": None,
        "metadata": {},
        "backend": "main",
    },
    "sqlalchemy-file": lambda number: {
        "content_path": None,
        "filename": f"Report {number}.pdf",
        "content_type": "application/pdf",
        "size": 123456 + number,
        "files": [f"main/{number:032d}"],
        "extra": {
            "content_type": "application/pdf",
            "meta_data": {"filename": f"Report {number}.pdf", "content_type": "application/pdf"},
        },
        "file_id": f"{number:032d}",
        "upload_storage": "main",
        "uploaded_at": "2026-01-02T03:04:05.678901",
        "path": f"main/{number:032d}",
        "url": f"/srv/files/{number:032d}",
        "saved": True,
    },
}
"""What each library writes into its column for one file."""

Probe = Callable[[Any], object]


def plain_string() -> tuple[TypeEngine[Any], Probe]:
    return String(), lambda value: json.loads(value)["size"]


def plain_json() -> tuple[TypeEngine[Any], Probe]:
    return JSON(), lambda value: value["size"]


def struct() -> tuple[TypeEngine[Any], Probe]:
    """The least that makes an object of a ref: text read straight into a msgspec Struct."""
    import msgspec

    kind = msgspec.defstruct(
        "Ref",
        [
            *((name, str) for name in ("storage_key", "backend", "location")),
            ("size", int),
            ("checksum", str),
            *((name, str | None) for name in ("content_type", "original_filename", "created_at")),
            ("extra", dict[str, Any] | None),
        ],
        frozen=True,
    )
    decode = msgspec.json.Decoder(kind).decode

    class StructType(TypeDecorator[Any]):
        impl = String
        cache_ok = True

        def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
            return lambda value: None if value is None else decode(value)

    return StructType(), lambda value: value.size


def one_slot() -> tuple[TypeEngine[Any], Probe]:
    """The least object of Python's own that could stand for a ref: one slot, for the text as it came."""

    class Slot:
        __slots__ = ("text",)
        text: str

    make, put = object.__new__, vars(Slot)["text"].__set__

    def process(value: Any) -> Any:
        if value is None:
            return None
        slot = make(Slot)
        put(slot, value)
        return slot

    class SlotType(TypeDecorator[Any]):
        impl = String
        cache_ok = True

        def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
            return process

    return SlotType(), lambda value: json.loads(value.text)["size"]


def granite() -> tuple[TypeEngine[Any], Probe]:
    from granite_core.integrations.sqlalchemy import StoredObjectRefType

    return StoredObjectRefType("documents"), lambda value: value.size


def granite_storage() -> tuple[TypeEngine[Any], Probe]:
    from granite_storage import StoredObjectRefType

    return StoredObjectRefType(), lambda value: value.size


def advanced_alchemy() -> tuple[TypeEngine[Any], Probe]:
    from advanced_alchemy.types.file_object import StoredObject, storages
    from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend

    storages.register_backend(ObstoreBackend(key="main", fs="memory:///"))
    return StoredObject(backend="main"), lambda value: value.size


def sqlalchemy_file() -> tuple[TypeEngine[Any], Probe]:
    from sqlalchemy_file import FileField

    return FileField(upload_storage="main"), lambda value: value["size"]


def fill(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """One database for each way to write a ref."""
    urls = {}
    for name, make in STORED.items():
        urls[name] = f"sqlite:///{folder}/{name}.sqlite3"
        engine = create_engine(urls[name])
        table = Table("document", MetaData(), Column("id", Integer, primary_key=True), *_columns(String()))
        with engine.begin() as connection:
            table.create(connection)
            for start in range(0, values["rows"], 1000):
                rows = range(start, min(start + 1000, values["rows"]))
                found = [{"title": f"Document {each}", "file": json.dumps(make(each))} for each in rows]
                connection.execute(insert(table), found)
        engine.dispose()
    return {"urls": urls}


def _columns(kind: TypeEngine[Any]) -> tuple[Column[Any], ...]:
    return Column("title", String), Column("file", kind)


@contextmanager
def loading(
    task: Task, column: Callable[[], tuple[TypeEngine[Any], Probe]], stored: str, *, beside_ours: bool
) -> Iterator[Work]:
    if beside_ours:
        granite()
    column_type, probe = column()

    class Base(DeclarativeBase):
        pass

    class Document(Base):
        __tablename__ = "document"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        file: Mapped[Any] = mapped_column(column_type)

    engine: Engine = create_engine(task["urls"][stored])

    def run() -> int:
        count = 0
        with Session(engine) as session:
            query = select(Document)
            if task["streamed"]:
                query = query.execution_options(yield_per=1000)
            for _ in session.scalars(query):
                count += 1
        return count

    def check() -> None:
        with Session(engine) as session:
            documents = session.scalars(select(Document).order_by(Document.id)).all()
            assert [probe(each.file) for each in documents] == [123456 + each for each in range(task["rows"])]

    yield Work(run, warm_up=run, check=check)
    engine.dispose()


def case(rows: int, *, rounds: int, streamed: bool, repeat: int = 1) -> Case:
    def contender(name: str, column: Any, stored: str = "granite", **options: Any) -> Contender:
        beside_ours = options.get("kind") == "floor"
        return Contender(name, partial(loading, column=column, stored=stored, beside_ours=beside_ours), **options)

    return Case(
        "row loading",
        f"{rows:,} rows with a ref, {'1,000 at a time' if streamed else 'all at once'}, SQLite",
        [
            contender("plain String", plain_string, kind="floor", note="the same text, not read"),
            contender("plain JSON", plain_json, kind="floor", note="a dict"),
            contender("msgspec Struct", struct, kind="floor", note="read at once"),
            contender("one slot", one_slot, kind="floor", note="an object that holds the text, not read"),
            contender("granite", granite, kind="ours"),
            contender("granite-storage", granite_storage, needs=("granite_storage",)),
            contender("advanced-alchemy", advanced_alchemy, "advanced-alchemy", needs=("obstore",)),
            contender("sqlalchemy-file", sqlalchemy_file, "sqlalchemy-file", needs=("sqlalchemy_file",)),
        ],
        baseline="plain String",
        values={"rows": rows, "streamed": streamed},
        rounds=rounds,
        repeat=repeat,
        unit="row",
        set_up=fill,
        room=256 * MIB,
        goals=[Goal("granite", 1.2)],
    )


def cases(*, quick: bool) -> list[Case]:
    if quick:
        return [case(200, rounds=1, streamed=False)]
    return [case(20_000, rounds=9, repeat=6, streamed=False), case(100_000, rounds=7, repeat=2, streamed=True)]


__all__ = ["cases"]
