"""The sweep: what goes, what stays, and what happens half-way (laws 2 and 3)."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from granite_core import AccessDeniedError, BackendUnavailableError, Capability, MemoryStorageBackend, StoredObjectRef
from granite_core.gc import Collector
from granite_core.gc.marker import MARKER_KEY
from granite_core.gc.ports import Batch
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, db_now
from tests.integration.sqlalchemy.collecting import (
    GRACE_MS,
    MINUTE,
    age_everything,
    bury,
    collector,
    keep,
    rows_of,
    store,
    sweep,
    tables,
)
from tests.integration.sqlalchemy.world import Base, Document, World


class TestWhatGoes:
    def test_what_nobody_holds_goes_when_the_grace_has_passed(self, world: World) -> None:
        def scenario() -> None:
            kept = keep(world)
            store(world, "gone")
            bury(world, "gone")
            report = sweep(world)
            assert world.stored() == {kept.location}
            assert world.tombstones() == []
            assert (report.examined, report.deleted, report.examples) == (1, 1, ("gone",))
            json.dumps(report.to_dict())

        world.run(scenario)

    def test_what_was_let_go_lately_waits(self, world: World) -> None:
        def scenario() -> None:
            store(world, "waits")
            bury(world, "waits", age=GRACE_MS - MINUTE)
            report = sweep(world)
            assert (report.examined, world.stored(), world.tombstones()) == (0, {"waits"}, ["waits"])

        world.run(scenario)

    def test_retention_adds_to_the_grace(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a", "b")
            bury(world, "a", retention=2 * MINUTE)
            bury(world, "b", age=GRACE_MS + 3 * MINUTE, retention=2 * MINUTE)
            sweep(world)
            assert world.stored() == {"a"}

        world.run(scenario)

    def test_a_younger_tombstone_is_heeded(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            bury(world, "a", age=MINUTE)
            report = sweep(world)
            assert (report.younger, report.deleted, world.stored(), world.tombstones()) == (1, 0, {"a"}, ["a"])
            age_everything(world)
            assert sweep(world).deleted == 1

        world.run(scenario)

    @pytest.mark.parametrize("where", ["file", "cover", "pages", "late"])
    def test_what_a_row_holds_in_any_column_stays(self, world: World, where: str) -> None:
        def scenario() -> None:
            with world.session() as session:
                ref = world.stage()
                session.add(Document(**{where: [world.stage(b"other"), ref] if where == "pages" else ref}))
                session.commit()
            bury(world, ref.location)
            report = sweep(world)
            assert (report.held, report.deleted) == (1, 0)
            assert ref.location in world.stored()
            assert world.tombstones() == []

        world.run(scenario)

    def test_a_shared_file_goes_with_its_last_row(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world)
            with world.session() as session:
                session.add(Document(title="second", cover=ref))
                session.commit()
                session.delete(session.scalars(select(Document).where(Document.title.is_(None))).one())
                session.commit()
            age_everything(world)
            assert sweep(world).held == 1
            with world.session() as session:
                session.delete(session.scalars(select(Document)).one())
                session.commit()
            assert sweep(world).examined == 0
            age_everything(world)
            assert sweep(world).deleted == 1
            assert world.stored() == set()

        world.run(scenario)

    def test_a_row_is_found_by_location_whatever_its_backend_is_called(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world)
            bury(world, ref.location, backend="main")
            renamed = {"backend": "old-name"}
            with world.engine.begin() as connection:
                held = connection.execute(select(Document.file)).scalar_one()
                other = StoredObjectRef.from_dict({**held.to_dict(), **renamed})
                connection.execute(update(Document).values(file=other))
            assert sweep(world).held == 1
            assert world.stored() == {ref.location}

        world.run(scenario)

    def test_an_unreleased_note_is_not_looked_at(self, world: World) -> None:
        def scenario() -> None:
            store(world, "noted")
            bury(world, "noted", run="some-run")
            assert sweep(world).examined == 0
            assert world.stored() == {"noted"}

        world.run(scenario)

    def test_an_object_that_is_gone_already_is_no_failure(self, world: World) -> None:
        def scenario() -> None:
            bury(world, "never-was")
            report = sweep(world)
            assert (report.deleted, report.failed, world.tombstones()) == (1, 0, [])

        world.run(scenario)

    def test_references_from_elsewhere_count(self, world: World) -> None:
        def elsewhere(locations: Collection[str]) -> set[str]:
            return {"elsewhere"} & set(locations)

        def scenario() -> None:
            store(world, "elsewhere", "nowhere")
            bury(world, "elsewhere")
            bury(world, "nowhere")
            report = collector(world, references=[elsewhere]).sweep()
            assert (report.held, report.deleted, world.stored()) == (1, 1, {"elsewhere"})

        world.run(scenario)

    def test_many_batches_are_swept_in_one_run(self, world: World) -> None:
        def scenario() -> None:
            for index in range(25):
                store(world, f"o{index}")
                bury(world, f"o{index}")
            report = collector(world, batch_size=10).sweep()
            assert (report.deleted, world.stored(), world.tombstones()) == (25, set(), [])

        world.run(scenario)


class TestManyAtOnce:
    """Backends that delete many objects with one request."""

    @pytest.fixture
    def batching(self, world: World) -> World:
        world.backend.capabilities |= {Capability.BATCH_DELETE}
        return world

    def test_a_batch_is_one_call(self, batching: World) -> None:
        def scenario() -> None:
            kept = keep(batching)
            bury(batching, kept.location)
            for index in range(25):
                store(batching, f"o{index}")
                bury(batching, f"o{index}")
            report = collector(batching, batch_size=10).sweep()
            assert (report.deleted, report.held, report.failed) == (25, 1, 0)
            assert (batching.stored(), batching.tombstones()) == ({kept.location}, [])
            assert (batching.backend.calls["delete_many"], batching.backend.calls["delete"]) == (3, 0)

        batching.run(scenario)

    def test_one_that_fails_ends_nothing_and_is_retried_later(
        self, batching: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def scenario() -> None:
            for location in ("a", "b", "c"):
                store(batching, location)
                bury(batching, location)
            with monkeypatch.context() as patch:
                delete = batching.store.delete
                patch.setattr(batching.store, "delete", lambda key: delete(key) if key != "b" else deny())
                report = sweep(batching)
            assert (report.deleted, report.failed, batching.stored()) == (2, 1, {"b"})
            assert [(each.backend, each.location) for each in report.problems] == [("main", "b")]
            (row,) = rows_of(batching, tables().tombstone)
            assert (row.location, row.attempts) == ("b", 1)
            assert sweep(batching).examined == 0
            age_everything(batching)
            assert sweep(batching).deleted == 1

        batching.run(scenario)

    @pytest.mark.parametrize("late", [False, True])
    def test_a_call_that_fails_as_a_whole_is_repeated_later(self, batching: World, late: bool) -> None:
        def scenario() -> None:
            kept = keep(batching)
            bury(batching, kept.location)
            for location in ("a", "b"):
                store(batching, location)
                bury(batching, location)
            batching.backend.fail("delete_many", RuntimeError("no error of ours"), late=late)
            report = sweep(batching)
            assert (report.held, report.deleted, report.failed) == (1, 0, 2)
            assert batching.tombstones() == ["a", "b"]
            age_everything(batching)
            assert sweep(batching).deleted == 2
            assert batching.stored() == {kept.location}

        batching.run(scenario)

    def test_a_stop_comes_between_two_batches(self, batching: World) -> None:
        def scenario() -> None:
            stop = threading.Event()
            for index in range(10):
                store(batching, f"o{index}")
                bury(batching, f"o{index}")
            batching.backend.call("delete_many", stop.set, at=2)
            report = collector(batching, batch_size=4).sweep(stop=stop)
            assert report.stopped
            assert (report.deleted, len(batching.tombstones())) == (8, 2)

        batching.run(scenario)


def deny() -> None:
    raise AccessDeniedError("delete: not yours")


class TestHalfWay:
    def test_one_failing_delete_ends_nothing_and_is_retried_later(self, world: World) -> None:
        def scenario() -> None:
            for location in ("a", "b", "c"):
                store(world, location)
                bury(world, location)
            world.backend.fail("delete", at=2)
            report = sweep(world)
            assert (report.deleted, report.failed, len(world.stored())) == (2, 1, 1)
            assert report.problems[0].location in world.stored()
            assert "delete was made to fail" in report.problems[0].message
            (row,) = rows_of(world, tables().tombstone)
            with world.engine.connect() as connection:
                now = connection.scalar(select(db_now()))
            assert row.attempts == 1
            assert now is not None
            assert now + MINUTE // 2 < row.retry_at < now + 2 * MINUTE
            assert sweep(world).examined == 0
            age_everything(world)
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_any_exception_of_a_backend_is_one_failing_delete(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a", "b")
            bury(world, "a")
            bury(world, "b")
            world.backend.fail("delete", RuntimeError("no error of ours"))
            report = sweep(world)
            assert (report.deleted, report.failed) == (1, 1)

        world.run(scenario)

    def test_a_crash_between_delete_and_drop_is_made_good(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            with monkeypatch.context() as patch:
                patch.setattr(SQLAlchemyLedger, "drop", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    sweep(world)
            assert (world.stored(), world.tombstones()) == (set(), ["a"])
            report = sweep(world)
            assert (report.deleted, report.failed, world.tombstones()) == (1, 0, [])

        world.run(scenario)

    def test_what_a_sweep_that_died_had_begun_is_tried_again_when_its_lease_has_ended(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a")
            died = collector(world, lease_for=timedelta(seconds=30))
            with monkeypatch.context() as patch:
                patch.setattr(SQLAlchemyLedger, "look", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    died.sweep()
            with world.engine.begin() as connection:  # as if it could not even give the lease back
                state = tables().state
                held = {"holder": "dead", "expires_at": db_now() + 60_000}
                connection.execute(state.update().where(state.c.name == "lease:sweep").values(**held))
            assert sweep(world).skipped == "the lease is held by dead"
            with world.engine.begin() as connection:
                connection.execute(state.update().values(expires_at=1))
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_what_is_in_two_backends_is_gone_when_it_is_gone_from_both(self, world: World) -> None:
        def scenario() -> None:
            other = MemoryStorageBackend()
            world.manager._backends = {**world.manager._backends, "other": other}
            for location in ("a", "b", "c"):
                store(world, location)
                other.put_bytes(location, b"")
                bury(world, location)
                bury(world, location, backend="other")
            world.backend.fail("delete", at=2)
            report = sweep(world)
            assert (report.deleted, report.failed, len(report.problems)) == (2, 1, 1)
            (left,) = world.stored()
            assert world.tombstones() == [left, left]
            age_everything(world)
            assert sweep(world).deleted == 1
            assert (world.stored(), world.tombstones(), [*other.iter_locations()]) == (set(), [], [])

        world.run(scenario)

    def test_what_takes_long_to_delete_is_deleted_in_pieces(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def scenario() -> None:
            monkeypatch.setattr("granite_core.gc._sweep.AT_A_TIME", 0.0)
            for index in range(5):
                store(world, f"o{index}")
                bury(world, f"o{index}")
            world.backend.fail("delete", at=4)
            report = sweep(world)
            assert (report.examined, report.deleted, report.failed) == (5, 4, 1)
            assert len(world.stored()) == len(world.tombstones()) == 1

        world.run(scenario)

    def test_a_stop_ends_the_run_and_the_next_one_goes_on(self, world: World) -> None:
        def scenario() -> None:
            stop = threading.Event()
            for index in range(10):
                store(world, f"o{index}")
                bury(world, f"o{index}")
            world.backend.call("delete", stop.set, at=3)
            report = collector(world).sweep(stop=stop)
            assert report.stopped
            assert (report.deleted, len(world.tombstones())) == (3, 7)
            age_everything(world)
            assert sweep(world).deleted == 7

        world.run(scenario)

    def test_an_unknown_backend_is_reported_and_its_tombstones_stay(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a", "b")
            bury(world, "a", backend="gone")
            bury(world, "b")
            report = sweep(world)
            assert (report.deleted, report.failed, world.tombstones()) == (1, 1, ["a"])
            assert "'gone' is not known" in report.problems[0].message

        world.run(scenario)

    def test_a_backend_that_cannot_be_asked_stops_only_its_own_objects(self, world: World) -> None:
        def scenario() -> None:
            other = MemoryStorageBackend()
            world.manager._backends = {**world.manager._backends, "other": other}
            store(world, "a")
            other.put_bytes("b", b"")
            bury(world, "a")
            bury(world, "b", backend="other")
            world.backend.fail("open_reader", BackendUnavailableError("down"))
            report = sweep(world)
            assert (report.deleted, report.failed, world.stored()) == (1, 1, {"a"})
            assert not other.exists("b")

        world.run(scenario)


class TestDryRun:
    def test_a_dry_run_reports_and_changes_nothing(self, world: World) -> None:
        def scenario() -> None:
            kept = keep(world)
            world.manager.note([kept])
            bury(world, kept.location)
            for index in range(5):
                store(world, f"o{index}")
                bury(world, f"o{index}")
            before = [rows_of(world, table) for table in (tables().tombstone, tables().state, tables().column)]
            stored = world.stored()
            report = collector(world, batch_size=2).sweep(dry_run=True)
            assert (report.dry_run, report.examined, report.deleted, report.held) == (True, 6, 5, 1)
            assert before == [rows_of(world, table) for table in (tables().tombstone, tables().state, tables().column)]
            assert world.stored() == stored
            assert not world.store.exists(MARKER_KEY)
            assert len(world.manager.take_notes()) == 1

        world.run(scenario)


class TestNotes:
    def test_what_this_process_noted_becomes_tombstones(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=world.stage()))
                session.flush()
                session.rollback()
            report = sweep(world)
            assert (report.notes, len(world.tombstones()), len(world.stored())) == (1, 1, 1)
            age_everything(world)
            assert sweep(world).deleted == 1
            assert world.stored() == set()

        world.run(scenario)

    def test_notes_are_written_by_those_who_do_not_hold_the_lease_too(self, world: World) -> None:
        def scenario() -> None:
            world.manager.note([world.stage()])
            one = collector(world)
            one._ledger.take_lease("lease:sweep", "someone else", 60_000)
            report = one.sweep()
            assert report.skipped == "the lease is held by someone else"
            assert (report.notes, len(world.tombstones())) == (1, 1)

        world.run(scenario)

    def test_notes_that_cannot_be_written_are_kept(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def scenario() -> None:
            world.manager.note([world.stage()])
            with monkeypatch.context() as patch:
                patch.setattr(SQLAlchemyLedger, "write_notes", lambda *_: (_ for _ in ()).throw(RuntimeError))
                with pytest.raises(RuntimeError):
                    sweep(world)
            assert len(world.manager.take_notes()) == 1

        world.run(scenario)


class TestLease:
    def test_a_lease_is_given_back_at_the_end(self, world: World) -> None:
        def scenario() -> None:
            assert sweep(world).skipped is None
            assert sweep(world).skipped is None

        world.run(scenario)

    def test_a_dead_workers_lease_runs_out(self, world: World) -> None:
        def scenario() -> None:
            ledger = collector(world)._ledger
            store(world, "a")
            bury(world, "a")
            assert ledger.take_lease("lease:sweep", "dead", 60_000) is None
            assert ledger.take_lease("lease:sweep", "late", 60_000) == "dead"
            assert sweep(world).skipped == "the lease is held by dead"
            state = tables().state
            with world.engine.begin() as connection:
                connection.execute(state.update().values(expires_at=1))
            report = sweep(world)
            assert (report.skipped, report.deleted) == (None, 1)
            ledger.drop_lease("lease:sweep", "dead")

        world.run(scenario)


@pytest.mark.parametrize("url", ["sqlite", "psycopg"], indirect=True)
class TestMeanwhile:
    def test_a_tombstone_that_comes_while_deleting_is_not_dropped(self, world: World) -> None:
        store(world, "a")
        bury(world, "a")
        world.backend.call("delete", lambda: bury(world, "a", age=0))
        assert sweep(world).deleted == 1
        assert world.tombstones() == ["a"]

    def test_a_row_that_comes_before_the_look_saves_its_file(self, world: World) -> None:
        """The look is taken after the batch, not with it."""
        ref = world.stage()
        bury(world, ref.location)

        class Racing(SQLAlchemyLedger):
            def due(self, *args: Any, **options: Any) -> Batch:
                batch = super().due(*args, **options)
                if batch.locations:
                    with world.session() as session:
                        session.add(Document(file=ref))
                        session.commit()
                return batch

        report = Collector(world.manager, Racing([world.engine], Base.metadata)).sweep()
        assert (report.held, world.stored()) == (1, {ref.location})

    def test_a_run_that_lost_its_lease_stops(self, world: World) -> None:
        state = tables().state
        for index in range(4):
            store(world, f"o{index}")
            bury(world, f"o{index}")

        def lose(locations: Collection[str]) -> set[str]:
            with world.engine.begin() as connection:
                connection.execute(state.update().values(holder="thief", expires_at=db_now() + MINUTE))
            return set()

        report = collector(world, references=[lose], lease_for=timedelta(microseconds=3)).sweep()
        assert (report.stopped, report.deleted) == (True, 0)
        assert sweep(world).skipped == "the lease is held by thief"


@pytest.mark.parametrize("url", ["sqlite", "psycopg"], indirect=True)
class TestManySweepers:
    @pytest.mark.parametrize("limit", [1, 2, 3, 20, 50])
    def test_each_batch_goes_on_where_the_last_one_ended(self, world: World, limit: int) -> None:
        """Whatever became of it, and with many tombstones of the same moment; an object may have several."""
        ledger = SQLAlchemyLedger([world.engine], Base.metadata)
        t, now = tables().tombstone, ledger.now()
        moments = [now - 2 * GRACE_MS - number // 7 for number in range(20)]
        with world.engine.begin() as connection:
            rows = [
                {"location": f"o{number % 18}", "backend": "main", "storage_key": "", "written_at": moment}
                for number, moment in enumerate(moments)
            ]
            connection.execute(insert(t), rows)
        after, taken = None, []
        while (batch := ledger.due(0, grace=GRACE_MS, until=now, limit=limit, after=after)).locations:
            taken.extend(batch.locations)
            assert after is None or batch.last > after
            after = batch.last
        assert set(taken) == {f"o{number}" for number in range(18)}
        assert batch.last is None
        assert len(taken) <= 20

    def test_sweepers_without_a_common_lease_are_safe(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = keep(world)
        bury(world, kept.location)
        for index in range(60):
            store(world, f"o{index}")
            bury(world, f"o{index}")
        monkeypatch.setattr(SQLAlchemyLedger, "take_lease", lambda *_: None)
        reports: list[Any] = []
        threads = [
            threading.Thread(target=lambda: reports.append(collector(world, batch_size=5).sweep())) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(reports) == 3
        assert sum(report.deleted for report in reports) >= 60
        assert (world.stored(), world.tombstones()) == ({kept.location}, [])


async def test_the_asynchronous_verb_does_the_same(world: World) -> None:
    if world.is_async:
        await world.any_engine.dispose()  # its connections belong to the loop that made the tables

        async def on_loop(call: Any) -> None:
            async with world.any_engine.connect() as connection:
                await connection.run_sync(lambda _: call())

        await on_loop(lambda: (store(world, "a"), bury(world, "a")))
    else:
        store(world, "a")
        bury(world, "a")
    report = await collector(world).asweep()
    assert (report.deleted, world.stored()) == (1, set())
    if world.is_async:
        await world.any_engine.dispose()
