"""What a flush stores and what it lets into rows (laws 1 and 3)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, delete, event, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient, mapped_column

from granite_core import (
    BackendUnavailableError,
    ConfigurationError,
    ContentTooLargeError,
    ContentUnavailableError,
    FetchRules,
    MemoryStorageBackend,
    RemoteRefusedError,
    StaleRefError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    from_data_uri,
    from_url,
    unsaved,
)
from granite_core.integrations.sqlalchemy import file_field
from granite_core.integrations.sqlalchemy._greenlet import in_greenlet
from granite_core.manager import MANAGER_KEY
from tests.integration.sqlalchemy.test_transactions import given_document, the_document
from tests.integration.sqlalchemy.world import QUARTER, Account, Base, Company, Document, World, make_world
from tests.support.answers import ok, serving


class Pipe(io.RawIOBase):
    """A stream that can be read once and not rewound."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


class TestUnsaved:
    @pytest.mark.parametrize("kind", ["bytes", "path", "stream", "read-before", "pipe"])
    def test_content_is_stored_at_flush(self, world: World, tmp_path: Path, kind: str) -> None:
        (tmp_path / "note.txt").write_bytes(b"hello")
        stream = io.BytesIO(b"hello")
        if kind == "read-before":
            stream.read()
        source: Any = {"bytes": b"hello", "path": tmp_path / "note.txt", "pipe": Pipe(b"hello")}.get(kind, stream)

        def scenario() -> None:
            with world.session() as session:
                document = Document(file=unsaved(source, filename="note.txt"))
                session.add(document)
                assert world.stored() == set()
                session.commit()
                assert world.manager.get(document.file) == b"hello"
                assert (document.file.original_filename, document.file.size) == ("note.txt", 5)
            assert not stream.closed
            world.check_laws()

        world.run(scenario)

    @pytest.mark.parametrize("kind", ["asynchronous", "iterator", "data", "url"])
    def test_content_comes_from_elsewhere(self, world: World, kind: str) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"hel"
            yield b"lo"

        def scenario() -> None:
            with serving(ok(b"hello")) as server, world.session() as session:
                rules = FetchRules(allow=["127.0.0.1"], ports=None)
                source: Any = {
                    "asynchronous": chunks(),
                    "iterator": iter([b"hel", b"lo"]),
                    "data": from_data_uri("data:,hello"),
                    "url": from_url(f"http://127.0.0.1:{server.port}/note.txt", rules=rules),
                }[kind]
                document = Document(file=unsaved(source))
                session.add(document)
                if kind == "asynchronous" and not in_greenlet():
                    with pytest.raises(TypeError, match="AsyncSession"):
                        session.flush()
                    return
                session.commit()
                assert world.manager.get(document.file) == b"hello"
                assert document.file.original_filename == ("note.txt" if kind == "url" else None)
            world.check_laws()

        world.run(scenario)

    def test_a_file_that_cannot_be_fetched_fails_its_flush_and_names_the_field(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=unsaved(from_url("http://169.254.169.254/"))))
                with pytest.raises(RemoteRefusedError) as caught:
                    session.flush()
                assert caught.value.field == "file"
            assert world.stored() == set()

        world.run(scenario)

    def test_content_of_a_known_row_is_filed_under_it(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            with world.session() as session:
                document = the_document(session)
                document.file = unsaved(b"new", filename="Report.PDF")
                session.commit()
                assert document.file.location.startswith(f"document/{document.id}/file/")
                assert document.file.location.endswith(".pdf")

        world.run(scenario)

    @pytest.mark.parametrize("kind", ["bytes", "seekable", "pipe"])
    def test_content_is_stored_once_when_a_rollback_comes_between(self, world: World, kind: str) -> None:
        source: Any = {"bytes": b"hello", "seekable": io.BytesIO(b"hello"), "pipe": Pipe(b"hello")}[kind]

        def scenario() -> None:
            given_document(world)
            content = unsaved(source)
            with world.session() as session:
                the_document(session).file = content
                session.flush()
                session.rollback()
                the_document(session).file = content
                session.commit()
                assert world.manager.get(the_document(session).file) == b"hello"
            assert len(world.stored()) == 2
            world.check_laws()

        world.run(scenario)

    def test_a_stream_that_was_read_is_never_stored_as_an_empty_file(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            content = unsaved(Pipe(b"hello"))
            with world.session() as session:
                the_document(session).file = content
                session.flush()
                session.rollback()
                world.later(QUARTER)
                the_document(session).file = content
                with pytest.raises(ContentUnavailableError):
                    session.flush()
            assert len(world.held()) == 1

        world.run(scenario)

    def test_rewindable_content_is_stored_anew_when_the_first_store_is_too_old(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            content = unsaved(io.BytesIO(b"hello"))
            with world.session() as session:
                the_document(session).file = content
                session.flush()
                session.rollback()
                world.later(QUARTER)
                the_document(session).file = content
                session.commit()
            world.check_laws()

        world.run(scenario)

    def test_a_limit_names_the_field_and_leaves_nothing(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=unsaved(b"x" * 1001)))
                with pytest.raises(ContentTooLargeError) as caught:
                    session.commit()
            assert (caught.value.field, caught.value.limit, caught.value.value) == ("file", 1000, 1001)
            assert world.stored() == set()
            assert world.backend.open_writers == 0

        world.run(scenario)

    @pytest.mark.parametrize("operation", ["open_writer", "write", "commit"])
    def test_a_backend_that_fails_leaves_neither_row_nor_bytes(self, world: World, operation: Any) -> None:
        def scenario() -> None:
            with world.session() as session:
                document = Document(file=unsaved(b"hello"))
                session.add(document)
                world.backend.fail(operation)
                with pytest.raises(BackendUnavailableError):
                    session.commit()
                assert world.stored() == set()
                session.rollback()
                session.add(document)
                session.commit()
            assert len(world.held()) == 1
            world.check_laws()

        world.run(scenario)

    def test_what_another_listener_assigns_during_the_flush_is_stored_too(self, world: World) -> None:
        def late(session: Session, *_: Any) -> None:
            for document in session.new:
                document.file = unsaved(b"late")

        def scenario() -> None:
            with world.session() as session:
                event.listen(session, "before_flush", late)
                session.add(Document())
                session.commit()
            assert len(world.held()) == 1
            world.check_laws()

        world.run(scenario)

    def test_without_a_manager_the_error_names_the_call(self, world: World) -> None:
        del Base.metadata.info[MANAGER_KEY]

        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=unsaved(b"hello")))
                with pytest.raises(ConfigurationError, match=r"manager\.register\(Base\)"):
                    session.flush()

        world.run(scenario)


class TestLists:
    def test_changes_in_place_are_tracked(self, world: World) -> None:
        def scenario() -> None:
            a, b, c = (world.stage(name.encode()) for name in "abc")
            with world.session() as session:
                document = Document()
                document.pages.append(a)
                document.pages.append(unsaved(b"d"))
                session.add(document)
                session.commit()
                d = document.pages[1]
                document.pages.extend([b, c])
                session.commit()
                assert [*the_document(session).pages] == [a, d, b, c]
                document.pages.remove(d)
                session.commit()
                assert world.tombstones() == [d.location]
                document.pages.reverse()
                session.commit()
                session.expire_all()
                assert [*document.pages] == [c, b, a]
                assert world.tombstones() == [d.location]
                document.pages = [b]
                session.commit()
                assert set(world.tombstones()) == {a.location, c.location, d.location}
                document.pages[0] = unsaved(b"e")
                session.commit()
                assert b.location in world.tombstones()
                document.pages.clear()
                session.commit()
            assert world.held() == set()
            world.check_laws()

        world.run(scenario)

    def test_null_is_null(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            with world.session() as session:
                the_document(session).file = None
                session.commit()
                assert session.execute(text("SELECT count(*) FROM document WHERE file IS NULL")).scalar() == 1
                assert the_document(session).file is None

        world.run(scenario)


class TestAdmission:
    def test_a_staged_ref_is_refused_when_too_old_at_flush(self, world: World) -> None:
        def scenario() -> None:
            staged = world.stage()
            world.later(QUARTER)
            with world.session() as session:
                session.add(Document(file=staged))
                with pytest.raises(StaleRefError):
                    session.flush()
            assert world.held() == set()

        world.run(scenario)

    @pytest.mark.parametrize("flushed", [True, False])
    def test_a_staged_ref_is_refused_when_too_old_at_commit(self, world: World, flushed: bool) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=world.stage()))
                if flushed:
                    session.flush()
                world.later(QUARTER)
                with pytest.raises(StaleRefError):
                    session.commit()
            assert world.held() == set()

        world.run(scenario)

    def test_a_looked_up_ref_is_refused_when_too_old_at_commit(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            world.later(QUARTER)
            with world.session() as session:
                session.add(Document(title="second", file=the_document(session).file))
                session.flush()
                world.later(QUARTER)
                with pytest.raises(StaleRefError):
                    session.commit()
            assert world.held() == {old.location}
            assert len(world.rows()) == 1

        world.run(scenario)

    @pytest.mark.parametrize("expires", [True, False], ids=["loaded", "kept"])
    @pytest.mark.parametrize("what", ["append", "share"])
    def test_a_ref_that_a_row_holds_does_not_grow_too_old_within_a_moment(
        self, world: World, what: str, expires: bool
    ) -> None:
        """Staged nearly a quarter of the grace ago: a transaction that takes a moment is none the worse for it."""

        def scenario() -> None:
            with world.session(expire_on_commit=expires) as session:
                document = Document(file=world.stage(), pages=[world.stage(b"page")])
                session.add(document)
                session.commit()
                world.later(QUARTER * 0.99)
                if what == "append":
                    document.pages.append(world.stage(b"another"))
                else:
                    session.add(Document(file=document.file))
                session.flush()
                world.later(QUARTER * 0.02)
                session.commit()
            world.check_laws()

        world.run(scenario)

    def test_a_ref_that_no_row_holds_may_be_used_until_it_is_too_old(self, world: World) -> None:
        def scenario() -> None:
            ref = StoredObjectRef.from_dict(world.stage().to_dict())
            world.later(QUARTER * 0.9)
            with world.session() as session:
                session.add(Document(file=ref))
                session.flush()
                session.rollback()
                assert [each.location for each in world.manager.take_notes()] == [ref.location]
                session.add(Document(file=ref))
                session.flush()
                world.later(QUARTER * 0.2)
                with pytest.raises(StaleRefError):
                    session.commit()

        world.run(scenario)

    def test_old_tombstones_of_its_own_are_renewed_at_commit(self, world: World, monkeypatch: Any) -> None:
        from granite_core.integrations.sqlalchemy import unit_of_work

        def scenario() -> None:
            old = given_document(world)
            with world.session() as session:
                session.delete(the_document(session))
                session.flush()
                real = unit_of_work.time.monotonic
                monkeypatch.setattr(unit_of_work.time, "monotonic", lambda: real() + QUARTER.total_seconds())
                session.commit()
            assert world.tombstones() == [old.location] * 2

        world.run(scenario)

    def test_a_ref_may_be_shared_between_rows(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            world.later(QUARTER)
            with world.session() as session:
                session.add(Document(title="second", cover=the_document(session).file))
                session.commit()
            assert len(world.rows()) == 2
            with world.session() as session:
                session.delete(session.scalars(select(Document).where(Document.title == "second")).one())
                session.commit()
            assert world.held() == {old.location}
            assert world.tombstones() == [old.location]
            world.check_laws()

        world.run(scenario)

    def test_a_ref_may_be_moved_and_swapped(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                a, b = Document(title="a", file=world.stage(b"a")), Document(title="b", file=world.stage(b"b"))
                session.add_all([a, b])
                session.commit()
                first, second = a.file, b.file
                world.later(QUARTER)
                a.file, b.file = b.file, a.file
                session.commit()
                session.expire_all()
                assert (a.file, b.file) == (second, first)
                a.file, a.cover = None, a.file
                session.commit()
                assert a.cover == second
            assert world.held() == {first.location, second.location}
            world.check_laws()

        world.run(scenario)

    def test_a_ref_may_be_set_back_in_the_transaction_that_released_it(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            world.later(QUARTER)
            with world.session() as session:
                document = the_document(session)
                document.file = None
                session.flush()
                document.file = old
                session.commit()
            assert world.held() == {old.location}
            world.check_laws()

        world.run(scenario)

    def test_a_ref_from_a_row_that_another_transaction_changed_meanwhile_is_refused(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            world.later(QUARTER)
            with world.session(expire_on_commit=False) as session:
                stale = the_document(session)
                session.commit()
                with world.session() as other:
                    the_document(other).file = None
                    other.commit()
                session.add(Document(title="second", file=stale.file))
                with pytest.raises(StaleRefError):
                    session.commit()
            assert world.held() == set()
            assert world.tombstones() == [old.location]

        world.run(scenario)

    def test_replacing_a_row_that_another_transaction_changed_releases_what_it_really_held(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.session(expire_on_commit=False) as session:
                stale = the_document(session)
                session.commit()
                with world.session() as other:  # moves the file to another row
                    moved = the_document(other)
                    other.add(Document(title="second", file=moved.file))
                    moved.file = between = world.stage(b"between")
                    other.commit()
                stale.file = world.stage(b"new")
                session.commit()
            assert old.location in world.held()
            assert between.location in world.tombstones()
            world.check_laws()

        world.run(scenario)

    def test_a_core_insert_takes_a_staged_ref_and_passes_the_same_rule(self, world: World) -> None:
        def scenario() -> None:
            staged, old = world.stage(), world.stage(b"old")
            with world.session() as session:
                session.execute(insert(Document).values(title="x", file=staged, pages=[]))
                session.execute(insert(Document), [{"title": "y", "pages": [staged]}])
                session.commit()
                assert staged.kept
                world.later(QUARTER)
                with pytest.raises(StaleRefError):
                    session.execute(insert(Document).values([{"title": "z", "file": old, "pages": []}]))
                with pytest.raises(StaleRefError):
                    session.execute(insert(Document), [{"title": "z", "pages": [old]}])
                with pytest.raises(StaleRefError):
                    session.execute(update(Document).values(cover=old))
                session.rollback()
            assert world.held() == {staged.location}
            world.check_laws(left_to_reconcile=1)

        world.run(scenario)

    def test_a_ref_that_a_statement_only_compares_with_is_not_held_against_the_rule(self, world: World) -> None:
        def scenario() -> None:
            gone = world.stage()
            world.later(QUARTER)
            with world.session() as session:
                changed = session.execute(
                    update(Document).where(Document.title == "x", Document.file == gone).values(title="y")
                )
                assert changed.rowcount == 0

        world.run(scenario)

    def test_columns_that_hold_refs_are_registered_once(self, world: World) -> None:
        def scenario() -> None:
            for n in range(3):
                with world.session() as session:
                    session.add(Document(title=str(n), file=world.stage(), pages=[world.stage()]))
                    session.commit()
            assert world.known_columns() == {("document", "file"), ("document", "pages")}

        world.run(scenario)


class TestReplacing:
    def test_twice_in_one_transaction(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.session() as session:
                document = the_document(session)
                document.file = first = world.stage(b"1")
                session.flush()
                document.file = second = world.stage(b"2")
                session.commit()
            assert world.held() == {second.location}
            assert set(world.tombstones()) == {old.location, first.location}
            world.check_laws()

        world.run(scenario)

    def test_with_the_same_filename(self, world: World) -> None:
        def scenario() -> None:
            given_document(world, b"old")
            with world.session() as session:
                the_document(session).file = world.stage(b"new", "a.txt")
                session.commit()
                assert world.manager.get(the_document(session).file) == b"new"
            assert len(world.stored()) == 2

        world.run(scenario)

    @pytest.mark.parametrize("how", ["expired", "deferred"])
    def test_an_attribute_that_is_not_loaded(self, world: World, how: str) -> None:
        def scenario() -> None:
            late = world.stage(b"late")
            old = given_document(world, late=late)
            with world.session() as session:
                document = the_document(session)
                if how == "expired":
                    session.expire(document)
                    document.file = None
                else:
                    document.late = None
                session.commit()
            assert world.tombstones() == [(old if how == "expired" else late).location]
            world.check_laws()

        world.run(scenario)

    def test_in_a_joined_hierarchy(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                company = Company(avatar=world.stage(b"avatar"), logo=world.stage(b"logo"))
                session.add_all([company, Account(avatar=world.stage(b"other"))])
                session.commit()
                avatar, logo = company.avatar, company.logo
                company.logo = unsaved(b"new")
                session.commit()
                assert world.tombstones() == [logo.location]
                session.delete(company)
                session.commit()
                assert avatar.location in world.tombstones()
            world.check_laws()

        world.run(scenario)

    def test_one_query_reads_what_all_rows_of_a_flush_held(self, world: World) -> None:
        statements: list[str] = []

        def scenario() -> None:
            with world.session() as session:
                session.add_all(Document(title=str(n), file=world.stage()) for n in range(20))
                session.commit()
            event.listen(world.engine, "before_cursor_execute", lambda c, cu, s, p, x, m: statements.append(s))
            with world.session() as session:
                for document in session.scalars(select(Document)).all():
                    session.delete(document)
                session.commit()
            assert len(set(world.tombstones())) == 20

        world.run(scenario)
        assert len([s for s in statements if s.startswith("SELECT") and "WHERE document.id IN" in s]) == 1


class TestAsyncSession:
    """The same through AsyncSession itself."""

    @pytest.fixture(params=["aiosqlite", "asyncpg"])
    def async_world(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
        aiosqlite = f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"
        url = aiosqlite if request.param == "aiosqlite" else request.getfixturevalue("postgres_async_url")
        with make_world(url) as world:
            yield world

    def test_commit_rollback_and_exception(self, async_world: World) -> None:
        world = async_world

        async def main() -> None:
            async with AsyncSession(world.any_engine) as session:
                session.add(Document(title="kept", file=unsaved(b"kept")))
                await session.commit()
            with pytest.raises(RuntimeError):
                async with AsyncSession(world.any_engine) as session, session.begin():
                    session.add(Document(title="lost", file=unsaved(b"lost")))
                    await session.flush()
                    raise RuntimeError
            await world.any_engine.dispose()

        asyncio.run(main())
        world.run(world.check_laws)
        assert len(world.stored()) == 2

    def test_a_cancelled_task_leaves_nothing_unseen(self, async_world: World) -> None:
        world = async_world

        async def main() -> None:
            async def work() -> None:
                async with AsyncSession(world.any_engine) as session:
                    session.add(Document(file=unsaved(b"hello")))
                    await session.commit()

            task = asyncio.create_task(work())
            world.backend.call("commit", lambda: loop.call_soon_threadsafe(task.cancel))
            loop = asyncio.get_running_loop()
            with pytest.raises(asyncio.CancelledError):
                await task
            await world.any_engine.dispose()

        asyncio.run(main())
        world.run(world.check_laws)
        assert world.run(world.held) == set()


def test_two_bases_may_have_two_managers(tmp_path: Path) -> None:
    class One(DeclarativeBase):
        pass

    class Two(DeclarativeBase):
        metadata = type(One.metadata)()

    class A(One):
        __tablename__ = "a"
        id: Mapped[int] = mapped_column(primary_key=True)
        file: Mapped[StoredObjectRef | None] = file_field("files")

    class B(Two):
        __tablename__ = "b"
        id: Mapped[int] = mapped_column(primary_key=True)
        file: Mapped[StoredObjectRef | None] = file_field("files")

    stores = [MemoryStorageBackend(), MemoryStorageBackend()]
    for base, store in zip((One, Two), stores, strict=True):
        manager = StorageManager({"main": store}, [StoragePolicy("files", "main")], grace=timedelta(hours=1))
        manager.register(base)
    engine = create_engine("sqlite://")
    One.metadata.create_all(engine)
    Two.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([A(file=unsaved(b"a")), B(file=unsaved(b"b"))])
        session.commit()
    assert [len([*store.iter_locations()]) for store in stores] == [1, 1]


def test_what_an_object_keeps_from_another_row_passes_the_rule_beside_what_it_gets(tmp_path: Path) -> None:
    class OwnBase(DeclarativeBase):
        pass

    class Pair(OwnBase):
        __tablename__ = "pair"
        id: Mapped[int] = mapped_column(primary_key=True)
        first: Mapped[StoredObjectRef | None] = file_field("files")
        second: Mapped[StoredObjectRef | None] = file_field("files")

    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("files", "main")])
    manager.register(OwnBase)
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    OwnBase.metadata.create_all(engine)
    old = StoredObjectRef("files", "main", "old", 1, created_at="2020-01-01T00:00:00.000000Z")
    with engine.begin() as connection:
        connection.execute(insert(Pair).values(id=1, second=old))
    with Session(engine, expire_on_commit=False) as session:
        pair = session.get_one(Pair, 1)
        session.commit()
        make_transient(pair)
        with engine.begin() as connection:
            connection.execute(delete(Pair))  # nobody holds the old file any more
        pair.first = manager.put_bytes("files", content=b"new")
        session.add(pair)
        with pytest.raises(StaleRefError, match="second"):
            session.commit()


def test_without_the_tables_everything_works_but_tombstones(tmp_path: Path) -> None:
    class Bare(DeclarativeBase):
        metadata = MetaData(info={"granite_tables": False})

    class Note(Bare):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        file: Mapped[StoredObjectRef | None] = file_field("files")

    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("files", "main")])
    manager.register(Bare)
    engine = create_engine("sqlite://")
    Bare.metadata.create_all(engine)
    assert [*Bare.metadata.tables] == ["note"]
    with Session(engine) as session:
        note = Note(file=unsaved(b"a"))
        session.add(note)
        session.commit()
        note.file = unsaved(b"b")
        session.commit()
        session.delete(note)
        session.commit()
