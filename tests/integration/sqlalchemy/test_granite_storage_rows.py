"""Rows that granite-storage 0.1.0 wrote, in the table that it made, are at home here.

``granite_storage_rows.json`` holds what 0.1.0 wrote through a mixin's verbs on each database, read back as text, and
one row as the migration that it shows for text columns makes it. Its manager had the backends ``main`` and ``cold``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    CollectionRefusedError,
    MemoryStorageBackend,
    ObjectNotFoundError,
    StorageManager,
    StoragePolicy,
    StoredContentMixin,
    StoredObjectRef,
    StoredObjectRefType,
)
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, iter_model_storage_refs, tables_of
from tests.integration.sqlalchemy.world import GRACE, World, fix_pysqlite

ROWS = json.loads(Path(__file__).with_name("granite_storage_rows.json").read_text("utf-8"))
CONTENTS = {
    "bytes": b"%PDF-1.7 report",
    "text": "# Grüße\n".encode(),
    "stream": b"a,b\n1,2\n",
    "s3": b"\x89PNG\r\n",
    "no-prefix": b"x",
    "dict": b"x",
}


class Base(DeclarativeBase):
    pass


class Document(StoredContentMixin, Base):
    __tablename__ = "document"
    __stored_content_field_name__ = "_file_ref"
    __stored_content_storage_key__ = "documents"

    id: Mapped[str] = mapped_column(primary_key=True)
    _file_ref: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType(), nullable=True)


class OldWorld(World):
    """A database as 0.1.0 left it, without Granite's tables, and what it had stored."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine, base=Base)
        self.cold = MemoryStorageBackend()
        self.manager = StorageManager(
            {"main": self.store, "cold": self.cold},
            [
                StoragePolicy("documents", "main", key_prefix="docs"),
                StoragePolicy("archive", "cold"),
                StoragePolicy("plain", "main"),
            ],
            grace=GRACE,
            now=self.manager.now,
        )
        self.manager.register(Base)

    def fill(self) -> None:
        old = ROWS[self.engine.dialect.name]
        with self.engine.begin() as connection:
            connection.execute(text(old["table"]))
            into = "CAST(:ref AS JSONB)" if self.engine.dialect.name == "postgresql" else ":ref"
            insert = text(f"INSERT INTO document (id, _file_ref) VALUES (:id, {into})")
            connection.execute(insert, [{"id": id_, "ref": ref} for id_, ref in old["rows"].items()])
        for id_, content in CONTENTS.items():
            location = json.loads(old["rows"][id_])["location"]
            (self.cold if id_ == "s3" else self.store).put_bytes(location, content)

    def create_tables(self) -> None:
        with self.engine.begin() as connection:
            Base.metadata.create_all(connection)

    def collector(self) -> Collector:
        return Collector(self.manager, SQLAlchemyLedger([self.any_engine], Base.metadata))


@pytest.fixture
def world(url: str) -> Iterator[OldWorld]:
    is_async = "+a" in url
    engine: Any = (create_async_engine if is_async else create_engine)(url)
    world = OldWorld(engine)
    if "sqlite" in url:
        fix_pysqlite(world.engine)
    world.run(world.fill)
    yield world
    if not is_async:
        engine.dispose()


def test_every_row_loads(world: OldWorld) -> None:
    def scenario() -> None:
        with world.session() as session:
            refs = {each.id: each._file_ref for each in session.scalars(select(Document))}
        assert [id_ for id_, ref in refs.items() if ref is None] == ["cleared", "never"]
        for id_, ref in refs.items():
            if ref is not None and id_ != "alembic":
                written = json.loads(ROWS[world.engine.dialect.name]["rows"][id_])
                assert {name: ref.to_dict()[name] for name in written} == written
        assert (refs["dict"].content_type, refs["dict"].extra) == (None, None)
        assert refs["stream"].original_filename == "Übersicht (1).CSV"

    world.run(scenario)


def test_every_content_comes_back(world: OldWorld) -> None:
    def scenario() -> None:
        with world.session() as session:
            for id_, content in CONTENTS.items():
                document = session.get_one(Document, id_)
                assert document.get_content() == content
                with document.open_content() as file:
                    assert file.read() == content
                if document._file_ref.checksum:
                    world.manager.verify(document._file_ref)

    world.run(scenario)


def test_a_text_that_the_migration_left_in_its_row_is_content_until_it_is_stored(world: OldWorld) -> None:
    def scenario() -> None:
        world.create_tables()
        with world.session() as session:
            document = session.get_one(Document, "alembic")
            ref = document._file_ref
            assert (ref.location, ref.size, ref.inline_text) == ("", 10, "# Grüße\n")
            assert document.get_content_text() == document.open_content().read().decode() == "# Grüße\n"
            with pytest.raises(ObjectNotFoundError):
                world.manager.open(ref)
            session.add(Document(id="copy", _file_ref=ref))
            session.commit()

            document.set_content(ref.inline_text, filename="item.md")
            session.commit()
            assert document.get_content_text() == "# Grüße\n"
            assert document._file_ref.inline_text is None
            session.delete(session.get_one(Document, "copy"))
            session.commit()
        assert world.tombstones() == []

    world.run(scenario)


def test_without_granite_s_tables_rows_and_files_change_together(
    world: OldWorld, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.get_one(Document, "bytes").replace_content(b"new")
            session.get_one(Document, "text").clear_content_reference()
            session.delete(session.get_one(Document, "stream"))
            session.add(new := Document(id="new"))
            new.set_content(b"new")
            session.commit()
            new.replace_content(b"new")
            session.commit()
        with world.session() as session:
            for id_ in ("bytes", "new"):
                assert session.get_one(Document, id_).get_content() == b"new"
            assert session.get_one(Document, "text").get_content() is None
        assert len(world.stored()) == 8  # nothing was deleted
        with pytest.raises(CollectionRefusedError, match="granite_"):
            world.collector().sweep()

    with caplog.at_level(logging.WARNING, "granite"):
        world.run(scenario)
    for table in ("granite_tombstone", "granite_column"):
        assert caplog.text.count(f"no table {table}") == 1


def test_once_the_tables_are_there_old_files_are_collected_from_the_backend_that_holds_them(world: OldWorld) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.get_one(Document, "no-prefix").replace_content(b"new")  # no table yet, so no tombstone
            session.commit()
        world.create_tables()
        with world.session() as session:
            session.get_one(Document, "bytes").replace_content(b"new")
            session.delete(session.get_one(Document, "s3"))
            session.commit()
        assert len(world.tombstones()) == 2
        orphan = "docs/document/nobody-01234567.pdf"
        world.store.put_bytes(orphan, b"x")
        collector = world.collector()
        report = collector.reconcile(max_share=1)
        assert (report.noted, report.problems) == (2, ())  # the orphan, and what had no tombstone
        age(world)
        swept = collector.sweep()
        assert (swept.deleted, swept.failed, swept.problems) == (4, 0, ())
        assert (world.stored(), [*world.cold.iter_locations()]) == (world.held(), [])
        with world.session() as session:
            for id_ in ("text", "stream", "dict"):
                assert session.get_one(Document, id_).get_content() == CONTENTS[id_]

    def age(world: OldWorld) -> None:
        t = tables_of(Base.metadata).tombstone
        with world.engine.begin() as connection:
            connection.execute(t.update().values(written_at=t.c.written_at - int(GRACE.total_seconds() * 1000) - 1))

    world.run(scenario)


def test_an_old_ref_can_move_to_another_row(world: OldWorld) -> None:
    def scenario() -> None:
        world.create_tables()
        with world.session() as session:
            old = session.get_one(Document, "bytes")
            session.add(Document(id="new", _file_ref=old.clear_content_reference()))
            session.commit()
            assert session.get_one(Document, "new").get_content() == CONTENTS["bytes"]

    world.run(scenario)


def test_refs_are_told_to_a_collector_of_the_old_form(world: OldWorld) -> None:
    def scenario() -> None:
        with world.session() as session:
            found = {ref.location for ref in iter_model_storage_refs(session, Document, "_file_ref")}
        assert found == world.held()
        assert len(found) == 6

    world.run(scenario)
