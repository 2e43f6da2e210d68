"""The verification: rows against objects and back, while the application works, stopped and gone on with."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from granite_core import (
    AccessDeniedError,
    BackendUnavailableError,
    ConfigurationError,
    MemoryStorageBackend,
    StoredObjectRef,
)
from granite_core.gc import Progress, VerifyOptions, VerifyReport
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from tests.integration.sqlalchemy.collecting import bury, collector, keep, store
from tests.integration.sqlalchemy.world import Account, Base, Document, World, make_world

READ = VerifyOptions(checksums=True)


def verify(world: World, options: VerifyOptions | None = None, *, config: Any = None, **how: Any) -> VerifyReport:
    return collector(world, **(config or {})).verify(options, **how)


def replace(world: World, ref: StoredObjectRef, content: bytes) -> None:
    world.store.delete(ref.location)
    world.store.put_bytes(ref.location, content)


class TestRows:
    def test_a_sound_world_is_found_sound(self, world: World) -> None:
        def scenario() -> None:
            keep(world, b"12345")
            with world.session() as session:
                pages = [world.manager.put_bytes("pages", content=each) for each in (b"123", b"")]
                session.add_all([Document(pages=pages), Document(file=None)])
                session.commit()
            for options, read in ((VerifyOptions(), 0), (READ, 8)):
                report = verify(world, options)
                assert report.sound
                assert (report.refs, report.bytes, report.read, report.found) == (3, 8, read, {})
                (place,) = report.stores
                assert (place.objects, place.held, place.waiting, place.nobodys) == (3, 3, 0, 0)
            json.dumps(report.to_dict())

        world.run(scenario)

    def test_each_kind_of_difference_is_told_apart(self, world: World) -> None:
        def scenario() -> None:
            gone, longer, other, sound = (keep(world, b"content") for _ in range(4))
            world.store.delete(gone.location)
            replace(world, longer, b"content!")
            replace(world, other, b"CONTENT")
            report = verify(world)
            assert report.found == {"missing": 1, "size": 1}
            assert {each.location for each in report.discrepancies} == {gone.location, longer.location}
            report = verify(world, READ)
            assert report.found == {"missing": 1, "size": 1, "checksum": 1}
            by_kind = {each.kind.value: each for each in report.discrepancies}
            assert by_kind["checksum"].location == other.location
            assert by_kind["size"].message == "it has 8 bytes, the row says 7"
            assert by_kind["missing"].column == "document.file"
            assert not report.sound
            assert sound.location not in {each.location for each in report.discrepancies}

        world.run(scenario)

    def test_what_the_row_itself_has_wrong_is_told_of(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world)
            lost = {**ref.to_dict(), "backend": "nowhere"}
            with world.engine.begin() as connection:
                connection.execute(insert(Account).values(id=7, kind="account"))
                connection.execute(text("UPDATE account SET avatar = '{\"size\": 1}'"))
                connection.execute(text(f"UPDATE document SET cover = '{json.dumps(lost)}'"))
            report = verify(world)
            assert report.found == {"no-backend": 1, "undecodable": 1}
            assert {(each.kind.value, each.column) for each in report.discrepancies} == {
                ("no-backend", "document.cover"),
                ("undecodable", "account.avatar"),
            }
            assert [each.row for each in report.discrepancies if each.column == "account.avatar"] == ["7"]

        world.run(scenario)

    def test_an_old_row_without_a_checksum_is_counted(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world)
            old = json.dumps({**ref.to_dict(), "checksum": None})
            with world.engine.begin() as connection:
                connection.execute(text(f"UPDATE document SET file = '{old}'"))
            report = verify(world, READ)
            assert (report.sound, report.without_checksum) == (True, 1)
            assert verify(world).without_checksum == 0

        world.run(scenario)

    def test_what_a_row_let_go_meanwhile_is_no_difference(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world)

            def another() -> None:
                world.store.delete(ref.location)
                with world.engine.begin() as connection:
                    connection.execute(update(Document).values(file=None))

            if not world.is_async:
                world.backend.call("stat", another)
                assert verify(world).sound

        world.run(scenario)

    def test_only_what_was_asked_for_is_looked_at(self, world: World) -> None:
        def scenario() -> None:
            world.store.delete(keep(world).location)
            with world.session() as session:
                session.add(Document(pages=[world.manager.put_bytes("pages", content=b"1")]))
                session.commit()
            report = verify(world, VerifyOptions(storage_key="pages", stores=False))
            assert (report.refs, report.sound, report.stores) == (1, True, ())
            assert verify(world, VerifyOptions(backend_key="main")).refs == 2
            with pytest.raises(ConfigurationError, match="no policy 'x'"):
                verify(world, VerifyOptions(storage_key="x"))
            with pytest.raises(ConfigurationError, match="no backend 'x'"):
                verify(world, VerifyOptions(backend_key="x"))
            for wrong in ({"workers": 0}, {"byte_rate": 0}):
                with pytest.raises(ConfigurationError):
                    VerifyOptions(**wrong)

        world.run(scenario)


class TestStores:
    def test_objects_are_counted_by_who_holds_them(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world, b"1")
            bury(world, ref.location)
            store(world, "lost", "let go")
            bury(world, "let go")
            (place,) = verify(world).stores
            assert (place.objects, place.held, place.waiting, place.nobodys, place.nobodys_bytes) == (3, 1, 1, 1, 7)
            assert set(world.tombstones()) == {ref.location, "let go"}, "it writes no notes"

        world.run(scenario)

    def test_whose_store_it_is_does_not_matter(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            world.store.put_bytes(MARKER_KEY, b'{"database": "another"}')
            assert verify(world).sound

        world.run(scenario)


class TestGoingOn:
    def test_a_run_that_was_stopped_is_gone_on_with(self, world: World) -> None:
        def scenario() -> None:
            refs = [keep(world) for _ in range(7)]
            world.store.delete(refs[0].location)
            stop, seen = threading.Event(), []

            def stop_at_second(progress: Progress) -> None:
                seen.append(progress)
                if len([each for each in seen if each.place == "document.file"]) == 2:
                    stop.set()

            first = verify(world, READ, config={"page_size": 2}, progress=stop_at_second, stop=stop)
            assert (first.stopped, first.refs, first.resumed) == (True, 4, False)
            reads = world.backend.calls["open_reader"]
            other = verify(world)
            assert (other.resumed, other.refs) == (False, 7), "other options are another verification"
            second = verify(world, READ, config={"page_size": 2})
            assert (second.resumed, second.stopped, second.refs, second.found) == (True, False, 7, {"missing": 1})
            assert world.backend.calls["open_reader"] - reads == 3, "nothing is read twice"
            assert second.stores[0].objects == 6
            third = verify(world, READ)
            assert (third.resumed, third.refs) == (False, 7)

        world.run(scenario)

    def test_a_time_budget_brings_it_round_bit_by_bit(self, world: World) -> None:
        def scenario() -> None:
            for _ in range(5):
                keep(world)
            config = {"page_size": 1, "time_budget": timedelta(microseconds=1)}
            runs = 1
            while (report := verify(world, config=config)).stopped:
                runs += 1
                assert runs < 40
            assert (report.refs, report.stores[0].objects, report.stores[0].held) == (5, 5, 5)
            assert runs >= 9

        world.run(scenario)

    def test_it_can_begin_anew(self, world: World) -> None:
        def scenario() -> None:
            for _ in range(3):
                keep(world)
            config = {"page_size": 1, "time_budget": timedelta(microseconds=1)}
            assert verify(world, config=config).stopped
            assert not verify(world, VerifyOptions(restart=True)).resumed

        world.run(scenario)

    def test_a_backend_that_is_away_ends_the_run_and_loses_nothing(self, world: World) -> None:
        def scenario() -> None:
            for _ in range(40):
                keep(world)
            world.backend.fail("stat", BackendUnavailableError("stat: away"), at=21, times=None)
            with pytest.raises(BackendUnavailableError):
                verify(world, VerifyOptions(workers=1), config={"page_size": 10})
            world.backend.heal()
            report = verify(world, config={"page_size": 10})
            assert (report.resumed, report.refs, report.sound) == (True, 40, True)

        world.run(scenario)

    def test_one_object_that_cannot_be_had_ends_nothing(self, world: World) -> None:
        def scenario() -> None:
            for _ in range(4):
                keep(world)
            world.backend.fail("stat", AccessDeniedError("stat: denied"), at=2)
            world.backend.fail("stat", BackendUnavailableError("stat: slow down"), at=3)
            assert verify(world).found == {"unreadable": 2}

        world.run(scenario)

    def test_another_verification_is_left_alone(self, world: World) -> None:
        def scenario() -> None:
            rows = SQLAlchemyLedger([world.any_engine], Base.metadata)
            rows.take_lease("lease:verify", "other", 60_000)
            assert verify(world).skipped == "the lease is held by other"
            rows.drop_lease("lease:verify", "other")
            assert verify(world).skipped is None
            assert collector(world).status().last["verify"]["sound"] is True

        world.run(scenario)


class TestPace:
    def test_bytes_are_read_no_faster_than_told(self, world: World) -> None:
        def scenario() -> None:
            for _ in range(4):
                keep(world, b"x" * 500)
            began = time.monotonic()
            verify(world, VerifyOptions(checksums=True, byte_rate=1000))
            assert time.monotonic() - began > 1.9

        world.run(scenario)

    def test_a_stop_is_heeded_in_the_middle_of_an_object(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add(Document(pages=[world.manager.put_bytes("pages", content=bytes(3 << 20))]))
                session.commit()
            stop = threading.Event()
            threading.Timer(0.5, stop.set).start()
            began = time.monotonic()
            report = verify(world, VerifyOptions(checksums=True, byte_rate=1000), stop=stop)
            assert (report.stopped, report.refs) == (True, 0)
            assert time.monotonic() - began < 20

        world.run(scenario)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
        store = MemoryStorageBackend()
        world.manager._backends = {"main": store}
        ref = world.stage(b"1").to_dict()

        def peak(first: int, last: int) -> int:
            locations = [f"o{number:05}" for number in range(first, last)]
            with world.engine.begin() as connection:
                for each in locations:
                    store.put_bytes(each, b"1")
                    held = StoredObjectRef(**{**ref, "location": each})
                    connection.execute(insert(Document).values(file=held))
            tracemalloc.start()
            report = verify(world, config={"page_size": 100})
            _, top = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert (report.refs, report.stores[0].held) == (last, last)
            return top

        peak(0, 300)  # what is made once
        few, many = peak(300, 1500), peak(1500, 4500)
        assert many < few + 200_000, (few, many)
