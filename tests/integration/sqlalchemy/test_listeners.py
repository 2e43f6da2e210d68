"""Other listeners of the same session and rows: nothing they assign passes unseen, nothing they do is disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column

from granite_core import StaleRefError, StoredObjectRef, unsaved
from granite_core.integrations.sqlalchemy import file_field
from tests.integration.sqlalchemy.test_transactions import given_document, the_document
from tests.integration.sqlalchemy.world import QUARTER, Document, World


class Reports(DeclarativeBase):
    pass


class Report(Reports):
    __tablename__ = "report"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("documents")


@event.listens_for(Report, "before_insert")
@event.listens_for(Report, "before_update")
def render(mapper: Any, connection: Any, target: Report) -> None:
    target.file = unsaved(target.title.encode())


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., Any]) -> Iterator[None]:
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


class Slow:
    """A stream that takes a quarter of the grace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._left = b"slow"

    def read(self, size: int = -1) -> bytes:
        data, self._left = self._left, b""
        if data:
            self._world.later(QUARTER)
        return data


@pytest.mark.parametrize("name", ["before_insert", "before_update"])
def test_an_old_ref_assigned_to_the_row_itself_is_refused(world: World, name: str) -> None:
    configure_mappers()
    old = world.stage()

    def late(mapper: Any, connection: Any, target: Document) -> None:
        target.cover = old

    def scenario() -> None:
        given_document(world)
        world.later(QUARTER)
        with world.session() as session, listening(Document, name, late):
            if name == "before_insert":
                session.add(Document(title="second"))
            else:
                the_document(session).title = "changed"
            with pytest.raises(StaleRefError):
                session.commit()
        assert old.location not in world.held()

    world.run(scenario)


@pytest.mark.parametrize("name", ["before_insert", "before_update"])
def test_a_fresh_ref_assigned_to_the_row_itself_is_let_in(world: World, name: str) -> None:
    configure_mappers()

    def late(mapper: Any, connection: Any, target: Document) -> None:
        target.cover = world.stage(b"cover")

    def scenario() -> None:
        given_document(world)
        with world.session() as session, listening(Document, name, late):
            if name == "before_insert":
                session.add(Document(title="second"))
            else:
                the_document(session).title = "changed"
            session.commit()
        assert len(world.held()) == 2
        world.check_laws()

    world.run(scenario)


def test_unsaved_content_assigned_to_the_row_itself_is_stored(world: World) -> None:
    world.manager.register(Reports)

    def scenario() -> None:
        Reports.metadata.create_all(world.engine)
        with world.session() as session:
            report = Report(title="one")
            session.add(report)
            session.commit()
            first = report.file
            assert world.manager.get(first) == b"one"
            report.title = "two"
            session.commit()
            assert world.manager.get(report.file) == b"two"
        assert first.location in world.tombstones()

    world.run(scenario)


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_savepoint_may_be_opened_during_a_flush(world: World, name: str, end: str) -> None:
    def with_savepoint(session: Session, *_: Any) -> None:
        savepoint = session.begin_nested()
        session.execute(text("SELECT 1"))
        getattr(savepoint, end)()

    def scenario() -> None:
        old = given_document(world)
        with world.session() as session, listening(session, name, with_savepoint):
            the_document(session).title = "changed"
            session.add(Document(file=world.stage(b"new")))
            if (name, end) == ("after_flush", "rollback"):
                session.flush()
            session.commit()
        assert old.location in world.held()
        world.check_laws()

    world.run(scenario)


def test_every_flush_of_a_commit_is_followed_by_the_check(world: World) -> None:
    def add_more(session: Session) -> None:
        session.add(Document(file=world.stage(b"first")))
        session.flush()
        session.add(Document(file=unsaved(Slow(world))))

    def scenario() -> None:
        with world.session() as session, listening(session, "before_commit", add_more), pytest.raises(StaleRefError):
            session.commit()
        assert world.held() == set()

    world.run(scenario)


def test_content_that_is_stored_slowly_in_the_commit_s_flush_is_checked(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.add(Document(file=world.stage(b"first")))
            session.flush()
            session.add(Document(file=unsaved(Slow(world))))
            with pytest.raises(StaleRefError):
                session.commit()
        assert world.held() == set()

    world.run(scenario)


@pytest.mark.parametrize("name", ["before_commit", "before_flush", "after_flush", "after_commit", "after_rollback"])
def test_an_exception_in_a_listener_leaves_nothing_behind(world: World, name: str) -> None:
    def explode(*_: Any) -> None:
        raise RuntimeError

    def scenario() -> None:
        given_document(world)
        with world.session() as session:
            with listening(session, name, explode), pytest.raises(RuntimeError):
                the_document(session).file = world.stage(b"new")
                session.flush()
                session.rollback() if name == "after_rollback" else session.commit()
            session.close()
            assert session.info == {}
            the_document(session).title = "next"
            session.commit()
            assert session.info == {}
        with world.engine.connect() as connection:
            assert "granite_committing" not in connection.info
        world.check_laws()

    world.run(scenario)
