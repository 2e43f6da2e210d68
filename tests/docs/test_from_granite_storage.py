"""The recipes for those who come from granite-storage do what their page says, on rows as 0.1.0 wrote them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core.integrations.sqlalchemy import tables_of

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "from_granite_storage.py"
OLD = "docs/document/1-0a1b2c3d.md"
REF = {"storage_key": "documents", "backend": "local", "location": OLD, "size": 3, "checksum": ""}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("from_granite_storage", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where SQLAlchemy looks for the names in annotations
    spec.loader.exec_module(module)
    module.engine = create_engine(f"sqlite:///{tmp_path}/documents.db")
    module.Base.metadata.create_all(module.engine)
    module.manager.get_backend("main").put_bytes(OLD, b"old")
    with module.engine.begin() as connection:
        rows = {1: REF, 2: {"legacy_inline_text": "# Grüße"}, 3: None}
        insert = text("INSERT INTO document (id, _file_ref) VALUES (:id, :ref)")
        connection.execute(insert, [{"id": id_, "ref": json.dumps(ref)} for id_, ref in rows.items()])
    yield module
    module.engine.dispose()


def test_backends_are_named_in_the_rows_and_no_file_is_let_go(example: Any) -> None:
    with Session(example.engine) as session:
        example.name_backends(session)
        documents = [session.get_one(example.Document, id_) for id_ in (1, 2, 3)]
        assert documents[0]._file_ref.to_dict() == {**documents[0]._file_ref.to_dict(), **REF, "backend": "main"}
        assert [each.get_content_text() for each in documents] == ["old", "# Grüße", None]
        tombstone = tables_of(example.Base.metadata).tombstone
        assert session.execute(tombstone.select()).all() == []
        # From now on a policy may be pointed elsewhere, and what is stored stays readable.
        moved = StorageManager(
            {**example.manager.backends, "next": MemoryStorageBackend()}, [StoragePolicy("documents", "next")]
        )
        assert moved.get(documents[0]._file_ref) == b"old"


def test_texts_become_files(example: Any) -> None:
    with Session(example.engine) as session:
        example.store_texts(session)
        document = session.get_one(example.Document, 2)
        assert (document._file_ref.inline_text, document._file_ref.original_filename) == (None, "content.md")
        assert document.get_content_text() == "# Grüße"


def test_the_collector_heeds_refs_in_plain_columns(example: Any) -> None:
    manager = example.manager
    manager.grace = timedelta(seconds=0.2)
    with Session(example.engine) as session:
        kept, forgotten = (manager.put_bytes("avatars", "user", 1, "avatar", content=b"x") for _ in range(2))
        session.add(example.User(id=1, avatar=kept.to_dict()))
        session.commit()
    collector = example.collector(example.engine)
    report = collector.reconcile(max_share=1)
    assert (report.noted, report.backends[0].examples) == (1, (forgotten.location,))
    with example.engine.begin() as connection:
        t = tables_of(example.Base.metadata).tombstone
        connection.execute(t.update().values(written_at=t.c.written_at - 1000))
    assert collector.sweep().deleted == 1
    assert (manager.exists(kept), manager.exists(forgotten), manager.get(kept)) == (True, False, b"x")
