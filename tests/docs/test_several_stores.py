"""The guide on several stores: files are read where they are, also while they move from a disk to S3."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from granite_core import ContentTypeNotAllowedError, ObjectNotFoundError, StorageManager, unsaved
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, tables_of
from tests.support.s3 import S3Server

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "several_stores.py"


@pytest.fixture
def example() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("several_stores", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["several_stores"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["several_stores"]


@pytest.fixture
def engine(tmp_path: Path, example: Any) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    example.Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"DISK": f"file://{tmp_path}/disk", "SCRATCH": "memory:"}


@pytest.fixture
def with_bucket(
    settings: dict[str, str],
    ministack: S3Server,
    s3_bucket: Callable[..., tuple[Any, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    _, bucket = s3_bucket(ministack)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", ministack.access_key),
        ("AWS_SECRET_ACCESS_KEY", ministack.secret_key),
        ("AWS_ENDPOINT_URL_S3", ministack.endpoint),
        ("AWS_DEFAULT_REGION", ministack.region),
    ):
        monkeypatch.setenv(name, value)
    return {**settings, "BUCKET": f"s3://{bucket}", "DEFAULT_STORE": "bucket"}


def add(engine: Engine, example: Any, name: str, content: bytes) -> None:
    with Session(engine) as session:
        session.add(example.Attachment(name=name, content=unsaved(content, filename=f"{name}.txt")))
        session.commit()


def contents(engine: Engine, example: Any, manager: StorageManager) -> dict[str, tuple[str, bytes]]:
    with Session(engine) as session:
        rows = session.scalars(select(example.Attachment).order_by(example.Attachment.id)).all()
        return {row.name: (row.content.backend, manager.get(row.content)) for row in rows}


def test_a_field_goes_to_its_policy_s_store_and_without_a_name_to_the_default(
    example: Any, engine: Engine, settings: dict[str, str]
) -> None:
    manager = example.make_manager(settings)
    with Session(engine) as session:
        row = example.Attachment(name="a", content=unsaved(b"a"), preview=unsaved(b"GIF89a"))
        session.add(row)
        session.commit()
        assert (row.content.storage_key, row.content.backend) == ("default", "disk")
        assert (row.preview.storage_key, row.preview.backend) == ("previews", "scratch")
        row.preview = unsaved(b"no picture")
        with pytest.raises(ContentTypeNotAllowedError):
            session.commit()
    assert manager.default_backend == "disk"


def test_switching_the_default_leaves_old_files_where_they_are_and_they_can_be_moved(
    example: Any, engine: Engine, settings: dict[str, str], with_bucket: dict[str, str]
) -> None:
    example.make_manager(settings)
    add(engine, example, "old", b"on disk")

    manager = example.make_manager(with_bucket)
    add(engine, example, "new", b"in the bucket")
    expected = {"old": ("disk", b"on disk"), "new": ("bucket", b"in the bucket")}
    assert contents(engine, example, manager) == expected

    with Session(engine) as session:
        old = session.scalars(select(example.Attachment.content)).first()
    assert example.move_all(engine, manager) == 1
    assert example.move_all(engine, manager) == 0
    assert contents(engine, example, manager) == {**expected, "old": ("bucket", b"on disk")}
    with Session(engine) as session:
        moved = session.scalars(select(example.Attachment.content)).first()
    assert (moved.checksum, moved.original_filename) == (old.checksum, "old.txt")

    # What lay on the disk is still there, for whoever reads it now; it goes after the grace.
    assert manager.get(old) == b"on disk"
    collector = Collector(manager, SQLAlchemyLedger([engine], example.Base.metadata))
    assert collector.sweep().waiting == 1
    let_time_pass(engine, example, manager.grace)
    assert collector.sweep().deleted == 1
    with pytest.raises(ObjectNotFoundError):
        manager.get(old)
    assert contents(engine, example, manager) == {**expected, "old": ("bucket", b"on disk")}


def test_a_file_that_was_replaced_while_it_travelled_is_not_brought_back(
    example: Any, engine: Engine, settings: dict[str, str], with_bucket: dict[str, str]
) -> None:
    example.make_manager(settings)
    add(engine, example, "a", b"first")
    manager = example.make_manager(with_bucket)
    with Session(engine) as session:
        number, ref = session.execute(select(example.Attachment.id, example.Attachment.content)).one()
        session.get(example.Attachment, number).content = unsaved(b"second")
        session.commit()
    assert example.move_one(engine, manager, number, ref) is False
    assert contents(engine, example, manager) == {"a": ("bucket", b"second")}
    assert len(list(manager.get_backend("bucket").iter_locations())) == 1


def let_time_pass(engine: Engine, example: Any, by: timedelta) -> None:
    tables = tables_of(example.Base.metadata)
    assert tables is not None
    t = tables.tombstone
    with engine.begin() as connection:
        connection.execute(t.update().values(written_at=t.c.written_at - int(by.total_seconds() * 1000) - 60_000))
