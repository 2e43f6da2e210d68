"""What is told of rows that come to hold files and let them go, and of what the collector does."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from granite_core import CollectionRefusedError, StoredObjectRef
from granite_core.events import Attached, Collected, Deleted, Event, Released, object_id
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from tests.integration.sqlalchemy.collecting import (
    age_everything,
    bury,
    keep,
    reconcile,
    rows_of,
    store,
    sweep,
)
from tests.integration.sqlalchemy.world import Base, Document, Folder, World


class Heard:
    """What a listener heard: ``+`` for attached, ``-`` for released, with the object's id."""

    def __init__(self, world: World) -> None:
        self.events: list[Event] = []
        world.manager.listen(self.events.append, Attached, Released)

    def take(self) -> list[tuple[str, str]]:
        signs = [("+" if isinstance(each, Attached) else "-", each.object_id) for each in self.events]  # type: ignore[attr-defined]
        self.events.clear()
        return signs


def came(ref: Any) -> tuple[str, str]:
    return "+", object_id(ref.location)


def went(ref: Any) -> tuple[str, str]:
    return "-", object_id(ref.location)


@pytest.fixture
def heard(world: World) -> Heard:
    return Heard(world)


def test_a_commit_tells_what_rows_hold_now(world: World, heard: Heard) -> None:
    def scenario() -> None:
        with world.session() as session:
            document = Document(file=world.stage(b"content"), pages=[world.stage(b"page")])
            session.add(document)
            session.flush()
            assert heard.events == []
            session.commit()
            file, page = document.file, document.pages[0]
        assert heard.events == [
            Attached(**world.manager.name_of(file), size=7, field="document.file"),
            Attached(**world.manager.name_of(page), size=4, field="document.pages"),
        ]

    world.run(scenario)


def test_what_a_row_lets_go_is_told(world: World, heard: Heard) -> None:
    def scenario() -> None:
        old, kept = keep(world, b"old", pages=[page := world.stage(b"p")]), page
        heard.take()
        with world.session() as session:
            document = session.scalars(select(Document)).one()
            document.title = "another title"
            session.commit()
            assert heard.take() == []
            document.file = new = world.stage(b"new")
            document.pages.append(other := world.stage(b"q"))
            session.commit()
            assert sorted(heard.take()) == sorted([came(new), went(old), came(other)])
            document.pages.remove(kept)
            session.commit()
            assert heard.take() == [went(kept)]
            session.delete(document)
            session.commit()
            assert sorted(heard.take()) == sorted([went(new), went(other)])

    world.run(scenario)


def test_deleted_orphans_tell_too(world: World, heard: Heard) -> None:
    def scenario() -> None:
        with world.session() as session:
            folder = Folder(documents=[Document(file=world.stage())])
            session.add(folder)
            session.commit()
            held = folder.documents[0].file
            heard.take()
            folder.documents.clear()
            session.commit()
        assert heard.take() == [went(held)]

    world.run(scenario)


def test_moving_a_file_within_a_row_tells_nothing_between_rows_both(world: World, heard: Heard) -> None:
    def scenario() -> None:
        ref = keep(world, title="a")
        heard.take()
        with world.session() as session:
            document = session.scalars(select(Document)).one()
            document.file, document.cover = None, document.file
            session.commit()
            assert heard.take() == []
            session.add(Document(title="b", file=document.cover))
            document.cover = None
            session.commit()
        assert sorted(heard.take()) == sorted([came(ref), went(ref)])

    world.run(scenario)


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_what_is_not_committed_tells_nothing(world: World, heard: Heard, end: str) -> None:
    def scenario() -> None:
        keep(world)
        heard.take()
        with world.session() as session:
            session.scalars(select(Document)).one().file = world.stage(b"new")
            session.add(Document(file=world.stage()))
            session.flush()
            getattr(session, end)()
        assert heard.take() == []

    world.run(scenario)


def test_a_savepoint_tells_what_it_did_when_all_around_it_is_committed(world: World, heard: Heard) -> None:
    def scenario() -> None:
        with world.session() as session:
            first, kept, undone, last = (world.stage(each) for each in (b"1", b"2", b"3", b"4"))
            session.add(Document(file=first))  # flushed by the savepoint's beginning, outside it
            with session.begin_nested():
                session.add(Document(file=kept))
            savepoint = session.begin_nested()
            session.add(Document(file=undone))
            session.flush()
            savepoint.rollback()
            session.add(Document(file=last))
            assert heard.take() == []
            session.commit()
        assert heard.take() == [came(first), came(kept), came(last)]

    world.run(scenario)


def test_an_outer_savepoint_undoes_what_an_inner_one_released(world: World, heard: Heard) -> None:
    def scenario() -> None:
        with world.session() as session:
            kept = world.stage()
            session.add(Document(file=kept))
            outer = session.begin_nested()
            with session.begin_nested():
                session.add(Document(file=world.stage()))
            outer.rollback()
            session.commit()
        assert heard.take() == [came(kept)]

    world.run(scenario)


def test_a_savepoint_in_a_transaction_that_is_rolled_back_tells_nothing(world: World, heard: Heard) -> None:
    def scenario() -> None:
        with world.session() as session:
            with session.begin_nested():
                session.add(Document(file=world.stage()))
            session.rollback()
            session.commit()
        assert heard.take() == []

    world.run(scenario)


def test_a_flush_that_failed_and_is_made_again_tells_once(world: World, heard: Heard) -> None:
    def scenario() -> None:
        keep(world, title="taken")
        heard.take()
        staged = world.stage()
        with world.session() as session:
            session.add(Document(title="taken", file=staged))
            with pytest.raises(IntegrityError):
                session.commit()
            session.rollback()
            with pytest.raises(IntegrityError), session.begin_nested():
                session.add(Document(title="taken", file=staged))
                session.flush()
            session.add(Document(title="free", file=staged))
            session.commit()
        assert heard.take() == [came(staged)]

    world.run(scenario)


def test_a_joined_session_tells_when_it_commits(world: World, heard: Heard) -> None:
    """Whether the transaction around it is committed, it cannot know."""

    def scenario() -> None:
        with world.engine.connect() as connection, connection.begin() as outer:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Document(file=(staged := world.stage())))
                session.commit()
            assert heard.take() == [came(staged)]
            outer.rollback()
        assert heard.take() == []

    world.run(scenario)


def test_statements_of_a_session_tell_what_they_write(world: World, heard: Heard) -> None:
    def scenario() -> None:
        first, second, third = world.stage(b"1"), world.stage(b"2"), world.stage(b"3")
        with world.session() as session:
            session.execute(insert(Document), [{"title": "a", "file": first}, {"title": "b", "file": second}])
            session.execute(update(Document).where(Document.title == "a").values(cover=third))
            session.commit()
        assert heard.take() == [came(first), came(second), came(third)]

    world.run(scenario)


def test_a_statement_that_failed_tells_nothing(world: World, heard: Heard) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.execute(insert(Document), [{"title": "a", "file": (kept := world.stage())}])
            savepoint = session.connection().begin_nested()  # not the session's own: nothing tells it of the end
            with pytest.raises(IntegrityError):
                session.execute(insert(Document), [{"title": "a", "file": world.stage()}])
            savepoint.rollback()
            session.commit()
        assert heard.take() == [came(kept)]

    world.run(scenario)


def test_a_listener_that_fails_does_not_fail_the_commit(world: World) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("a bug")

    def scenario() -> None:
        world.manager.listen(fail)
        keep(world)
        assert len(world.held()) == 1

    world.run(scenario)


# -- the collector -----------------------------------------------------------------------------------------------------


def runs_of(world: World) -> list[Collected]:
    heard: list[Any] = []
    world.manager.listen(heard.append, Collected)
    return heard


def test_a_sweep_tells_what_it_deleted_and_how_it_went(world: World) -> None:
    def scenario() -> None:
        deleted: list[Any] = []
        world.manager.listen(deleted.append, Deleted)
        runs = runs_of(world)
        store(world, "one", "two")
        bury(world, "one")
        bury(world, "two")
        world.backend.fail("delete")
        report = sweep(world)
        assert deleted == [
            Deleted(object_id=object_id("two"), storage_key="documents", backend_key="main", reason="swept")
        ]
        [run] = runs
        assert (run.kind, run.dry_run, run.examined, run.deleted, run.failed, run.problems) == (
            ("sweep", False, 2, 1, 1, 1)
        )
        assert run.report is report

    world.run(scenario)


def test_a_dry_run_deletes_nothing_and_says_so(world: World) -> None:
    def scenario() -> None:
        heard: list[Any] = []
        world.manager.listen(heard.append)
        bury(world, "one")
        sweep(world, dry_run=True)
        [run] = heard
        assert isinstance(run, Collected)
        assert (run.dry_run, run.deleted) == (True, 1)

    world.run(scenario)


def test_a_reconcile_tells_what_it_noted(world: World) -> None:
    def scenario() -> None:
        runs = runs_of(world)
        keep(world)
        store(world, "lost")
        reconcile(world)
        [run] = runs
        assert (run.kind, run.listed, run.noted, run.noted_bytes, run.skipped) == ("reconcile", 2, 1, 7, None)

    world.run(scenario)


def test_a_run_that_refuses_is_told_with_its_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def scenario() -> None:
        runs = runs_of(world)
        world.store.put_bytes(".granite/store", b'{"database": "another"}')
        with pytest.raises(CollectionRefusedError) as caught:
            sweep(world)
        [run] = runs
        assert (run.error, run.cause, run.report) == ("collection_refused", caught.value, None)

    with caplog.at_level(logging.INFO, "granite"):
        world.run(scenario)
    [record] = [each for each in caplog.records if each.name == "granite.collected"]
    assert record.levelno == logging.ERROR
    assert "refused to run" in record.getMessage()


def test_runs_and_their_problems_are_lines_without_keys(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def scenario() -> None:
        secret = "private/key-of-an-object"
        store(world, secret)
        bury(world, secret)
        world.backend.fail("delete", PermissionError(f"not allowed: {secret}"))
        sweep(world)
        age_everything(world)
        sweep(world)

    with caplog.at_level(logging.DEBUG, "granite"):
        world.run(scenario)
    told = [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "granite.collected"]
    assert [level for level, _ in told] == ["WARNING", "INFO", "INFO"]
    assert object_id("private/key-of-an-object") in told[0][1]
    assert "not allowed" in told[0][1]
    assert "private/key" not in caplog.text
    assert not any("private/key" in repr(vars(each)) for each in caplog.records if each.name.startswith("granite"))


# -- from an id to its rows --------------------------------------------------------------------------------------------


def test_the_rows_of_an_id_are_found_also_where_the_bytes_are_gone(world: World) -> None:
    def scenario() -> None:
        ref: StoredObjectRef = keep(world)
        keep(world, b"other", pages=[ref])
        world.manager.delete(ref)
        ledger = SQLAlchemyLedger([world.any_engine], Base.metadata)
        found = list(ledger.holders_by_id(object_id(ref.location)))
        assert list(ledger.holders_by_id(object_id("another"))) == []
        assert [str(column) for column, _ in found] == ["document.file", "document.pages"]
        assert all(row.refs == (ref,) for _, row in found)
        assert {row.key for _, row in found} == {str(row.id) for row in rows_of(world, Document.__table__)}

    world.run(scenario)
