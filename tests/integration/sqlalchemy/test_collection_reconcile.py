"""The reconcile: it notes what nobody points at, and only notes it (laws 2, 3 and 5)."""

from __future__ import annotations

import gc
import json
import threading
import time
import tracemalloc
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert

from granite_core import (
    BackendUnavailableError,
    CollectionRefusedError,
    ConfigurationError,
    MemoryStorageBackend,
    StoredObjectRef,
)
from granite_core.backends.base import ObjectStat
from granite_core.gc import Progress
from granite_core.gc.marker import MARKER_KEY
from granite_core.gc.plan import Note, RunState
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from tests.integration.sqlalchemy.collecting import (
    age_everything,
    bury,
    collector,
    keep,
    reconcile,
    rows_of,
    store,
    sweep,
    tables,
)
from tests.integration.sqlalchemy.world import Document, World


def runs(world: World) -> set[str | None]:
    return {row.run for row in rows_of(world, tables().tombstone)}


class TestNotes:
    def test_what_nobody_points_at_is_noted_and_goes_after_the_grace(self, world: World) -> None:
        def scenario() -> None:
            kept = keep(world)
            store(world, "lost/1", "lost/2")
            report = reconcile(world)
            (place,) = report.backends
            assert (place.backend, place.listed, place.noted, place.noted_bytes) == ("main", 3, 2, 14)
            assert (place.complete, place.released, place.examples) == (True, True, ("lost/1", "lost/2"))
            assert world.tombstones() == ["lost/1", "lost/2"]
            assert runs(world) == {None}
            assert len(world.stored()) == 3, "a reconcile deletes nothing"
            assert sweep(world).examined == 0
            age_everything(world)
            assert sweep(world).deleted == 2
            assert world.stored() == {kept.location}
            json.dumps(report.to_dict())

        world.run(scenario)

    def test_a_listing_may_be_old(self, world: World) -> None:
        class Inventory(MemoryStorageBackend):
            """Lists what there was yesterday."""

            listed: tuple[str, ...] = ()

            def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
                return (ObjectStat(each, 7, datetime(2026, 1, 1, tzinfo=UTC)) for each in self.listed)

        def scenario() -> None:
            world.store = inventory = Inventory()
            world.manager._backends = {"main": inventory}
            store(world, "lost")
            inventory.listed = ("gone", "lost", "taken")
            assert reconcile(world).noted == 3
            store(world, "new", "taken")
            ref = StoredObjectRef("documents", "main", "taken", 7)
            with world.engine.begin() as connection:
                connection.execute(insert(Document.__table__).values(file=ref))
            age_everything(world)
            report = sweep(world)
            assert (report.deleted, report.held, report.failed) == (2, 1, 0)
            assert [each for each in ("gone", "lost", "new", "taken") if inventory.exists(each)] == ["new", "taken"]

        world.run(scenario)

    def test_what_is_referred_to_from_elsewhere_is_no_garbage(self, world: World) -> None:
        def elsewhere(locations: Collection[str]) -> set[str]:
            return {"elsewhere"} & set(locations)

        def scenario() -> None:
            store(world, "elsewhere", "nowhere")
            report = collector(world, references=[elsewhere]).reconcile()
            assert (report.listed, report.noted, world.tombstones()) == (2, 1, ["nowhere"])

        world.run(scenario)

    def test_what_core_and_bulk_deletes_left_behind_is_found(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            with world.engine.begin() as connection:
                connection.execute(delete(Document))
            assert world.tombstones() == []
            assert reconcile(world).noted == 1
            age_everything(world)
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_an_upload_in_flight_is_noted_and_kept_when_its_row_has_come(self, world: World) -> None:
        def scenario() -> None:
            ref = world.stage()
            assert reconcile(world).noted == 1
            with world.session() as session:
                session.add(Document(file=ref))
                session.commit()
            age_everything(world)
            assert sweep(world).held == 1
            assert (world.stored(), world.tombstones()) == ({ref.location}, [])

        world.run(scenario)

    def test_what_has_a_tombstone_is_not_noted_again(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a", "b")
            bury(world, "a")
            assert reconcile(world).noted == 1
            assert reconcile(world).noted == 0
            assert world.tombstones() == ["a", "b"]

        world.run(scenario)

    def test_the_stores_own_marker_is_no_object(self, world: World) -> None:
        def scenario() -> None:
            store(world, ".granite/anything")
            assert reconcile(world).listed == 0
            assert world.store.exists(MARKER_KEY)

        world.run(scenario)

    def test_leftovers_of_dead_writers_are_cleared(self, world: World) -> None:
        def scenario() -> None:
            asked: list[timedelta] = []
            world.backend.clear_unfinished = lambda older_than, keep: asked.append(older_than) or 7  # type: ignore[method-assign,func-returns-value]
            assert reconcile(world).backends[0].cleared == 7
            reconcile(world, {"unfinished_after": timedelta(hours=6)})
            assert asked == [timedelta(days=1), timedelta(hours=6)]

        world.run(scenario)

    def test_a_dry_run_writes_nothing(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a", "b")
            before = [rows_of(world, table) for table in (tables().tombstone, tables().state, tables().column)]
            report = collector(world, page_size=1).reconcile(dry_run=True)
            assert (report.dry_run, report.listed, report.noted, report.backends[0].released) == (True, 2, 2, False)
            assert before == [rows_of(world, table) for table in (tables().tombstone, tables().state, tables().column)]
            assert not world.store.exists(MARKER_KEY)
            assert world.backend.calls["clear"] == 0

        world.run(scenario)


class TestBackends:
    def test_two_names_of_one_store_are_listed_once(self, world: World) -> None:
        def scenario() -> None:
            world.manager._backends = {**world.manager._backends, "alias": world.store}
            store(world, "a")
            report = reconcile(world)
            assert [each.backend for each in report.backends] == ["main"]
            assert world.tombstones() == ["a"]

        world.run(scenario)

    def test_one_backend_can_be_chosen(self, world: World) -> None:
        def scenario() -> None:
            other = MemoryStorageBackend()
            world.manager._backends = {**world.manager._backends, "other": other}
            store(world, "a")
            other.put_bytes("b", b"")
            assert [each.backend for each in reconcile(world, backend_key="other").backends] == ["other"]
            assert world.tombstones() == ["b"]
            with pytest.raises(ConfigurationError, match="no backend 'none'"):
                reconcile(world, backend_key="none")

        world.run(scenario)

    def test_a_backend_that_fails_does_not_keep_the_others_from_being_listed(self, world: World) -> None:
        def scenario() -> None:
            other = MemoryStorageBackend()
            world.manager._backends = {**world.manager._backends, "other": other}
            other.put_bytes("b", b"")
            world.backend.fail("list", BackendUnavailableError("down"))
            report = reconcile(world)
            assert [(each.backend, each.complete) for each in report.backends] == [("main", False), ("other", True)]
            assert [each.backend for each in report.problems] == ["main"]
            assert world.tombstones() == ["b"]

        world.run(scenario)

    def test_one_that_was_done_lately_is_skipped_when_told_so(self, world: World) -> None:
        def scenario() -> None:
            assert reconcile(world, not_within=timedelta(days=1)).backends[0].complete
            place = reconcile(world, not_within=timedelta(days=1)).backends[0]
            assert place.skipped is not None
            assert place.skipped.startswith("it was reconciled at 2")
            assert reconcile(world, not_within=timedelta(microseconds=1000)).backends[0].skipped is None
            assert reconcile(world).backends[0].skipped is None

        world.run(scenario)


class TestShare:
    def test_a_run_that_would_take_too_much_is_refused_and_leaves_nothing(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            store(world, *(f"o{index}" for index in range(5)))
            careful: dict[str, Any] = {"always_allowed": 3, "max_share": 0.5, "page_size": 2}
            with pytest.raises(CollectionRefusedError, match=r"5 of the 6 objects in backend 'main'.*max_share=1"):
                reconcile(world, careful)
            assert world.tombstones() == []
            assert sweep(world).skipped is None
            report = reconcile(world, careful, max_share=1)
            assert (report.noted, report.backends[0].released) == (5, True)
            assert len(world.tombstones()) == 5

        world.run(scenario)

    def test_a_small_number_is_always_allowed(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{index}" for index in range(5)))
            assert reconcile(world, {"max_share": 0.0, "always_allowed": 5}).noted == 5

        world.run(scenario)

    def test_notes_wait_for_the_decision(self, world: World) -> None:
        """Until the run has ended well, the sweep sees none of its notes, however old they are."""

        def scenario() -> None:
            store(world, *(f"o{index}" for index in range(4)))
            config = {"page_size": 2, "time_budget": timedelta(microseconds=1)}
            assert reconcile(world, config).stopped
            age_everything(world)
            assert sweep(world).examined == 0
            reconcile(world)
            assert sweep(world).examined == 0, "released notes count from their release"
            age_everything(world)
            assert sweep(world).deleted == 4

        world.run(scenario)


class TestResuming:
    def test_a_stopped_run_is_gone_on_with(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{index}" for index in range(7)))
            config = {"page_size": 2, "time_budget": timedelta(microseconds=1)}
            first = reconcile(world, config)
            assert first.stopped
            (place,) = first.backends
            assert (place.listed, place.complete, place.resumed) == (2, False, False)
            assert len(runs(world)) == 1
            assert runs(world) != {None}
            second = reconcile(world, {"page_size": 2})
            (place,) = second.backends
            assert (place.resumed, place.complete, place.listed, place.noted) == (True, True, 7, 7)
            assert (len(world.tombstones()), runs(world)) == (7, {None})

        world.run(scenario)

    def test_a_run_that_died_is_gone_on_with(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{index}" for index in range(6)))

            class Dying(SQLAlchemyLedger):
                pages = 0

                def save_page(self, *args: Any) -> bool:
                    Dying.pages += 1
                    if Dying.pages == 3:
                        raise KeyboardInterrupt
                    return super().save_page(*args)

            dying = collector(world, page_size=2)
            dying._ledger.__class__ = Dying
            with pytest.raises(KeyboardInterrupt):
                dying.reconcile()
            assert len(world.tombstones()) == 4
            report = reconcile(world)
            assert (report.noted, report.backends[0].resumed, world.tombstones()) == (
                6,
                True,
                [f"o{index}" for index in range(6)],
            )

        world.run(scenario)

    def test_quick_pages_are_written_down_together_and_those_before_a_failure_too(self, world: World) -> None:
        def scenario() -> None:
            names = [f"o{index}" for index in range(9)]
            saved: list[str | None] = []

            class Failing(MemoryStorageBackend):
                def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
                    for each in super().list_objects(prefix=prefix, start_after=start_after):
                        if each.location == "o7" and not saved:
                            raise BackendUnavailableError("down")
                        yield each

            class Counting(SQLAlchemyLedger):
                def save_page(self, name: str, holder: str, state: RunState, notes: Collection[Note]) -> bool:
                    saved.append(state.after)
                    return super().save_page(name, holder, state, notes)

            failing = Failing()
            world.manager._backends = {"main": failing}
            for each in names:
                failing.put_bytes(each, b"content")
            counting = collector(world, page_size=3, references=[lambda locations: set(locations) - {"o1", "o8"}])
            counting._ledger.__class__ = Counting
            (place,) = counting.reconcile().backends
            assert (place.listed, place.complete, saved) == (6, False, ["o5"])
            (place,) = counting.reconcile().backends
            assert (place.resumed, place.complete, place.listed, saved) == (True, True, 9, ["o5", "o8"])
            assert (world.tombstones(), runs(world)) == (["o1", "o8"], {None})

        world.run(scenario)

    def test_notes_of_runs_nobody_can_go_on_with_are_removed(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            bury(world, "a", run="dead")
            bury(world, "not-there", run="dead")
            reconcile(world)
            assert world.tombstones() == ["a"]
            assert runs(world) == {None}

        world.run(scenario)

    def test_a_run_that_was_taken_over_writes_no_more(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{index}" for index in range(6)))
            state = tables().state

            class Robbed(SQLAlchemyLedger):
                def save_page(self, *args: Any) -> bool:
                    saved = super().save_page(*args)
                    with world.engine.begin() as connection:
                        connection.execute(state.update().where(state.c.name == args[0]).values(holder="thief"))
                    return saved

            robbed = collector(world, page_size=2)
            robbed._ledger.__class__ = Robbed
            report = robbed.reconcile()
            assert report.stopped
            assert (len(world.tombstones()), report.backends[0].released) == (2, False)

        world.run(scenario)

    def test_a_stop_ends_the_run_after_its_page(self, world: World) -> None:
        def scenario() -> None:
            stop = threading.Event()
            stop.set()
            store(world, "a")
            report = collector(world).reconcile(stop=stop)
            assert (report.stopped, report.listed) == (True, 0)

        world.run(scenario)


@pytest.mark.parametrize("url", ["sqlite", "aiosqlite"], indirect=True)
class TestCost:
    def test_the_rate_limit_slows_the_listing(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{index}" for index in range(60)))
            began = time.monotonic()
            reconcile(world, {"page_size": 20, "rate_limit": 100})
            assert time.monotonic() - began >= 0.4

        world.run(scenario)

    def test_a_page_under_a_rate_limit_is_over_before_the_lease(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"lost/{number:02d}" for number in range(25)))
            told: list[Progress] = []
            slow = collector(world, rate_limit=100, lease_for=timedelta(seconds=0.3))
            slow.reconcile(progress=told.append)
            assert [each.done for each in told] == [10, 20, 25]

        world.run(scenario)

    def test_memory_does_not_grow_with_the_store(self, world: World) -> None:
        held = 0

        class Huge(MemoryStorageBackend):
            size = 0

            def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
                when = datetime(2026, 1, 1, tzinfo=UTC)
                for index in range(self.size):
                    if index % 5000 == 0:
                        gc.collect()  # what is garbage already is no growth, whenever Python's collector runs
                    key = f"documents/_/{index:012}"
                    if start_after is None or key > start_after:
                        yield ObjectStat(key, 1, when)

        huge = Huge()
        world.manager._backends = {"main": huge}

        def peak(size: int) -> int:
            huge.size = size
            tracemalloc.start()
            report = reconcile(world, {"page_size": 1000}, max_share=1)
            _, top = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert report.listed == size
            assert report.noted == size - held
            return top

        def scenario() -> None:
            nonlocal held
            refs = [
                {"file": ref}
                for index in range(0, 1000, 10)
                for ref in [type(world.stage())("documents", "main", f"documents/_/{index:012}", 1, discard=print)]
            ]
            held = len(refs)
            with world.engine.begin() as connection:
                connection.execute(insert(Document), refs)
            peak(2_000)
            with world.engine.begin() as connection:
                connection.execute(delete(tables().tombstone))
            small = peak(5_000)
            with world.engine.begin() as connection:
                connection.execute(delete(tables().tombstone))
            assert peak(50_000) < small + 512 * 1024

        world.run(scenario)


async def test_the_asynchronous_verb_does_the_same(world: World) -> None:
    if world.is_async:
        await world.any_engine.dispose()  # its connections belong to the loop that made the tables
    store(world, "a")
    report = await collector(world).areconcile()
    assert (report.noted, report.backends[0].released) == (1, True)
    if world.is_async:
        await world.any_engine.dispose()
