"""What becomes of files when transactions and savepoints end, however they end (laws 1 to 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from granite_core import StaleRefError, StoredObjectRef
from tests.integration.sqlalchemy.world import Document, Folder, World, make_world


def given_document(world: World, content: bytes = b"old", **fields: Any) -> StoredObjectRef:
    """A committed row with a file, and nothing else."""
    with world.session() as session:
        document = Document(title="given", file=world.stage(content), **fields)
        session.add(document)
        session.commit()
        return document.file


def the_document(session: Session) -> Document:
    return session.scalars(select(Document)).one()


@pytest.mark.usefixtures("world")
class TestEnds:
    def test_a_commit_keeps_the_file(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=world.stage()))
                session.commit()
            assert world.held() == world.stored()
            assert world.tombstones() == []
            assert world.manager.take_notes() == []
            world.check_laws()

        world.run(scenario)

    @pytest.mark.parametrize("end", ["rollback", "close", "exception"])
    def test_what_was_flushed_and_not_committed_is_noted_and_not_deleted(self, world: World, end: str) -> None:
        def scenario() -> None:
            expected: Any = pytest.raises(RuntimeError) if end == "exception" else nullcontext()
            with expected, world.session() as session:
                session.add(Document(file=world.stage()))
                session.flush()
                if end == "rollback":
                    session.rollback()
                elif end == "exception":
                    raise RuntimeError
            assert len(world.stored()) == 1
            assert world.held() == set()
            assert {ref.location for ref in world.manager.take_notes()} == world.stored()

        world.run(scenario)

    def test_what_was_never_flushed_is_left_to_whoever_staged_it(self, world: World) -> None:
        def scenario() -> None:
            staged = world.stage()
            with world.session() as session:
                session.add(Document(file=staged))
                session.rollback()
            assert world.manager.discard(staged)
            assert world.stored() == set()
            with world.session() as session, pytest.raises(StaleRefError):
                session.add(Document(file=staged))
                session.flush()

        world.run(scenario)

    def test_what_a_flush_has_seen_is_not_discarded(self, world: World) -> None:
        def scenario() -> None:
            staged = world.stage()
            with world.session() as session:
                session.add(Document(file=staged))
                session.flush()
                session.rollback()
                assert not world.manager.discard(staged)
                session.add(Document(file=staged))
                session.commit()
            world.check_laws()

        world.run(scenario)

    @pytest.mark.parametrize("inner", ["release", "rollback"])
    @pytest.mark.parametrize("outer", ["commit", "rollback"])
    def test_a_new_file_in_a_savepoint(self, world: World, inner: str, outer: str) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(title="outer", file=world.stage(b"outer")))
                savepoint = session.begin_nested()
                session.add(Document(title="inner", file=world.stage(b"inner")))
                session.flush()
                getattr(savepoint, "commit" if inner == "release" else "rollback")()
                getattr(session, outer)()
            expected = {"commit": {"release": 2, "rollback": 1}, "rollback": {"release": 0, "rollback": 0}}
            assert len(world.held()) == expected[outer][inner]
            world.check_laws()

        world.run(scenario)

    @pytest.mark.parametrize("inner", ["release", "rollback"])
    @pytest.mark.parametrize("outer", ["commit", "rollback"])
    @pytest.mark.parametrize("change", ["replace", "delete"])
    def test_letting_go_in_a_savepoint(self, world: World, inner: str, outer: str, change: str) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.session() as session:
                document = the_document(session)
                savepoint = session.begin_nested()
                if change == "replace":
                    document.file = world.stage(b"new")
                else:
                    session.delete(document)
                session.flush()
                getattr(savepoint, "commit" if inner == "release" else "rollback")()
                getattr(session, outer)()
            if (inner, outer) == ("release", "commit"):
                assert old.location not in world.held()
                assert world.tombstones() == [old.location]
            else:
                assert world.held() == {old.location}
                assert world.tombstones() == []
            world.check_laws()

        world.run(scenario)

    def test_two_levels_of_savepoints(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                first = session.begin_nested()
                session.add(Document(title="1", file=world.stage(b"1")))
                second = session.begin_nested()
                session.add(Document(title="2", file=world.stage(b"2")))
                session.flush()
                second.rollback()
                first.commit()
                session.add(Document(title="3", file=world.stage(b"3")))
                session.commit()
            assert len(world.held()) == 2
            world.check_laws()

        world.run(scenario)

    def test_a_failing_flush_leaves_the_next_one_clean(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            with world.session() as session:
                session.add(Document(title="given", file=world.stage(b"second")))
                with pytest.raises(IntegrityError):
                    session.flush()
                session.rollback()
                session.add(Document(title="other", file=world.stage(b"third")))
                session.commit()
            assert len(world.held()) == 2
            world.check_laws()

        world.run(scenario)

    def test_a_unique_violation_at_commit_keeps_the_files_of_both(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.session() as session:
                session.add(Document(title="given", file=world.stage(b"second")))
                with pytest.raises(IntegrityError):
                    session.commit()
            assert world.held() == {old.location}
            assert world.tombstones() == []
            world.check_laws()

        world.run(scenario)

    def test_the_same_file_is_committed_after_a_rollback(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            document = Document(title="given", file=world.stage(b"second"))
            with world.session() as session:
                session.add(document)
                with pytest.raises(IntegrityError):
                    session.commit()
                session.rollback()
                document.title = "mended"
                session.add(document)
                session.commit()
            assert len(world.held()) == 2
            world.check_laws()

        world.run(scenario)

    def test_delete_then_rollback_keeps_row_and_file(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.session() as session:
                session.delete(the_document(session))
                session.flush()
                session.rollback()
            assert world.held() == {old.location}
            assert world.tombstones() == []

        world.run(scenario)

    def test_delete_then_close_then_another_commit_on_the_same_session(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            session = world.session()
            session.delete(the_document(session))
            session.flush()
            session.close()
            session.add(Document(title="other", file=world.stage(b"other")))
            session.commit()
            session.close()
            assert old.location in world.held()
            assert world.tombstones() == []
            world.check_laws()

        world.run(scenario)


class TestJoined:
    """A session on a connection whose transaction it does not own."""

    @pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_the_outer_transaction_decides(self, world: World, mode: Any, end: str) -> None:
        def scenario() -> None:
            old = given_document(world)
            with world.engine.connect() as connection:
                outer = connection.begin()
                session = Session(bind=connection, join_transaction_mode=mode)
                the_document(session).file = world.stage(b"new")
                session.commit()
                session.close()
                if outer.is_active:
                    getattr(outer, end)()
            committed = mode == "control_fully" or end == "commit"
            assert (old.location in world.held()) is not committed
            assert (old.location in world.tombstones()) is committed
            # The new file of an outer rollback is nobody's business but the reconcile's: the session saw a commit.
            world.check_laws(left_to_reconcile=0 if committed else 1)

        world.run(scenario)

    @pytest.mark.parametrize("end", ["close", "rollback"])
    def test_a_row_that_lives_although_the_session_rolled_back_keeps_its_file(self, world: World, end: str) -> None:
        def scenario() -> None:
            with world.engine.connect() as connection:
                outer = connection.begin()
                session = Session(bind=connection, join_transaction_mode="rollback_only")
                session.add(Document(file=world.stage()))
                session.flush()
                if end == "close":
                    session.close()
                    outer.commit() if outer.is_active else None
                else:
                    session.rollback()
                    outer.rollback() if outer.is_active else None
            for ref in world.rows():
                world.manager.verify(ref)
            world.check_laws()

        world.run(scenario)

    def test_a_savepoint_that_the_default_pysqlite_released_keeps_its_files(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path}/default.sqlite3")
        world = World(engine)
        from tests.integration.sqlalchemy.world import Base

        Base.metadata.create_all(engine)
        with world.session() as session:
            with session.begin_nested():
                session.add(Document(file=world.stage()))
            session.rollback()
        for ref in world.rows():  # the driver committed it with the savepoint, whatever the session believes
            world.manager.verify(ref)
        world.check_laws()
        engine.dispose()

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_autocommit_keeps_what_its_statements_wrote(self, url: str, end: str) -> None:
        with make_world(url, isolation_level="AUTOCOMMIT") as world:

            def scenario() -> None:
                old = given_document(world)
                with world.session() as session:
                    the_document(session).file = world.stage(b"new")
                    session.flush()
                    getattr(session, end)()
                assert old.location not in world.held()
                assert world.tombstones() == [old.location]
                world.check_laws()

            world.run(scenario)


class TestFailingCommit:
    def fail_commit_once(self, world: World, *, after: bool = False) -> None:
        """Make the driver's next COMMIT fail, before it is sent or after it has taken effect."""
        dialect = world.engine.dialect
        original: Callable[[Any], None] = dialect.do_commit

        def do_commit(connection: Any) -> None:
            dialect.do_commit = original  # type: ignore[method-assign]
            if after:
                original(connection)
            raise OperationalError("COMMIT", None, RuntimeError("the answer is lost" if after else "busy"))

        dialect.do_commit = do_commit  # type: ignore[method-assign]

    def test_a_failed_commit_and_close_does_not_hand_its_rows_to_the_next_user(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            session = world.session()
            the_document(session).file = world.stage(b"new")
            session.flush()
            self.fail_commit_once(world)
            with pytest.raises(OperationalError):
                session.commit()
            session.close()
            with world.session() as other:
                other.execute(text("SELECT 1"))
                other.commit()
            assert world.held() == {old.location}
            world.check_laws()

        world.run(scenario)

    def test_an_exception_in_the_engine_s_commit_event_does_the_same(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            session = world.session()
            the_document(session).file = world.stage(b"new")
            session.flush()

            def explode(connection: Any) -> None:
                raise RuntimeError

            event.listen(world.engine, "commit", explode)
            with pytest.raises(RuntimeError):
                session.commit()
            event.remove(world.engine, "commit", explode)
            session.close()
            with world.session() as other:
                other.execute(text("SELECT 1"))
                other.commit()
            assert world.held() == {old.location}
            world.check_laws()

        world.run(scenario)

    def test_a_commit_whose_answer_is_lost_keeps_the_new_file(self, world: World) -> None:
        def scenario() -> None:
            old = given_document(world)
            session = world.session()
            the_document(session).file = world.stage(b"new")
            session.flush()
            self.fail_commit_once(world, after=True)
            with pytest.raises(OperationalError):
                session.commit()
            session.close()
            assert old.location not in world.held()
            assert world.tombstones() == [old.location]
            world.check_laws()

        world.run(scenario)

    def test_in_memory_sqlite_survives_a_failed_commit(self) -> None:
        with make_world("sqlite://", poolclass=StaticPool) as world:
            old = given_document(world)
            session = world.session()
            the_document(session).file = world.stage(b"new")
            session.flush()
            self.fail_commit_once(world)
            with pytest.raises(OperationalError):
                session.commit()
            session.close()
            assert world.held() == {old.location}


class TestOldWithNew:
    def test_cascade_and_delete_orphan_leave_tombstones(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                folder = Folder(documents=[Document(title=str(n), file=world.stage(b"%d" % n)) for n in range(3)])
                session.add(folder)
                session.commit()
                orphan = folder.documents.pop()
                gone = [orphan.file.location]
                session.commit()
                assert world.tombstones() == gone
                session.delete(folder)
                session.commit()
            assert set(world.tombstones()) == world.stored()
            assert len(world.stored()) == 3
            assert world.held() == set()

        world.run(scenario)

    @pytest.mark.parametrize("how", ["bulk", "core"])
    def test_bulk_and_core_deletes_are_left_to_the_reconcile(self, world: World, how: str) -> None:
        from sqlalchemy import delete

        def scenario() -> None:
            given_document(world)
            with world.session() as session:
                session.execute(delete(Document) if how == "bulk" else text("DELETE FROM document"))
                session.commit()
            assert world.held() == set()
            world.check_laws(left_to_reconcile=1)

        world.run(scenario)


@pytest.fixture(autouse=True)
def _no_warnings_from_sqlalchemy(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    ours = [w for w in recwarn.list if "granite" in str(w.filename) or "cache key" in str(w.message)]
    assert ours == []
