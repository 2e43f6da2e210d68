"""What operators are told: what rows hold, what waits, who collects, what the last runs found."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import BackendUnavailableError, CollectionRefusedError, StoredObjectRef
from granite_core.gc import Progress, StatusReport
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field
from tests.integration.sqlalchemy.collecting import bury, collector, keep, reconcile, store, sweep, tables
from tests.integration.sqlalchemy.world import Account, Base, Company, Document, World


class Own(DeclarativeBase):
    pass


class Part(Own):
    __tablename__ = "part"
    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")


def status(world: World, **options: Any) -> StatusReport:
    return collector(world).status(**options)


def ledger(world: World) -> SQLAlchemyLedger:
    return SQLAlchemyLedger([world.any_engine], Base.metadata)


class TestUsage:
    def test_objects_are_counted_by_policy_and_backend_and_shared_ones_once(self, world: World) -> None:
        def scenario() -> None:
            shared = keep(world, b"12345")
            with world.session() as session:
                pages = [
                    world.manager.put_bytes("pages", content=b"123"),
                    world.manager.put_bytes("pages", content=b""),
                ]
                session.add_all([Document(cover=shared, pages=pages), Document(pages=[shared]), Document()])
                session.add(Company(id=1, avatar=world.stage(b"ab"), logo=shared))
                session.commit()
            usage = [(each.storage_key, each.backend, each.objects, each.bytes) for each in status(world).usage]
            assert usage == [("documents", "main", 2, 7), ("pages", "main", 2, 3)]

        world.run(scenario)

    def test_what_is_no_ref_is_passed_over(self, world: World) -> None:
        def scenario() -> None:
            keep(world, b"12345")
            with world.engine.begin() as connection:
                connection.execute(insert(Account).values(id=1, kind="account"))
            for value in ("null", '"text"', '[1, {"a": 2}]', '{"size": "many", "location": "x"}', '{"size": 4}'):
                with world.engine.begin() as connection:
                    connection.execute(text(f"UPDATE account SET avatar = '{value}'"))
                    connection.execute(text(f"UPDATE document SET pages = '{value}'"))
                (found, *rest) = [each for each in status(world).usage if each.storage_key]
                assert (found.objects, found.bytes, rest) == (1, 5, [])

        world.run(scenario)

    def test_nor_does_it_hinder_the_look_up(self, world: World) -> None:
        def scenario() -> None:
            ref = keep(world)
            with world.engine.begin() as connection:
                pages = json.dumps(["text", 1, None, ref.to_dict()])
                connection.execute(text(f"UPDATE document SET file = NULL, pages = '{pages}'"))
            bury(world, ref.location)
            assert sweep(world).held == 1

        world.run(scenario)

    def test_an_empty_world_uses_nothing(self, world: World) -> None:
        def scenario() -> None:
            report = status(world, list_stores=True)
            (database,) = report.databases
            assert (report.usage, database.waiting, database.oldest_seconds, report.leases) == ((), 0, None, ())
            (place,) = report.stores
            assert (place.backend, place.objects, place.bytes, place.reconciled_at) == ("main", 0, 0, None)
            assert report.grace == 7200
            json.dumps(report.to_dict())

        world.run(scenario)


class TestWaiting:
    def test_tombstones_are_counted_by_what_becomes_of_them(self, world: World) -> None:
        def scenario() -> None:
            bury(world, "due")
            bury(world, "failed", attempts=2, retry_at=0)
            bury(world, "failed later", attempts=2, retry_at=2**50)
            bury(world, "kept longer", retention=3_600_000)
            bury(world, "young", age=60_000)
            bury(world, "noted", run="r")
            (found,) = status(world).databases
            assert (found.waiting, found.due, found.retained, found.failing, found.unreleased) == (5, 2, 1, 2, 1)
            assert found.oldest_seconds == pytest.approx(7260, abs=60)

        world.run(scenario)


class TestRuns:
    def test_the_last_reports_are_kept_with_fewer_examples(self, world: World) -> None:
        def scenario() -> None:
            for number in range(30):
                store(world, f"o{number:02}")
                bury(world, f"o{number:02}")
            sweep(world)
            store(world, *(f"p{number:02}" for number in range(30)))
            reconcile(world)
            last = status(world).last
            assert last["sweep"]["deleted"] == 30
            assert len(last["sweep"]["examples"]) == 10
            assert last["reconcile"]["noted"] == 30
            (place,) = status(world).stores
            assert place.reconciled_at is not None
            assert abs(place.reconciled_at / 1000 - time.time()) < 60

        world.run(scenario)

    def test_a_refusal_is_kept_and_a_dry_run_is_not(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{number:03}" for number in range(200)))
            reconcile(world, dry_run=False, max_share=1)
            first = status(world).last["reconcile"]
            reconcile(world, dry_run=True)
            sweep(world, dry_run=True)
            assert status(world).last == {"reconcile": first}
            store(world, *(f"p{number:03}" for number in range(200)))
            with pytest.raises(CollectionRefusedError):
                reconcile(world, {"max_share": 0})
            assert "more than the share" in status(world).last["reconcile"]["refused"]

        world.run(scenario)

    def test_a_reconcile_that_was_not_due_is_not_the_last_one(self, world: World) -> None:
        def scenario() -> None:
            store(world, "a")
            reconcile(world)
            reconcile(world, not_within=timedelta(hours=1))
            assert status(world).last["reconcile"]["noted"] == 1

        world.run(scenario)

    def test_a_report_that_cannot_be_kept_ends_no_run(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("no space")

        world.run(lambda: sweep(world))  # the first one also writes down whose store it is, which must not fail
        monkeypatch.setattr(SQLAlchemyLedger, "record", fail)
        world.run(lambda: sweep(world))

    def test_a_run_that_was_cut_short_shows_how_far_it_came(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{number}" for number in range(10)))
            stop = threading.Event()
            reconcile(world, {"page_size": 2}, stop=stop, progress=lambda _: stop.set())
            (place,) = status(world).stores
            assert (place.under_way, place.reconciled_at) == (2, None)
            assert status(world).databases[0].unreleased == 2

        world.run(scenario)


class TestLease:
    def test_who_holds_a_lease_is_told(self, world: World) -> None:
        def scenario() -> None:
            ledger(world).take_lease("lease:sweep", "host:1", 60_000)
            ledger(world).take_lease("lease:reconcile", "host:2", 60_000)
            ledger(world).drop_lease("lease:reconcile", "host:2")
            (lease,) = status(world).leases
            assert (lease.name, lease.holder) == ("sweep", "host:1")
            assert 30 < lease.seconds_left <= 60

        world.run(scenario)

    def test_a_run_waits_for_the_lease_as_long_as_it_is_told(self, world: World) -> None:
        def scenario() -> None:
            ledger(world).take_lease("lease:sweep", "other", 60_000)
            began = time.monotonic()
            report = sweep(world, wait=timedelta(seconds=1.2))
            assert report.skipped == "the lease is held by other"
            assert 1.1 < time.monotonic() - began < 20
            t = tables().state
            with world.engine.begin() as connection:  # it runs out a second from now
                connection.execute(
                    update(t).where(t.c.name == "lease:sweep").values(expires_at=t.c.expires_at - 59_000)
                )
            assert sweep(world, wait=timedelta(seconds=60)).skipped is None

        world.run(scenario)


class TestProgress:
    def test_runs_say_where_they_stand(self, world: World) -> None:
        def scenario() -> None:
            store(world, *(f"o{number}" for number in range(5)))
            told: list[Progress] = []
            collector(world, page_size=2).reconcile(progress=told.append)
            assert [asdict(each) for each in told] == [
                {"place": "main", "done": done, "found": done, "bytes": 0} for done in (2, 4, 5)
            ]
            told.clear()
            for number in range(5):
                bury(world, f"o{number}")
            with world.engine.begin() as connection:
                connection.execute(tables().tombstone.delete().where(tables().tombstone.c.written_at > 2**50))
                connection.execute(update(tables().tombstone).values(written_at=1))
            collector(world, batch_size=3).sweep(progress=told.append)
            assert [(each.done, each.found) for each in told][-1] == (5, 5)

        world.run(scenario)


class TestTrouble:
    def test_a_store_that_cannot_be_listed_is_told_of(self, world: World) -> None:
        def scenario() -> None:
            world.backend.fail("list", BackendUnavailableError("list: away"))
            (place,) = status(world, list_stores=True).stores
            assert (place.problem, place.objects) == ("list: away", None)

        world.run(scenario)

    def test_missing_tables_are_told_of(self, world: World) -> None:
        def scenario() -> None:
            tables().tombstone.drop(world.engine)
            report = status(world)
            assert "granite_tombstone" in (report.refusal or "")
            assert (report.databases[0].problem or "").startswith("it cannot be asked")

        world.run(scenario)

    def test_a_column_that_is_not_known_is_told_of(self, world: World) -> None:
        def scenario() -> None:
            with world.engine.begin() as connection:
                row = {"schema_name": "", "table_name": "gone", "column_name": "file"}
                connection.execute(tables().column.insert().values(row))
            assert "gone.file" in (status(world).refusal or "")

        world.run(scenario)


class TestPages:
    def test_rows_are_read_page_by_page_in_the_order_of_their_keys(self, world: World) -> None:
        def scenario() -> None:
            refs = {keep(world, b"x").location for _ in range(7)}
            here = next(each for each in ledger(world).columns() if str(each) == "document.file")
            found: list[str] = []
            after, pages = None, 0
            while True:
                page = ledger(world).refs(here, after=after, limit=3)
                found += [ref.location for row in page.rows for ref in row.refs]
                pages += 1
                if (after := page.after) is None:
                    break
            assert (sorted(found), pages) == (sorted(refs), 3)

        world.run(scenario)

    def test_a_row_that_cannot_be_decoded_hides_no_other(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            with world.engine.begin() as connection:
                connection.execute(insert(Account).values(id=1, kind="account"))
                connection.execute(text('UPDATE account SET avatar = \'{"size": "many"}\''))
            here = next(each for each in ledger(world).columns() if str(each) == "account.avatar")
            (row,) = ledger(world).refs(here, after=None, limit=10).rows
            assert (row.key, row.refs) == ("1", ())
            assert "size" in (row.error or "") or "storage_key" in (row.error or "")

        world.run(scenario)


def test_keys_of_many_parts_are_gone_through_once(tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    Own.metadata.create_all(engine)
    with engine.begin() as connection:
        for name in "bac":
            for number in (3, 1, 2):
                ref = {"storage_key": "d", "backend": "main", "location": f"{name}{number}", "size": 0}
                connection.execute(
                    text("INSERT INTO part (name, number, file) VALUES (:n, :i, :f)"),
                    {"n": name, "i": number, "f": json.dumps(ref)},
                )
    rows = SQLAlchemyLedger([engine], Own.metadata)
    here, _ = rows.columns()  # the other is that of the uploads
    found: list[str] = []
    after = None
    while True:
        page = rows.refs(here, after=after, limit=2)
        found += [ref.location for row in page.rows for ref in row.refs]
        if (after := page.after) is None:
            break
    assert found == [f"{name}{number}" for name in "abc" for number in (1, 2, 3)]
