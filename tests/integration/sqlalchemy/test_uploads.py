"""Upload sessions: rows that hold files, on every kind of engine."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from granite_core import (
    BackendUnavailableError,
    CollectionRefusedError,
    ConfigurationError,
    ContentTooLargeError,
    ContentTypeNotAllowedError,
    StaleRefError,
    StorageError,
    StoragePolicy,
    UploadBusyError,
    UploadGoneError,
    UploadNotFoundError,
    UploadOffsetError,
    ValidationFailedError,
)
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger, db_now
from granite_core.keys import unique_part
from granite_core.uploads import Progress, Uploads, UploadSession, UploadSettings, UploadStatus
from tests.integration.sqlalchemy.collecting import age_everything, reconcile, rows_of, sweep, tables
from tests.integration.sqlalchemy.world import GRACE, Base, Document, World

CONTENT = b"%PDF-1.7\n" + bytes(range(256)) * 40


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The two that differ most: the others' colours and drivers have nothing of their own here."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db.sqlite3"
    return str(request.getfixturevalue("postgres_async_url"))


def uploads_of(world: World, **settings: Any) -> Uploads:
    return Uploads(world.manager, SQLAlchemyUploadLedger(world.any_engine, Base.metadata), UploadSettings(**settings))


def upload(uploads: Uploads, content: bytes = CONTENT, *, goes: int = 3, **said: Any) -> UploadSession:
    session = uploads.create("pages", kind="test", length=len(content), filename="a.pdf", **said)
    step = -(-len(content) // goes)
    finished = None
    for offset in range(0, len(content), step):
        with uploads.receive(session.id, offset=offset, subject=said.get("subject", "")) as reception:
            reception.write(content[offset : offset + step])
            finished = reception.finish()
    assert finished is not None
    return finished


def expire(world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(update(tables().upload).values(expires_at=db_now() - 1, held_until=0))


def sessions(world: World) -> list[Any]:
    return rows_of(world, tables().upload)


def test_what_came_in_several_goes_gets_into_a_row_and_leaves_its_session(world: World) -> None:
    def scenario() -> None:
        finished = upload(uploads_of(world))
        assert finished.status is UploadStatus.FINISHED
        file = finished.file
        assert file is not None
        assert file.checksum == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        assert (file.size, file.content_type, file.original_filename) == (len(CONTENT), "application/pdf", "a.pdf")
        with world.session() as session:
            session.add(Document(file=file))
            session.commit()
        assert sessions(world) == []
        assert world.held() == {file.location} == world.stored()
        world.check_laws()

    world.run(scenario)


def test_a_file_gets_into_one_row_only(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        finished = upload(uploads)
        again = uploads.find(finished.id)
        with world.session() as session:
            session.add(Document(file=finished.file))
            session.commit()
        with world.session() as session:
            session.add(Document(file=again.file))
            with pytest.raises(UploadGoneError):
                session.commit()
        with pytest.raises(UploadNotFoundError):
            uploads.find(finished.id)
        assert len(world.held()) == 1
        world.check_laws()

    world.run(scenario)


def test_what_is_rolled_back_is_in_its_session_again(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        file = upload(uploads).file
        with world.session() as session:
            session.add(Document(file=file))
            session.flush()
            assert not session.new
            session.rollback()
        assert len(sessions(world)) == 1
        with world.session() as session:
            with session.begin_nested() as savepoint:
                session.add(Document(file=file))
                session.flush()
                savepoint.rollback()
            session.add(Document(file=file))
            session.commit()
        assert sessions(world) == []
        world.check_laws()

    world.run(scenario)


def test_a_row_shares_what_it_took_as_any_file(world: World) -> None:
    def scenario() -> None:
        file = upload(uploads_of(world)).file
        with world.session(expire_on_commit=False) as session:
            first = Document(file=file, cover=file)
            session.add(first)
            session.commit()
            session.add(Document(file=first.file))
            session.commit()
        assert len(world.rows()) == 3
        world.check_laws()

    world.run(scenario)


def test_a_statement_takes_a_file_out_of_its_session_too(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        finished = upload(uploads)
        with world.session() as session:
            session.execute(insert(Document).values(file=finished.file, pages=[]))
            session.commit()
        assert sessions(world) == []
        world.check_laws()

    world.run(scenario)


def test_what_a_session_holds_may_be_in_a_row_besides(world: World) -> None:
    """A look-up finds it in the session: a ref that claims nothing takes nothing."""

    def scenario() -> None:
        from granite_core import StoredObjectRef

        finished = upload(uploads_of(world))
        assert finished.file is not None
        world.later(GRACE)  # by its own word it is old: only the session holds it
        with world.session() as session:
            session.add(Document(file=StoredObjectRef.from_dict(finished.file.to_dict())))
            session.commit()
        assert len(sessions(world)) == 1

    world.run(scenario)


def test_nothing_of_a_living_session_is_collected(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        finished = upload(uploads)
        begun = uploads.create("pages", kind="test", length=100)
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"x" * 50)
        world.manager.note([finished.file])  # type: ignore[list-item]  # it is finished
        for _ in range(2):
            reconcile(world, {"unfinished_after": timedelta(microseconds=1)}, max_share=1)
            age_everything(world)
            sweep(world)
        assert world.stored() == {finished.location}
        with uploads.receive(begun.id, offset=50) as reception:
            reception.write(b"y" * 50)
            assert reception.finish() is not None
        assert world.manager.get(uploads.find(begun.id).file) == b"x" * 50 + b"y" * 50  # type: ignore[arg-type]  # it is finished

    world.run(scenario)


def test_what_expires_while_somebody_completes_it_is_left_to_them(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=7)
        assert uploads.ledger.lock(begun.id, "somebody", lease=600_000) is not None
        with world.engine.begin() as connection:
            connection.execute(update(tables().upload).values(expires_at=db_now() - 1))
        assert (sweep(world, dry_run=True).uploads, sweep(world).uploads) == (0, 0)
        file = world.manager.put_bytes("pages", content=b"content")
        finished = uploads.ledger.finish(begun.id, "somebody", file, expires_in=600_000, manager=world.manager)
        assert finished is not None
        left = uploads.create("pages", kind="test", length=7)
        assert uploads.ledger.lock(left.id, "somebody", lease=600_000) is not None
        expire(world)  # and who held it has died
        assert sweep(world).uploads == 2

    world.run(scenario)


def test_what_has_expired_is_gone_after_the_grace(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        finished = upload(uploads)
        begun = uploads.create("pages", kind="test", length=100)
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"x" * 50)
        expire(world)
        with pytest.raises(UploadGoneError):
            uploads.receive(begun.id, offset=50)
        with pytest.raises(UploadGoneError):
            uploads.find(begun.id)
        assert sweep(world, dry_run=True).uploads == 2
        assert len(sessions(world)) == 2
        report = sweep(world)
        assert (report.uploads, report.deleted) == (2, 0)
        assert sessions(world) == []
        assert world.stored() == {finished.location}, "the grace has not passed"
        assert world.store._unfinished == {}
        age_everything(world)
        sweep(world)
        assert world.stored() == set()
        assert world.tombstones() == []

    world.run(scenario)


def test_arriving_bytes_move_the_expiry(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=100, expires_in=timedelta(seconds=60))
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"x" * 50)
        assert uploads.find(begun.id).expires_at > begun.expires_at + timedelta(hours=1)

    world.run(scenario)


def test_one_that_has_expired_takes_no_more_bytes_nor_is_it_finished(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=4)
        reception = uploads.receive(begun.id, offset=0)
        reception.write(b"abcd")
        expire(world)
        with pytest.raises(UploadGoneError):
            reception.finish()
        reception.close()
        sweep(world)
        assert sessions(world) == []
        assert world.stored() == set()

    world.run(scenario)


def test_two_do_not_write_at_once(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=8)
        first = uploads.receive(begun.id, offset=0)
        with pytest.raises(UploadBusyError):
            uploads.receive(begun.id, offset=0)
        first.write(b"abcd")
        first.close()
        with uploads.receive(begun.id, offset=4) as second:
            second.write(b"efgh")
            assert second.finish() is not None
        assert world.manager.get(uploads.find(begun.id).file) == b"abcdefgh"  # type: ignore[arg-type]  # it is finished

    world.run(scenario)


def test_a_holder_that_sleeps_loses_its_upload_and_changes_nothing(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=8)
        sleeper = uploads.receive(begun.id, offset=0)
        sleeper.write(b"abcd")
        sleeper.record()
        sleeper.write(b"zz")
        with world.engine.begin() as connection:
            connection.execute(update(tables().upload).values(held_until=db_now() - 1))
        with uploads.receive(begun.id, offset=0) as second:
            second.write(b"ABCD")
            second.record()
            with pytest.raises(StorageError):
                sleeper.record()
            sleeper.close()
            second.write(b"EFGH")
            assert second.finish() is not None
        assert world.manager.get(uploads.find(begun.id).file) == b"ABCDEFGH"  # type: ignore[arg-type]  # it is finished

    world.run(scenario)


def test_bytes_belong_where_the_upload_stands(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=8)
        with pytest.raises(UploadOffsetError):
            uploads.receive(begun.id, offset=3)
        with uploads.receive(begun.id, offset=0) as reception, pytest.raises(UploadOffsetError):
            reception.write(b"123456789")
        with pytest.raises(UploadOffsetError):
            uploads.receive(begun.id, offset=0, length=9)
        finished = upload(uploads)
        with pytest.raises(UploadOffsetError):
            uploads.receive(finished.id, offset=finished.offset)

    world.run(scenario)


def test_a_length_may_be_told_later(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("documents", kind="test")
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"ab")
            assert reception.finish() is None
        with pytest.raises(ContentTooLargeError):
            uploads.receive(begun.id, offset=2, length=1001)
        with uploads.receive(begun.id, offset=2, length=4) as reception:
            reception.write(b"cd")
            finished = reception.finish()
        assert finished is not None
        assert world.manager.get(finished.file) == b"abcd"  # type: ignore[arg-type]  # it is finished
        with uploads.receive(uploads.create("documents", kind="test", length=0).id, offset=0) as reception:
            empty = reception.finish()
        assert empty is not None
        assert world.manager.get(empty.file) == b""  # type: ignore[arg-type]  # it is finished

    world.run(scenario)


def test_an_upload_is_known_to_whom_it_belongs(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        finished = upload(uploads, subject="ann")
        assert uploads.find(finished.id, kind="test", subject="ann").file == finished.file
        for kind, subject in (("test", ""), ("test", "bob"), ("other", "ann")):
            with pytest.raises(UploadNotFoundError):
                uploads.find(finished.id, kind=kind, subject=subject)
            with pytest.raises(UploadNotFoundError):
                uploads.discard(finished.id, kind=kind, subject=subject)

    world.run(scenario)


def test_what_cannot_be_an_id_is_not_found(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        for made_up in ("", "a\0b", "\ud800", "A" * 26, f"{unique_part()}\n", "x" * 5000):
            with pytest.raises(UploadNotFoundError):
                uploads.find(made_up)
            with pytest.raises(UploadNotFoundError):
                uploads.discard(made_up)
            with pytest.raises(UploadNotFoundError):
                uploads.receive(made_up, offset=0)

    world.run(scenario)


def test_no_upload_is_longer_than_any_file_may_be(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        largest = uploads.create("pages", kind="test", length=2**53 - 1)
        assert uploads.find(largest.id).length == 2**53 - 1
        unsaid = uploads.create("pages", kind="test")
        for length in (2**53, 2**63, 10**30):
            with pytest.raises(ContentTooLargeError):
                uploads.create("pages", kind="test", length=length)
            with pytest.raises(ContentTooLargeError):
                uploads.receive(unsaid.id, offset=0, length=length)

    world.run(scenario)


def test_what_an_upload_is_called_has_an_end(world: World) -> None:
    for said in ({"kind": "k" * 33}, {"kind": "k", "subject": "s" * 256}):
        with pytest.raises(ConfigurationError):
            uploads_of(world).plan("pages", **said)


def test_what_is_discarded_leaves_nothing(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        finished = upload(uploads)
        begun = uploads.create("pages", kind="test", length=100)
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"x" * 50)
        for each in (finished, begun):
            uploads.discard(each.id)
            with pytest.raises(UploadNotFoundError):
                uploads.discard(each.id)
        assert sessions(world) == []
        assert world.store._unfinished == {}
        age_everything(world)
        sweep(world)
        assert world.stored() == set()

    world.run(scenario)


@pytest.mark.parametrize("refusal", ["size", "type", "validator"])
def test_a_refused_file_leaves_nothing(world: World, refusal: str) -> None:
    def refuse(candidate: Any) -> None:
        raise ValueError("it is ugly")

    policy = StoragePolicy(
        "pages",
        "main",
        max_size=5000 if refusal == "size" else None,
        content_types=["image/png"] if refusal == "type" else None,
        validators=[refuse] if refusal == "validator" else [],
    )
    world.manager._policies["pages"] = policy
    error = {"size": ContentTooLargeError, "type": ContentTypeNotAllowedError, "validator": ValidationFailedError}

    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test")
        with pytest.raises(error[refusal]):
            with uploads.receive(begun.id, offset=0) as reception:
                for position in range(0, len(CONTENT), 1000):
                    reception.write(CONTENT[position : position + 1000])
                reception.record()
            with uploads.receive(begun.id, offset=len(CONTENT), length=len(CONTENT)) as reception:
                reception.finish()
        assert sessions(world) == []
        assert world.stored() == set()
        assert world.store._unfinished == {}
        with pytest.raises(ContentTooLargeError if refusal == "size" else AssertionError):
            uploads.create("pages", kind="test", length=5001)
            raise AssertionError

    world.run(scenario)


def test_who_refuses_too_late_takes_nothing_from_a_row(world: World) -> None:
    seen = []

    def judge(candidate: Any) -> None:
        seen.append(candidate)
        if len(seen) > 1:
            return
        with world.engine.begin() as connection:
            connection.execute(update(tables().upload).values(held_until=db_now() - 1))
        finished = uploads_of(world).complete(sessions(world)[0].id)
        with world.session() as session:
            session.add(Document(file=finished.file))
            session.commit()
        raise ValueError("it is ugly, as is known by now")

    world.manager._policies["pages"] = StoragePolicy("pages", "main", validators=[judge])

    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=len(CONTENT))
        reception = uploads.receive(begun.id, offset=0)
        reception.write(CONTENT)
        with pytest.raises(ValidationFailedError):
            reception.finish()
        reception.close()
        assert len(seen) == 2
        assert len(world.held()) == 1
        world.check_laws()

    world.run(scenario)


@pytest.mark.parametrize("moment", ["checkpoint", "commit", "late commit"])
def test_a_finish_that_failed_is_done_again(world: World, moment: str) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=len(CONTENT))
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(CONTENT[:5000])
        world.backend.fail(moment.removeprefix("late "), late=moment.startswith("late"))  # type: ignore[arg-type]  # a name of a call
        with pytest.raises(BackendUnavailableError), uploads.receive(begun.id, offset=5000) as reception:
            reception.write(CONTENT[5000:])
            reception.finish()
        stands = uploads.find(begun.id)
        if moment == "checkpoint":
            with uploads.receive(begun.id, offset=stands.offset) as reception:
                reception.write(CONTENT[stands.offset :])
                finished = reception.finish()
        else:
            assert stands.is_complete
            finished = uploads.complete(begun.id)
        assert finished is not None
        assert finished.file is not None
        world.manager.verify(finished.file)
        assert world.manager.get(finished.file) == CONTENT
        assert uploads.complete(begun.id).file == finished.file

    world.run(scenario)


@pytest.mark.parametrize("resumes", [False, True])
def test_a_checksum_is_right_where_no_hash_can_be_put_aside(
    world: World, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    """Where libcrypto is missing, on all hosts or on one of them, the object is read once more."""
    from granite_core.uploads import _arrival

    real, turns = _arrival.resume_sha256, iter([resumes, False, resumes, True])

    def sometimes(saved: str | None, size: int) -> Any:
        return real(saved, size) if next(turns) else None

    monkeypatch.setattr(_arrival, "resume_sha256", sometimes)
    world.run(lambda: world.manager.verify(upload(uploads_of(world)).file))  # type: ignore[arg-type]  # it is finished


def test_a_staged_file_may_be_held(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        held = uploads.hold(world.stage(), kind="token", subject="ann")
        world.later(GRACE)
        found = uploads.find(held.id, kind="token", subject="ann")
        with world.session() as session:
            session.add(Document(file=found.file))
            session.commit()
        assert sessions(world) == []
        old = world.stage()
        world.later(GRACE / 4)
        with pytest.raises(StaleRefError):
            uploads.hold(old, kind="token")
        gone = world.stage()
        gone.discard()
        with pytest.raises(UploadGoneError):
            uploads.hold(gone, kind="token")
        world.check_laws()

    world.run(scenario)


def test_an_upload_is_finished_with_a_copy_and_what_the_client_wrote_goes(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("documents", kind="direct", progress=Progress(leftovers=("in/1",)))
        world.store.put_bytes("in/1", b"content")
        finished = uploads.finish_with(begun.id, world.stage(), kind="direct")
        assert finished.file is not None
        with pytest.raises(UploadOffsetError):
            uploads.finish_with(begun.id, world.stage(), kind="direct")
        abandoned = uploads.create("documents", kind="direct", progress=Progress(leftovers=("in/2",)))
        world.store.put_bytes("in/2", b"content")
        uploads.discard(abandoned.id)
        age_everything(world)
        sweep(world)
        assert {"in/1", "in/2"}.isdisjoint(world.stored())
        assert finished.file.location in world.stored()

    world.run(scenario)


def test_what_could_not_be_cleared_away_is_cleared_later(world: World) -> None:
    def scenario() -> None:
        uploads = uploads_of(world)
        begun = uploads.create("pages", kind="test", length=100)
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"x" * 50)
        world.backend.fail("discard", times=2)
        uploads.discard(begun.id)
        with pytest.raises(UploadGoneError):
            uploads.find(begun.id)
        (row,) = sessions(world)
        assert (row.status, row.file) == ("ending", None)
        assert sweep(world).uploads == 0, "whoever ended it is left some time"
        expire(world)
        assert sweep(world).problems
        expire(world)
        assert sweep(world).uploads == 1
        assert sessions(world) == []
        assert world.store._unfinished == {}

    world.run(scenario)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_without_the_table_rows_get_files_all_the_same(world: World) -> None:
    """After an upgrade its migration may be yet to come."""

    def scenario() -> None:
        tables().upload.drop(world.engine)
        with world.session() as session:
            document = Document(file=world.stage())
            session.add(document)
            session.commit()
            ref = document.file
            session.add(Document(file=ref))
            session.commit()
        assert len(world.rows()) == 2
        with pytest.raises(CollectionRefusedError, match="granite_upload"):
            sweep(world)

    world.run(scenario)


def test_status_counts_uploads(world: World) -> None:
    from tests.integration.sqlalchemy.collecting import collector

    def scenario() -> None:
        uploads = uploads_of(world)
        upload(uploads)
        begun = uploads.create("pages", kind="test", length=100)
        with uploads.receive(begun.id, offset=0) as reception:
            reception.write(b"x" * 50)
        (database,) = collector(world).status().databases
        counts = database.uploads
        assert (counts.receiving, counts.received_bytes, counts.finished, counts.finished_bytes) == (
            1,
            50,
            1,
            len(CONTENT),
        )
        assert [(each.objects, each.bytes) for each in database.usage] == [(1, len(CONTENT))]

    world.run(scenario)
