"""Hooks that are told of what a COMMIT put into rows, by sessions of both colours."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.util import await_only

from granite_core import Announcement, Committed, UploadDeniedError, unsaved
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger, tables_of
from granite_core.integrations.sqlalchemy._greenlet import in_greenlet
from granite_core.uploads import AsyncUploads, Uploads
from tests.integration.sqlalchemy.world import Base, Document, World


@pytest.fixture
def told(world: World) -> list[Committed]:
    found: list[Committed] = []

    def hear(committed: Committed) -> None:
        assert threading.current_thread() is not threading.main_thread()
        found.append(committed)

    async def hear_async(committed: Committed) -> None:
        found.append(committed)
        raise RuntimeError("no commit hears of this")

    for policy in world.manager.policies.values():
        object.__setattr__(policy, "after_commit", (hear, hear_async))
    return found


def settled(world: World, told: list[Committed], wanted: int) -> None:
    def look() -> bool:
        world.manager.wait_for_hooks()
        return len(told) == wanted

    assert look()


class TestAfterCommit:
    def test_hooks_hear_of_files_once_they_are_committed(self, world: World, told: list[Committed]) -> None:
        refs: list[Any] = []

        def scenario() -> None:
            with world.session() as session:
                document = Document(file=unsaved(b"one"), pages=[unsaved(b"two")])
                session.add(document)
                session.flush()
                assert not told
                session.commit()
                refs.extend([document.file, *document.pages])

        world.run(scenario)
        settled(world, told, 4)
        assert {each.ref for each in told} == set(refs)
        assert {each.field for each in told} == {"document.file", "document.pages"}

    def test_hooks_do_not_hear_of_what_is_undone(self, world: World, told: list[Committed]) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(title="a", file=unsaved(b"one")))
                session.flush()
                session.rollback()
                with session.begin_nested() as savepoint:
                    session.add(Document(title="b", file=unsaved(b"two")))
                    session.flush()
                    savepoint.rollback()
                session.add(Document(title="c"))
                session.commit()

        world.run(scenario)
        settled(world, told, 0)

    def test_a_row_that_keeps_its_file_tells_nothing(self, world: World, told: list[Committed]) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = Document(title="a", file=unsaved(b"one"))
                session.add(document)
                session.commit()
                document.title = "b"
                session.commit()

        world.run(scenario)
        settled(world, told, 2)


def test_an_upload_session_is_asked_for_before_it_begins(world: World) -> None:
    asked: list[Announcement] = []

    def decide(announced: Announcement) -> None:
        asked.append(announced)
        raise UploadDeniedError("not you", operation="put")

    object.__setattr__(world.manager.get_policy("pages"), "before_upload", (decide,))

    def scenario() -> None:
        uploads = Uploads(world.manager, SQLAlchemyUploadLedger(world.any_engine, Base.metadata))
        with pytest.raises(UploadDeniedError):
            if in_greenlet():
                await_only(AsyncUploads(uploads).create("pages", kind="test", length=7, filename="a.pdf"))
            else:
                uploads.create("pages", kind="test", length=7, filename="a.pdf")
        with world.session() as session:
            assert not session.execute(select(tables_of(Base.metadata).upload)).all()

    world.run(scenario)
    assert asked == [Announcement(storage_key="pages", field="pages", filename="a.pdf", size=7)]
