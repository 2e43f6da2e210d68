"""Rows that have a path or a text get a file: each batch by itself, by as many runs as it takes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    BackendUnavailableError,
    ConfigurationError,
    ContentTooLargeError,
    StaleRefError,
    StorageError,
    StoredObjectRef,
    unsaved,
)
from granite_core.integrations.sqlalchemy import BackfillReport, backfill_files, file_field
from tests.integration.sqlalchemy.world import QUARTER, World, make_world


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "letter"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    path: Mapped[str | None]
    file: Mapped[StoredObjectRef | None] = file_field("documents")


@pytest.fixture
def world(url: str) -> Iterator[World]:
    with make_world(url, base=Base) as world:
        yield world


def fill(world: World, bind: Any = None, **options: Any) -> BackfillReport:
    options.setdefault("content", lambda path: unsaved(path.encode(), filename=path))
    return backfill_files(
        bind or world.engine, world.manager, "documents", table="letter", key="id", old="path", new="file", **options
    )


def given(world: World, *paths: str | None) -> None:
    with world.engine.begin() as connection:
        connection.execute(insert(Letter.__table__), [{"id": uuid.uuid4(), "path": path} for path in paths])


def contents(world: World) -> dict[str, bytes | None]:
    with world.engine.connect() as connection:
        rows = connection.execute(select(Letter.path, Letter.file).where(Letter.path.is_not(None))).all()
    return {path: None if file is None else world.manager.get(file) for path, file in rows}


def names(count: int) -> list[str]:
    return [f"{number}.txt" for number in range(count)]


def test_every_row_gets_its_file_and_a_second_run_has_nothing_to_do(world: World) -> None:
    def scenario() -> None:
        given(world, *names(25), None)
        seen: list[BackfillReport] = []
        assert fill(world, batch_size=10, progress=seen.append) == BackfillReport(stored=25)
        assert [report.stored for report in seen] == [10, 20, 25]
        assert contents(world) == {name: name.encode() for name in names(25)}
        [ref] = [ref for ref in world.rows() if ref.original_filename == "7.txt"]
        assert ref.location.startswith("letter/")
        assert ref.location.split("/")[2] == "file"
        assert world.known_columns() == {("letter", "file")}
        assert fill(world) == BackfillReport()
        world.check_laws()

    world.run(scenario)


def test_paths_are_read_and_rows_without_content_passed_over(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n")

    def scenario() -> None:
        given(world, "a.csv", "")
        report = fill(world, content=lambda path: unsaved(tmp_path / path) if path else None)
        assert report == BackfillReport(stored=1, skipped=1)
        [ref] = world.rows()
        assert (ref.original_filename, ref.content_type) == ("a.csv", "text/csv")

    world.run(scenario)


def test_a_run_that_ends_half_way_is_gone_on_with(world: World) -> None:
    def scenario() -> None:
        given(world, *names(20))
        calls = 0

        def content(path: str) -> StoredObjectRef:
            nonlocal calls
            calls += 1
            if calls == 14:
                raise KeyboardInterrupt
            return unsaved(path.encode())

        with pytest.raises(KeyboardInterrupt):
            fill(world, batch_size=5, content=content)
        assert len(world.rows()) == 10
        world.check_laws()  # what the third batch had stored is gone
        assert fill(world, batch_size=5).stored == 10
        world.check_laws()

    world.run(scenario)


def test_a_failure_ends_the_run_after_what_was_stored_before_it_is_written(world: World) -> None:
    def scenario() -> None:
        given(world, *names(5))
        world.backend.fail("commit", BackendUnavailableError("away"), at=4)
        with pytest.raises(BackendUnavailableError):
            fill(world)
        assert len(world.rows()) == 3
        assert fill(world).stored == 2
        world.check_laws()

    world.run(scenario)


def test_failures_are_told_of_and_the_run_goes_on(world: World, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1001)
    (tmp_path / "good").write_bytes(b"x")

    def scenario() -> None:
        given(world, "missing", "large", "good")
        told: list[tuple[Any, Exception]] = []
        report = fill(world, content=lambda path: unsaved(tmp_path / path), on_error=lambda *each: told.append(each))
        assert report == BackfillReport(stored=1, failed=2)
        assert {type(error) for _, error in told} == {FileNotFoundError, ContentTooLargeError}
        assert len({key for key, _ in told}) == 2
        world.check_laws()

    world.run(scenario)


def test_a_row_that_somebody_changes_meanwhile_is_left_to_the_next_run(world: World) -> None:
    def scenario() -> None:
        given(world, "old")

        def content(path: str) -> StoredObjectRef:
            with world.engine.begin() as connection:
                connection.execute(update(Letter.__table__).values(path="new"))
            return unsaved(path.encode())

        assert fill(world, content=content) == BackfillReport(left=1)
        world.check_laws(left_to_reconcile=1)
        assert fill(world) == BackfillReport(stored=1)
        assert contents(world) == {"new": b"new"}

    world.run(scenario)


def test_a_file_attached_meanwhile_is_not_overwritten(world: World) -> None:
    def scenario() -> None:
        given(world, "path")
        mine = world.stage(b"mine")

        def content(path: str) -> StoredObjectRef:
            with world.session() as session:
                session.scalars(select(Letter)).one().file = mine
                session.commit()
            return unsaved(path.encode())

        assert fill(world, content=content) == BackfillReport(left=1)
        assert contents(world) == {"path": b"mine"}

    world.run(scenario)


def test_a_batch_is_written_before_its_first_file_is_too_old(world: World) -> None:
    def scenario() -> None:
        given(world, *names(4))

        def content(path: str) -> StoredObjectRef:
            world.later(QUARTER / 3)
            return unsaved(path.encode())

        assert fill(world, content=content).stored == 4
        world.check_laws()

    world.run(scenario)


def test_a_file_that_waited_too_long_for_another_is_stored_anew_by_the_next_run(world: World) -> None:
    def scenario() -> None:
        given(world, *names(2))
        slow = iter([False, True, False])

        def content(path: str) -> StoredObjectRef:
            if next(slow):
                world.later(QUARTER)
            return unsaved(path.encode())

        assert fill(world, content=content) == BackfillReport(stored=1, left=1)
        world.check_laws()
        assert fill(world, content=content) == BackfillReport(stored=1)

    world.run(scenario)


def test_a_batch_that_is_written_too_slowly_is_rolled_back(world: World) -> None:
    def scenario() -> None:
        given(world, *names(2))

        def slow(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("UPDATE letter"):
                world.later(QUARTER)

        event.listen(world.engine, "before_cursor_execute", slow)
        with pytest.raises(StaleRefError):
            fill(world)
        event.remove(world.engine, "before_cursor_execute", slow)
        assert world.rows() == []
        assert len(world.stored()) == 2  # a statement has seen them: the reconcile decides
        assert fill(world).stored == 2

    world.run(scenario)


def test_nothing_is_deleted_when_the_answer_to_commit_is_lost(world: World) -> None:
    def scenario() -> None:
        given(world, "a")

        def lose(connection: Any) -> None:
            connection.connection.commit()
            if world.stored():
                raise OperationalError("COMMIT", {}, Exception("lost"))

        event.listen(world.engine, "commit", lose)
        with pytest.raises(OperationalError):
            fill(world)
        event.remove(world.engine, "commit", lose)
        assert contents(world) == {"a": b"a"}
        world.check_laws()

    world.run(scenario)


def test_a_connection_must_commit_by_itself(world: World) -> None:
    def scenario() -> None:
        given(world, *names(3))
        with world.engine.connect() as connection, pytest.raises(ConfigurationError, match="autocommit_block"):
            fill(world, connection)
        with world.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            assert fill(world, connection, batch_size=2).stored == 3
        assert len(world.rows()) == 3

    world.run(scenario)


def test_what_cannot_be_meant_is_refused_before_anything_is_read(world: World) -> None:
    def scenario() -> None:
        given(world, "a")
        with pytest.raises(TypeError, match="unsaved"):
            fill(world, content=lambda path: path)
        with pytest.raises(StorageError, match="'nope'"):
            backfill_files(world.engine, world.manager, "nope", table="x", key="id", old="a", new="b", content=unsaved)
        assert world.stored() == set()

    world.run(scenario)


def test_tables_of_another_schema(postgres_url: str) -> None:
    """Granite's tables beside the table, or in the default schema, or nowhere."""
    with make_world(postgres_url, base=Base) as world:
        for schema, own in (("one", True), ("two", False)):
            with world.engine.begin() as connection:
                connection.execute(text(f"CREATE SCHEMA {schema}"))
                connection.execute(text(f"CREATE TABLE {schema}.letter (id int PRIMARY KEY, path text, file json)"))
                connection.execute(text(f"INSERT INTO {schema}.letter VALUES (1, 'a', NULL)"))
                if own:
                    connection.execute(
                        text(f"CREATE TABLE {schema}.granite_column (LIKE granite_column INCLUDING ALL)")
                    )
            assert fill(world, schema=schema).stored == 1
            with world.engine.begin() as connection:
                place = f"{schema}.granite_column" if own else "granite_column"
                names = connection.execute(text(f"SELECT schema_name, table_name, column_name FROM {place}")).all()
                assert [tuple(name) for name in names] == [(schema, "letter", "file")]
        with world.engine.begin() as connection:
            connection.execute(text("DROP TABLE one.granite_column"))
            connection.execute(text("DROP TABLE granite_column"))
            connection.execute(text("UPDATE one.letter SET file = NULL"))
        assert fill(world, schema="one").stored == 1
