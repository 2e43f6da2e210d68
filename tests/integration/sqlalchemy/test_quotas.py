"""Quotas: what scopes have stored, on every kind of engine."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from granite_core import (
    Announcement,
    AsyncStorageManager,
    BackendUnavailableError,
    ConfigurationError,
    ContentTooLargeError,
    Quota,
    QuotaExceededError,
    QuotaLimit,
    QuotaUsage,
    StagedFile,
    StorageManager,
    StoragePolicy,
    UrlSettings,
    ValidationFailedError,
    unsaved,
)
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, SQLAlchemyQuotaLedger, SQLAlchemyUploadLedger
from granite_core.integrations.sqlalchemy._database import Database
from granite_core.uploads import AsyncDirect, AsyncUploads, Direct, Uploads, UploadSettings
from granite_core.uploads.direct import DirectInstructions
from granite_core.uploads.direct.finishing import Finishing
from tests.integration.sqlalchemy.collecting import (
    GRACE_MS,
    MINUTE,
    age_everything,
    bury,
    reconcile,
    rows_of,
    store,
    sweep,
    tables,
)
from tests.integration.sqlalchemy.world import GRACE, Base, Document, World, make_world

KB = 1024
MB = 1024 * KB


def owner(announced: Announcement) -> str | None:
    name = announced.context.get("owner")
    return None if name is None else f"user:{name}"


def counting(world: World, limit: Any = 100, **policy: Any) -> StorageManager:
    """A manager that counts for the owner in the context; all that the world's models store is ann's."""
    quotas = policy.pop("quotas", [Quota(scope=owner, limit=limit)])
    world.manager = StorageManager(
        {"main": world.backend},
        [
            StoragePolicy("documents", "main", quotas=quotas, **policy),
            StoragePolicy("pages", "main", quotas=quotas, **policy),
        ],
        grace=GRACE,
        now=world.manager.now,
        urls=UrlSettings(secrets=["a secret of at least thirty-two characters"]),
    )
    world.manager.register(Base)
    world.manager.count_in(SQLAlchemyQuotaLedger(world.any_engine, Base.metadata))
    return world.manager


def put(world: World, size: int, who: str = "ann") -> StagedFile:
    return world.manager.put_bytes("documents", content=b"x" * size, context={"owner": who})


def used(world: World, who: str = "ann") -> tuple[int, int]:
    found = world.manager.quotas.usage(f"user:{who}")
    return found.bytes, found.files


def receipts(world: World) -> list[tuple[str, int]]:
    return [(row.scope, row.bytes) for row in rows_of(world, tables().usage)]


def run_async(world: World, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        try:
            await scenario()
        finally:
            if world.is_async:
                await world.any_engine.dispose()

    asyncio.run(main())


def test_what_is_stored_is_counted_until_there_is_no_room(world: World) -> None:
    def scenario() -> None:
        counting(world)
        put(world, 60)
        put(world, 40, "ben")
        with pytest.raises(QuotaExceededError) as caught:
            put(world, 41)
        error = caught.value
        assert str(error) == "documents: 41 bytes would be more than the 100 that may be stored: 60 are used"
        assert (error.field, error.limit, error.value, error.used, error.asked) == ("documents", 100, 101, 60, 41)
        put(world, 40)
        assert used(world) == (100, 2)
        assert used(world, "ben") == (40, 1)
        assert used(world, "nobody") == (0, 0)
        assert len(world.stored()) == 3
        assert world.manager.quotas.scopes(limit=1) == [QuotaUsage("user:ann", 100, 2)]
        assert world.manager.quotas.scopes(after="user:ann") == [QuotaUsage("user:ben", 40, 1)]

    world.run(scenario)


def test_a_scope_of_none_is_not_counted(world: World) -> None:
    def scenario() -> None:
        counting(world)
        world.manager.put_bytes("documents", content=b"x" * 1000)
        assert receipts(world) == []

    world.run(scenario)


def test_nothing_is_read_where_the_announced_length_has_no_room(world: World) -> None:
    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("read")

    def scenario() -> None:
        counting(world)
        write = world.manager.stage("documents", expected_size=101, context={"owner": "ann"})
        with write, pytest.raises(QuotaExceededError):
            write.write_from(Unread())
        assert used(world) == (0, 0)

    world.run(scenario)


def test_what_says_no_length_is_counted_as_it_comes(world: World) -> None:
    def scenario() -> None:
        counting(world, limit=5 * MB)
        kept = world.manager.put_stream("documents", stream=io.BytesIO(bytes(3 * MB + 1)), context={"owner": "ann"})
        assert used(world) == (3 * MB + 1, 1)
        endless = io.BytesIO(bytes(9 * MB))
        with pytest.raises(QuotaExceededError):
            world.manager.put_stream("documents", stream=endless, context={"owner": "ann"})
        assert endless.tell() < 5 * MB  # no more than there was room for, and a buffer
        assert used(world) == (3 * MB + 1, 1)
        assert world.stored() == {kept.location}

    world.run(scenario)


def test_users_and_tenants_both_need_room_and_files_are_counted_too(world: World) -> None:
    def scenario() -> None:
        tenant = Quota(scope=lambda announced: "tenant:acme", limit=100)
        user = Quota(scope=owner, limit=lambda scope: QuotaLimit(max_files=2) if scope == "user:ann" else None)
        counting(world, quotas=[user, tenant])
        put(world, 10)
        put(world, 10)
        with pytest.raises(QuotaExceededError, match="no more than 2 files may be stored: there are 2"):
            put(world, 10)
        put(world, 80, "ben")
        with pytest.raises(QuotaExceededError, match="100"):
            put(world, 1, "cleo")
        assert (used(world), used(world, "ben"), used(world, "cleo")) == ((20, 2), (80, 1), (0, 0))
        assert world.manager.quotas.usage("tenant:acme") == QuotaUsage("tenant:acme", 100, 3)

    world.run(scenario)


def test_what_fails_is_given_back(world: World) -> None:
    def refuse(candidate: object) -> None:
        raise ValidationFailedError("no")

    def scenario() -> None:
        counting(world, validators=[refuse])
        with pytest.raises(ValidationFailedError):
            put(world, 10)
        with world.manager.stage("documents", expected_size=50, context={"owner": "ann"}) as write:
            write.write(b"x" * 20)
            assert used(world) == (50, 1)
        assert used(world) == (0, 0)
        assert receipts(world) == []

    world.run(scenario)


def test_what_is_deleted_or_let_go_is_given_back_once(world: World) -> None:
    def scenario() -> None:
        counting(world)
        first, second = put(world, 10), put(world, 20)
        world.manager.delete(first)
        world.manager.delete(first)
        assert used(world) == (20, 1)
        second.discard()
        assert used(world) == (0, 0)

    world.run(scenario)


def test_a_copy_counts_by_itself(world: World) -> None:
    def scenario() -> None:
        counting(world)
        first = put(world, 60)
        with pytest.raises(QuotaExceededError):
            world.manager.copy(first, context={"owner": "ann"})
        world.manager.copy(first, context={"owner": "ben"})
        assert (used(world), used(world, "ben")) == ((60, 1), (60, 1))

    world.run(scenario)


def test_a_file_in_two_rows_counts_once_and_until_it_is_swept(world: World) -> None:
    def scenario() -> None:
        counting(world)
        file = put(world, 60)
        with world.session() as session:
            first, second = Document(file=file), Document(file=file, cover=file)
            session.add_all([first, second])
            session.commit()
            assert used(world) == (60, 1)
            session.delete(first)
            session.commit()
            age_everything(world)
            sweep(world)
            assert used(world) == (60, 1)
            session.delete(second)
            session.commit()
        sweep(world)
        assert used(world) == (60, 1)  # it is there, for the grace
        age_everything(world)
        assert sweep(world).deleted == 1
        sweep(world)
        assert used(world) == (0, 0)

    world.run(scenario)


def test_a_flush_counts_what_it_stores_also_where_the_session_has_written(world: World) -> None:
    def scenario() -> None:
        counting(world)
        with world.session() as session:
            session.add(Document(title="first"))
            session.flush()
            session.add(Document(file=unsaved(b"x" * 60, context={"owner": "ann"})))
            session.commit()
        assert used(world) == (60, 1)
        with world.session() as session:
            session.add(Document(title="second"))
            session.flush()
            session.add(Document(file=unsaved(b"x" * 41, context={"owner": "ann"})))
            with pytest.raises(QuotaExceededError, match=r"^file: 41"):
                session.flush()
        assert used(world) == (60, 1)
        with world.session() as session:
            session.add(Document(file=unsaved(iter([b"x" * 30, b"y" * 10]), context={"owner": "ann"})))
            session.flush()
            session.rollback()
        world.manager.take_notes()
        age_usage(world)
        reconcile(world, max_share=1)
        age_everything(world)
        sweep(world)
        assert used(world) == (60, 1)
        assert len(world.stored()) == 1

    world.run(scenario)


SQLITES = pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])


@SQLITES
def test_what_is_refused_in_a_flush_that_has_written_is_given_back_there(driver: str, tmp_path: Path) -> None:
    def refuse(candidate: object) -> None:
        raise ValidationFailedError("no")

    patience = {"connect_args": {"timeout": 300}}  # a second connection would wait for the session's
    with make_world(f"{driver}:///{tmp_path}/db.sqlite3", **patience) as world:

        def scenario() -> None:
            for quotas in [Quota(scope=owner, limit=100)], []:
                counting(world, validators=[refuse], quotas=quotas)
                with world.session() as session:
                    session.add(Document(title=f"with {len(quotas)}"))
                    session.flush()
                    document = Document(file=unsaved(b"x" * 60, context={"owner": "ann"}))
                    session.add(document)
                    with pytest.raises(ValidationFailedError), session.no_autoflush:
                        session.flush()
                    session.expunge(document)
                    session.commit()
                assert (used(world), receipts(world)) == ((0, 0), [])
                assert not world.manager.has_notes

        world.run(scenario)


@SQLITES
@pytest.mark.parametrize("how", ["rollback", "savepoint"])
def test_what_a_flush_has_stored_counts_when_it_is_committed_after_a_rollback(
    driver: str, how: str, tmp_path: Path
) -> None:
    with make_world(f"{driver}:///{tmp_path}/db.sqlite3") as world:

        def scenario() -> None:
            counting(world)
            with world.session() as session:
                for turn in range(2):
                    session.add(Document(title=f"before {turn}"))
                    session.flush()
                    document = Document(file=unsaved(b"x" * 60, context={"owner": "ann"}))
                    undone = session.begin_nested() if how == "savepoint" else session
                    session.add(document)
                    if turn:
                        with pytest.raises(QuotaExceededError):
                            session.flush()
                        break
                    session.flush()
                    undone.rollback()
                    session.add(document)  # as its owner may, with the same file
                    session.flush()
                    session.commit()
                    assert used(world) == (60, 1)
            assert receipts(world) == [("user:ann", 60)]

        world.run(scenario)


async def test_a_flush_of_an_async_session_counts_too(world: World) -> None:
    if not world.is_async:
        pytest.skip("one of an asynchronous engine")
    counting(world)
    async with AsyncSession(world.any_engine) as session:
        session.add(Document(title="first"))
        await session.flush()
        session.add(Document(file=unsaved(b"x" * 60, context={"owner": "ann"})))
        session.add(Document(file=unsaved(iter([b"x" * 30]), context={"owner": "ann"})))
        await session.commit()
        session.add(Document(title="second", file=unsaved(b"x" * 60, context={"owner": "ann"})))
        with pytest.raises(QuotaExceededError):
            await session.flush()
    files = AsyncStorageManager(world.manager)
    assert await files.quotas.usage("user:ann") == QuotaUsage("user:ann", 90, 2)
    await world.any_engine.dispose()


def test_asynchronous_verbs_count_alike(world: World) -> None:
    async def scenario() -> None:
        async def whose(announced: Announcement) -> str | None:
            await asyncio.sleep(0)
            return owner(announced)

        async def how_much(scope: str) -> int:
            await asyncio.sleep(0)
            return 5 * MB

        async def chunks(pieces: int) -> AsyncIterator[bytes]:
            for _ in range(pieces):
                yield bytes(MB)

        files = AsyncStorageManager(counting(world, quotas=[Quota(scope=whose, limit=how_much)]))

        async def used_now() -> tuple[int, int]:
            found = await files.quotas.usage("user:ann")
            return found.bytes, found.files

        ann = {"owner": "ann"}
        first = await files.put_bytes("documents", content=bytes(MB), context=ann)
        second = await files.put_stream("documents", stream=chunks(2), context=ann)
        third = await files.put("documents", io.BytesIO(bytes(MB + 5)), context=ann)
        assert await used_now() == (4 * MB + 5, 3)
        for refused in (
            files.put_stream("documents", stream=chunks(9), context=ann),
            files.put_stream("documents", stream=io.BytesIO(bytes(9 * MB)), context=ann),
            files.copy(second, context=ann),
            files.put_bytes("documents", content=bytes(MB), context=ann),
        ):
            with pytest.raises(QuotaExceededError):
                await refused
        assert await used_now() == (4 * MB + 5, 3)
        await files.discard(first)
        await files.delete(third)
        await files.copy(second, context=ann)
        assert await used_now() == (4 * MB, 2)
        assert await files.quotas.recount("user:ann") == QuotaUsage("user:ann", 4 * MB, 2)
        write = files.stage("documents", expected_size=7, context=ann)
        task = asyncio.ensure_future(write.write(b"1234567"))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await write.abort()
        assert await used_now() == (4 * MB, 2)

    run_async(world, scenario)


def age_usage(world: World) -> None:
    with world.engine.begin() as connection:
        t = tables().usage
        connection.execute(update(t).values(touched_at=t.c.touched_at - GRACE_MS - MINUTE))


def test_what_a_crash_left_reserved_is_found_after_the_grace(world: World) -> None:
    def scenario() -> None:
        counting(world)
        with world.session() as session:
            session.add(Document(file=put(world, 10)))
            session.commit()
        put(world, 5)  # stored, and the process died before its row
        lost = world.manager.stage("documents", expected_size=60, context={"owner": "ann"})
        lost.write(b"x")
        reconcile(world)
        assert used(world) == (75, 3)
        age_usage(world)
        reconcile(world, max_share=1, dry_run=True)
        assert used(world) == (75, 3)
        reconcile(world, max_share=1)
        assert used(world) == (15, 2)  # what is stored is given back when it is swept
        age_everything(world)
        sweep(world)
        assert used(world) == (10, 1)

    world.run(scenario)


def test_an_upload_that_outlived_its_reservation_is_counted_again_or_refused(world: World) -> None:
    def scenario() -> None:
        manager = counting(world)
        slow = [manager.stage("documents", expected_size=60, context={"owner": who}) for who in ("ann", "ben")]
        for each in slow:
            each.write(b"x" * 60)
            assert each.claim is not None
            each.claim._reserved_at -= GRACE.total_seconds()  # the monotonic clock cannot be moved
        age_usage(world)
        reconcile(world)
        assert used(world) == (0, 0)
        put(world, 50, "ben")
        slow[0].commit()
        with pytest.raises(QuotaExceededError):
            slow[1].commit()
        assert (used(world), used(world, "ben")) == ((60, 1), (50, 1))

    world.run(scenario)


def test_what_was_stored_before_is_counted_when_somebody_says_for_whom(world: World) -> None:
    def scenario() -> None:
        manager = counting(world)
        first = manager.put_bytes("documents", content=b"x" * 70)
        second = manager.put_bytes("documents", content=b"x" * 50)
        for _ in range(2):
            for each in (first, second):
                manager.quotas.count(each, "user:ann")
        assert used(world) == (120, 2)  # more than there may be, and it is there
        with pytest.raises(QuotaExceededError):
            put(world, 1)
        manager.delete(first)
        assert used(world) == (50, 1)
        put(world, 50)
        with pytest.raises(ConfigurationError):
            manager.quotas.count(second, "")

    world.run(scenario)


def test_rows_are_read_in_pages_to_say_for_whom_their_files_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("granite_core.integrations.sqlalchemy._row_files._PAGE", 2)

    def scenario() -> None:
        with world.session() as session:
            files = [world.stage() for _ in range(5)]
            session.add_all([Document(title=str(at), file=each) for at, each in enumerate(files)])
            session.add(Document(title="none"))
            session.commit()
        ledger = SQLAlchemyLedger([world.any_engine], Base.metadata)
        found = {
            values["title"]: [each.location for each in refs] for values, refs in ledger.file_rows("Document.file")
        }
        assert found == {str(at): [each.location] for at, each in enumerate(files)}

    world.run(scenario)


def test_a_sum_that_was_spoilt_is_mended(world: World) -> None:
    def scenario() -> None:
        counting(world)
        put(world, 60)
        with world.engine.begin() as connection:
            connection.execute(update(tables().quota).values(bytes=7, files=9))
        assert world.manager.quotas.recount("user:ann") == QuotaUsage("user:ann", 60, 1)
        assert used(world) == (60, 1)
        assert world.manager.quotas.recount("user:new") == QuotaUsage("user:new", 0, 0)

    world.run(scenario)


@pytest.mark.parametrize("limit", [None, 2**70])
def test_nobody_has_more_than_can_be_counted(world: World, limit: int | None) -> None:
    def scenario() -> None:
        manager, most, ann = counting(world, limit=limit), 2**63 - 1, {"owner": "ann"}
        with pytest.raises(QuotaExceededError, match=str(most)):
            manager.stage("documents", expected_size=most + 1, context=ann).begin()
        with manager.stage("documents", expected_size=most, context=ann) as write:
            write.begin()
            assert used(world) == (most, 1)
            with pytest.raises(QuotaExceededError, match=f"{most} are used"):
                put(world, 1)
        put(world, 10)
        with world.engine.begin() as connection:
            row = {"location": "x", "backend": "main", "storage_key": "documents", "scope": "user:ann", "touched_at": 0}
            connection.execute(tables().usage.insert(), [{**row, "bytes": most}, {**row, "bytes": 7}])
        assert manager.quotas.recount("user:ann") == QuotaUsage("user:ann", most, 3)

    world.run(scenario)


def test_without_the_tables_nothing_can_be_counted(world: World) -> None:
    def scenario() -> None:
        manager = counting(world)
        manager.quotas.check()
        tables().usage.drop(world.engine)
        with pytest.raises(ConfigurationError, match="granite_usage"):
            manager.quotas.check()

    world.run(scenario)


def test_an_application_without_quotas_needs_none_of_their_tables(world: World) -> None:
    """After an upgrade their migration may be yet to come."""

    def scenario() -> None:
        for table in (tables().usage, tables().quota):
            table.drop(world.engine)
        uploads = Uploads(world.manager, SQLAlchemyUploadLedger(world.any_engine, Base.metadata), UploadSettings())
        uploads.discard(uploads.create("pages", kind="test", length=60).id)
        with world.session() as session:
            session.add(Document(file=world.stage()))
            session.commit()
        world.stage()
        reconcile(world, max_share=1)
        age_everything(world)
        sweep(world)
        assert len(world.stored()) == 1

    world.run(scenario)


def test_without_a_database_a_policy_with_quotas_stores_nothing(world: World) -> None:
    manager = StorageManager({"main": world.backend}, [StoragePolicy("a", quotas=[Quota(scope=owner)])])
    with pytest.raises(ConfigurationError, match="count_in"):
        manager.put_bytes("a", content=b"x")
    assert world.stored() == set()


class TestTheDatabase:
    def test_a_pool_of_one_is_enough_for_whoever_holds_its_connection(self, postgres_url: str) -> None:
        with make_world(postgres_url, pool_size=1, max_overflow=0, pool_timeout=5) as world:
            counting(world)
            with world.session() as session:
                session.add(Document(title="first"))
                session.flush()
                session.add(Document(file=unsaved(b"x" * 60, context={"owner": "ann"})))
                session.flush()
                put(world, 10)
                session.commit()
            assert used(world) == (70, 2)

    def test_asynchronously_too(self, postgres_async_url: str) -> None:
        async def scenario() -> None:
            files = AsyncStorageManager(counting(world))
            async with AsyncSession(world.any_engine) as session:
                session.add(Document(title="first"))
                await session.flush()
                session.add(Document(file=unsaved(b"x" * 60, context={"owner": "ann"})))
                await session.flush()
                await files.put_bytes("documents", content=b"x" * 10, context={"owner": "ann"})
                await session.commit()
            assert await files.quotas.usage("user:ann") == QuotaUsage("user:ann", 70, 2)

        with make_world(postgres_async_url, pool_size=1, max_overflow=0, pool_timeout=5) as world:
            run_async(world, scenario)

    def test_where_it_is_away_nothing_is_stored_and_nothing_is_reserved(self, postgres_url: str) -> None:
        with make_world(postgres_url) as world:
            manager = counting(world)
            away = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
            ledger = manager.quotas.ledger
            manager.count_in(SQLAlchemyQuotaLedger(away, Base.metadata))
            with pytest.raises(BackendUnavailableError, match="cannot be counted now") as caught:
                put(world, 60)
            assert caught.value.retryable
            assert world.stored() == set()
            manager.count_in(ledger)
            assert used(world) == (0, 0)

    def test_where_its_tables_are_missing_that_is_said(self, world: World) -> None:
        def scenario() -> None:
            counting(world)
            tables().quota.drop(world.engine)
            with pytest.raises(ConfigurationError, match="has no table granite_quota"):
                put(world, 60)
            assert world.stored() == set()

        world.run(scenario)

    def test_sums_are_locked_in_one_order_whatever_the_database_sorts_by(self, tmp_path: Path) -> None:
        with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
            with world.engine.begin() as connection:  # as in a database of PostgreSQL whose collation is en_US
                usage = tables().usage
                (made,) = connection.scalars(text("SELECT sql FROM sqlite_master WHERE name = 'granite_usage'"))
                usage.drop(connection)
                connection.exec_driver_sql(str(made).replace("scope VARCHAR(255)", "scope VARCHAR(255) COLLATE NOCASE"))
            quotas = [Quota(scope=lambda announced: "User:1"), Quota(scope=lambda announced: "tenant:1")]
            manager = counting(world, quotas=quotas)
            locked: list[str] = []

            @event.listens_for(world.engine, "before_cursor_execute")
            def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
                if statement.startswith("SELECT granite_quota"):
                    locked.append(parameters[0])

            uploads = TestUploadSessions.uploads(manager, world)
            begun = uploads.create("pages", kind="test", length=10)
            uploads.settle(uploads.find(begun.id), 20)
            assert [each for each, _ in groupby(locked)] == ["User:1", "tenant:1"] * 2

    def test_a_sweep_locks_the_sums_of_one_session_at_a_time(self, postgres_url: str) -> None:
        with make_world(postgres_url) as world:
            uploads = TestUploadSessions.uploads(counting(world), world)
            t, quota = tables().upload, tables().quota
            for number, who in enumerate(["ben", "ann"]):
                begun = uploads.create("pages", kind="test", length=10, context={"owner": who})
                with world.engine.begin() as connection:
                    connection.execute(update(t).where(t.c.id == begun.id).values(expires_at=number))
            with ThreadPoolExecutor(1) as pool, world.engine.connect() as other:
                lock = select(quota.c.bytes).with_for_update()
                other.execute(lock.where(quota.c.scope == "user:ann"))
                running = pool.submit(sweep, world)
                waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                with world.engine.connect() as looking:
                    while not looking.scalar(waiting):
                        time.sleep(0.01)
                assert other.scalar(lock.where(quota.c.scope == "user:ben")) == 0, "it waits, and holds no other sum"
                other.rollback()
                report = running.result()
            assert (report.uploads, report.problems) == (2, ())
            assert (used(world), used(world, "ben")) == ((0, 0), (0, 0))

    def test_what_two_count_at_once_counts_once(self, postgres_url: str) -> None:
        with make_world(postgres_url) as world:
            manager, quota = counting(world), tables().quota
            put(world, 1)
            before = manager.put_bytes("documents", content=b"x" * 70)
            with ThreadPoolExecutor(2) as pool, world.engine.connect() as other:
                other.execute(select(quota.c.bytes).with_for_update())
                running = [pool.submit(manager.quotas.count, before, "user:ann") for _ in range(2)]
                waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                with world.engine.connect() as looking:
                    while int(looking.scalar(waiting) or 0) < 2:
                        time.sleep(0.01)
                other.rollback()
                for each in running:
                    each.result()
            assert used(world) == (71, 2)
            assert receipts(world) == [("user:ann", 1), ("user:ann", 70)]

    def test_who_loses_a_deadlock_tries_again(self, postgres_url: str) -> None:
        with make_world(postgres_url) as world:
            counting(world)
            put(world, 1)
            put(world, 1, "ben")
            database, t, both = Database(world.engine, [Base.metadata]), tables().quota, threading.Barrier(2)
            attempts: list[str] = []

            def work(first: str, then: str) -> None:
                def step(connection: Any) -> None:
                    attempts.append(first)
                    for scope in (first, then):
                        more = update(t).where(t.c.scope == scope).values(bytes=t.c.bytes + 1)
                        connection.execute(more)
                        if attempts.count(first) == 1 and scope == first:
                            both.wait(60)

                database.write(step)

            with ThreadPoolExecutor(2) as pool:
                scopes = "user:ann", "user:ben"
                for each in [pool.submit(work, *scopes), pool.submit(work, *reversed(scopes))]:
                    each.result()
            assert len(attempts) >= 3  # on a busy machine both may be told to try again
            assert (used(world), used(world, "ben")) == ((3, 1), (3, 1))

    def test_where_uploads_cannot_be_ended_the_rest_is_swept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise OperationalError("UPDATE", None, Exception("broken"))

        with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
            store(world, "lost")
            bury(world, "lost")
            monkeypatch.setattr(SQLAlchemyLedger, "expire_uploads", broken)
            report = sweep(world)
            assert (report.deleted, len(report.problems)) == (1, 1)
            assert "broken" in report.problems[0].message


class TestUploadSessions:
    def test_a_session_is_counted_from_its_beginning_to_its_end(self, world: World) -> None:
        def scenario() -> None:
            uploads = self.uploads(counting(world), world)
            first = uploads.create("pages", kind="test", length=60, context={"owner": "ann"})
            assert used(world) == (60, 1)
            with pytest.raises(QuotaExceededError):
                uploads.create("pages", kind="test", length=41, context={"owner": "ann"})
            with uploads.receive(first.id, offset=0) as reception:
                reception.write(b"x" * 60)
                finished = reception.finish()
            assert finished is not None
            assert used(world) == (60, 1)
            second = uploads.create("pages", kind="test", length=40, context={"owner": "ann"})
            uploads.discard(second.id)
            assert used(world) == (60, 1)
            uploads.discard(first.id)
            assert used(world) == (60, 1)  # the file is there until it is swept
            age_everything(world)
            sweep(world)
            assert used(world) == (0, 0)

        world.run(scenario)

    def test_one_that_expires_is_given_back_by_the_sweep(self, world: World) -> None:
        def scenario() -> None:
            uploads = self.uploads(counting(world), world)
            uploads.create("pages", kind="test", length=60, context={"owner": "ann"})
            with world.engine.begin() as connection:
                connection.execute(update(tables().upload).values(expires_at=0))
            sweep(world)
            assert used(world) == (0, 0)

        world.run(scenario)

    def test_one_of_no_known_length_is_counted_as_it_comes(self, world: World) -> None:
        def scenario() -> None:
            uploads = self.uploads(counting(world, limit=3 * MB), world)
            first = uploads.create("pages", kind="test", context={"owner": "ann"})
            with uploads.receive(first.id, offset=0) as reception:
                reception.write(bytes(MB))
            assert used(world)[0] >= MB
            with uploads.receive(first.id, offset=MB, length=2 * MB) as reception:
                reception.write(bytes(MB))
                reception.finish()
            assert used(world) == (2 * MB, 1)
            second = uploads.create("pages", kind="test", context={"owner": "ann"})
            with pytest.raises(QuotaExceededError), uploads.receive(second.id, offset=0) as reception:
                for _ in range(4):
                    reception.write(bytes(MB))
            assert used(world) == (2 * MB, 1)

        world.run(scenario)

    def test_asynchronously_it_is_the_same(self, world: World) -> None:
        async def scenario() -> None:
            manager = counting(world, limit=3 * MB)
            uploads, quotas = AsyncUploads(self.uploads(manager, world)), AsyncStorageManager(manager).quotas
            ann = {"owner": "ann"}
            first = await uploads.create("pages", kind="test", context=ann)
            with pytest.raises(QuotaExceededError):
                await uploads.create("pages", kind="test", length=4 * MB, context=ann)
            async with await uploads.receive(first.id, offset=0) as reception:
                for _ in range(2):
                    await reception.write(bytes(MB))
            async with await uploads.receive(first.id, offset=2 * MB, length=2 * MB + 1) as reception:
                await reception.write(b"x")
                await reception.finish()
            assert await quotas.usage("user:ann") == QuotaUsage("user:ann", 2 * MB + 1, 1)
            second = await uploads.create("pages", kind="test", context=ann)
            with pytest.raises(QuotaExceededError):
                async with await uploads.receive(second.id, offset=0) as reception:
                    for _ in range(4):
                        await reception.write(bytes(MB))
            assert await quotas.usage("user:ann") == QuotaUsage("user:ann", 2 * MB + 1, 1)

        run_async(world, scenario)

    def test_a_file_that_waits_for_a_form_counts_once(self, world: World) -> None:
        def scenario() -> None:
            uploads = self.uploads(counting(world), world)
            held = uploads.hold(put(world, 60), kind="token")
            assert used(world) == (60, 1)
            with world.session() as session:
                session.add(Document(file=held.file))
                session.commit()
            age_everything(world)
            age_usage(world)
            sweep(world)
            reconcile(world)
            assert used(world) == (60, 1)

        world.run(scenario)

    def test_what_goes_directly_to_the_store_is_counted_from_its_beginning_and_once(self, world: World) -> None:
        def scenario() -> None:
            direct = Direct(self.uploads(counting(world), world), str)
            first = direct.begin("pages", size=60, context={"owner": "ann"})
            assert used(world) == (60, 1)
            with pytest.raises(QuotaExceededError):
                direct.begin("pages", size=41, context={"owner": "ann"})
            direct.receive(self.token(direct.instructions(first)), [b"x" * 60])
            finished = direct.complete(first.id)
            assert finished.file is not None
            assert receipts(world) == [("user:ann", 60)]
            with world.session() as session:
                session.add(Document(file=finished.file))
                session.commit()
            unsaid = direct.begin("pages", form=True, context={"owner": "ann"})
            assert used(world) == (100, 2), "it may fill what is left"
            with pytest.raises(ContentTooLargeError):
                direct.receive(self.token(direct.instructions(unsaid)), [b"x" * 41])
            with pytest.raises(QuotaExceededError):
                direct.begin("pages", form=True, context={"owner": "ann"})
            direct.receive(self.token(direct.instructions(unsaid)), [b"x" * 30])
            direct.complete(unsaid.id)
            assert used(world) == (90, 2), "no more than has come"
            direct.uploads.discard(unsaid.id)
            for _ in range(2):
                age_everything(world)
                age_usage(world)
                sweep(world)
                reconcile(world, max_share=1)
            assert used(world) == (60, 1)
            fits = direct.begin("pages", form=True, context={"owner": "ann"})
            direct.receive(self.token(direct.instructions(fits)), [b"x" * 40])
            direct.complete(fits.id)
            assert used(world) == (100, 2)
            direct.uploads.discard(fits.id)
            for _ in range(2):
                age_everything(world)
                age_usage(world)
                sweep(world)
                reconcile(world, max_share=1)
            assert used(world) == (60, 1)
            assert len(world.stored()) == 1

        world.run(scenario)

    def test_a_completion_that_died_is_counted_once_by_the_next_one(self, world: World) -> None:
        def scenario() -> None:
            direct = Direct(self.uploads(counting(world), world), str)
            begun = direct.begin("pages", size=60, context={"owner": "ann"})
            direct.receive(self.token(direct.instructions(begun)), [b"x" * 60])
            died = Finishing(world.manager, begun)
            died.begin()
            while died.step():
                pass
            died.write.store()
            assert direct.complete(begun.id).file is not None
            assert used(world) == (60, 1)
            for _ in range(2):
                age_everything(world)
                age_usage(world)
                sweep(world)
                reconcile(world, max_share=1)
            assert used(world) == (60, 1)

        world.run(scenario)

    def test_it_may_be_counted_in_another_database_than_the_sessions(self, world: World, tmp_path: Path) -> None:
        def scenario() -> None:
            manager = counting(world)
            elsewhere = create_engine(f"sqlite:///{tmp_path}/elsewhere.sqlite3")
            Base.metadata.create_all(elsewhere)
            manager.count_in(SQLAlchemyQuotaLedger(elsewhere, Base.metadata))
            direct = Direct(self.uploads(manager, world), str)
            begun = direct.begin("pages", size=60, context={"owner": "ann"})
            direct.receive(self.token(direct.instructions(begun)), [b"x" * 60])
            finished = direct.complete(begun.id)
            assert finished.file is not None
            with elsewhere.connect() as connection:
                t = tables().usage
                assert connection.execute(select(t.c.location, t.c.bytes)).all() == [(finished.file.location, 60)]
            assert used(world) == (60, 1)
            elsewhere.dispose()

        world.run(scenario)

    def test_directly_and_asynchronously_it_is_the_same(self, world: World) -> None:
        async def scenario() -> None:
            manager = counting(world)
            direct, quotas = AsyncDirect(AsyncUploads(self.uploads(manager, world)), str), manager.quotas
            begun = await direct.begin("pages", size=60, context={"owner": "ann"})
            with pytest.raises(QuotaExceededError):
                await direct.begin("pages", size=41, context={"owner": "ann"})
            form = await direct.begin("pages", form=True, context={"owner": "ann"})
            assert form.details["limit"] == 40
            await direct.discard(form.id)
            write = await direct.open(self.token(await direct.instructions(begun)))
            await write.write(b"x" * 60)
            await write.commit()
            await write.close()
            manager.count_in(quotas.ledger)  # another process goes on
            finished = await direct.complete(begun.id)
            assert finished.file is not None
            assert await AsyncStorageManager(manager).quotas.usage("user:ann") == QuotaUsage("user:ann", 60, 1)

        run_async(world, scenario)

    @staticmethod
    def token(told: DirectInstructions) -> str:
        assert told.request is not None
        return told.request.url

    @staticmethod
    def uploads(manager: StorageManager, world: World) -> Uploads:
        ledger = SQLAlchemyUploadLedger(world.any_engine, Base.metadata)
        return Uploads(manager, ledger, UploadSettings(expires_in=timedelta(hours=1)))


class TestManyAtOnce:
    """Whoever is first, the sum is never over the limit, and what is left over is what is stored."""

    @pytest.fixture(params=["sqlite", "psycopg"])
    def crowded(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
        is_sqlite = request.param == "sqlite"
        url = f"sqlite:///{tmp_path}/db.sqlite3" if is_sqlite else str(request.getfixturevalue("postgres_url"))
        options: Any = {"connect_args": {"timeout": 60}} if is_sqlite else {"pool_size": 10, "max_overflow": 10}
        with make_world(url, **options) as world:
            yield world

    def test_of_two_that_race_for_the_last_bytes_one_wins(self, crowded: World) -> None:
        counting(crowded)
        for _ in range(10):
            start = threading.Barrier(2)

            def race(start: threading.Barrier = start) -> StagedFile | None:
                start.wait()
                with suppress(QuotaExceededError):
                    return put(crowded, 60)
                return None

            with ThreadPoolExecutor(2) as pool:
                won = [each.result() for each in [pool.submit(race), pool.submit(race)]]
            (winner,) = filter(None, won)
            assert used(crowded) == (60, 1)
            winner.discard()

    def test_many_workers_never_pass_the_limit_and_lose_nothing(self, crowded: World) -> None:
        limit = 500
        counting(crowded, limit=limit)
        over, refused = [], []

        def work(seed: int) -> int:
            kept: list[StagedFile] = []
            for turn in range(12):
                size = 20 + (seed * 31 + turn * 17) % 90
                try:
                    kept.append(put(crowded, size) if turn % 2 else stream(size))
                except QuotaExceededError:
                    refused.append(size)
                if used(crowded)[0] > limit:
                    over.append(turn)
                if kept and turn % 3 == 2:
                    kept.pop(0).discard()
            return sum(each.size for each in kept)

        def stream(size: int) -> StagedFile:
            pieces = [b"x" * 10] * (size // 10) + [b"y" * (size % 10)]
            return crowded.manager.put("documents", iter(pieces), context={"owner": "ann"})

        with ThreadPoolExecutor(6) as pool:
            kept = sum(pool.map(work, range(6)))
        assert not over
        assert refused
        assert used(crowded)[0] == kept == sum(crowded.store.stat(each).size for each in crowded.stored())
        assert crowded.manager.quotas.recount("user:ann").bytes == kept
        put(crowded, limit - kept)  # no room is lost
        with pytest.raises(QuotaExceededError):
            put(crowded, 1)
