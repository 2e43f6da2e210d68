"""What goes at an upload leave in a store, when they are overtaken: nothing that stays."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, update

from granite_core import (
    BackendUnavailableError,
    LocalStorageBackend,
    MemoryStorageBackend,
    ObstoreStorageBackend,
    S3StorageBackend,
    StorageBackend,
    StorageError,
    StorageManager,
    StoragePolicy,
    UploadGoneError,
    UploadLostError,
    UploadNotFoundError,
)
from granite_core.backends.base import Capability
from granite_core.gc import Collector, GCConfig
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, SQLAlchemyUploadLedger, db_now
from granite_core.testing import FaultyBackend
from granite_core.uploads import AsyncUploads, Uploads, UploadSession, UploadStatus
from tests.integration.sqlalchemy.collecting import GRACE_MS, MINUTE, tables
from tests.integration.sqlalchemy.world import GRACE, Base
from tests.support.s3 import S3Server

MIB = 1024 * 1024
DEEP = os.environ.get("GRANITE_DEEP") == "1"
CONTENT = b"%PDF-1.7\n" + random.Random(7).randbytes(600_000)


class Primitive(MemoryStorageBackend):
    """Has the five primitives and no more: nobody can list its reserved keys."""

    capabilities = frozenset({Capability.ATOMIC_CREATE})


@dataclass
class Place:
    """A store one can look into, and uploads to it."""

    backend: FaultyBackend
    keys: Callable[[], list[str]]
    engine: Engine

    def __post_init__(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        event.listen(self.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous = OFF"))
        self.manager = StorageManager({"main": self.backend}, [StoragePolicy("files")], grace=GRACE)
        self.uploads = Uploads(self.manager, SQLAlchemyUploadLedger(self.engine, Base.metadata))

    def everything(self) -> list[str]:
        return [each for each in self.keys() if each != MARKER_KEY]

    def begin(self, length: int | None = len(CONTENT)) -> str:
        return self.uploads.create("files", kind="test", length=length).id

    def overtake(self) -> None:
        """The lease of whoever writes has run out."""
        with self.engine.begin() as connection:
            connection.execute(update(tables().upload).values(held_until=db_now() - 1))

    def sweep(self) -> None:
        """After the grace."""
        t = tables().tombstone
        with self.engine.begin() as connection:
            connection.execute(t.update().values(written_at=t.c.written_at - GRACE_MS - MINUTE, retry_at=0))
        ledger = SQLAlchemyLedger([self.engine], Base.metadata)
        report = Collector(self.manager, ledger, GCConfig()).sweep()
        assert not report.problems

    def tombstones(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(tables().tombstone.select()).all())


@pytest.fixture(params=["primitive", "local", "obstore", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    Base.metadata.create_all(engine)
    backend, everything = _STORES[request.param](request, tmp_path / "root")
    yield Place(FaultyBackend(backend), everything, engine)
    backend.close()
    engine.dispose()


@pytest.fixture
def primitive(tmp_path: Path) -> Iterator[Place]:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    Base.metadata.create_all(engine)
    backend = Primitive()
    yield Place(FaultyBackend(backend), lambda: [each.decode() for each in backend._keys], engine)
    engine.dispose()


def test_what_is_discarded_while_bytes_arrive_leaves_nothing(place: Place) -> None:
    upload = place.begin()
    reception = place.uploads.receive(upload, offset=0)
    reception.write(CONTENT[:9000])
    reception.record()
    reception.write(CONTENT[9000:400_000])
    place.uploads.discard(upload)
    reception.close()
    assert place.everything() == []


def test_what_is_discarded_before_its_first_bytes_are_recorded_leaves_nothing(place: Place) -> None:
    upload = place.begin()
    reception = place.uploads.receive(upload, offset=0)
    reception.write(CONTENT[:300_000])
    place.uploads.discard(upload)
    with pytest.raises(StorageError):
        reception.record()
    reception.close()
    assert place.everything() == []


def test_who_wakes_up_after_the_upload_was_finished_leaves_nothing(place: Place) -> None:
    upload = place.begin()
    asleep = place.uploads.receive(upload, offset=0)
    asleep.write(CONTENT[:300_000])
    place.overtake()
    with place.uploads.receive(upload, offset=0) as reception:
        reception.write(CONTENT)
        finished = reception.finish()
    asleep.close()
    assert finished is not None
    assert finished.file is not None
    assert place.everything() == [finished.file.location]
    place.manager.verify(finished.file)


def test_who_wakes_up_takes_nothing_from_who_goes_on(place: Place) -> None:
    upload = place.begin()
    asleep = place.uploads.receive(upload, offset=0)
    asleep.write(CONTENT[:9000])
    asleep.record()
    asleep.write(CONTENT[9000:300_000])
    place.overtake()
    with place.uploads.receive(upload, offset=9000) as reception:
        reception.write(CONTENT[9000:200_000])
        asleep.close()
        assert reception.finish() is None
    with place.uploads.receive(upload, offset=200_000) as reception:
        reception.write(CONTENT[200_000:])
        finished = reception.finish()
    assert finished is not None
    assert finished.file is not None
    assert place.everything() == [finished.file.location]
    place.manager.verify(finished.file)


def test_who_dies_in_its_sleep_leaves_nothing_after_the_grace(primitive: Place) -> None:
    """It writes its piece, and is killed before it learns that the upload is over."""
    for ends in (primitive.uploads.discard, _finish):
        upload = primitive.begin()
        asleep = primitive.uploads.receive(upload, offset=0)
        asleep.write(CONTENT[:300_000])
        primitive.overtake()
        if ends is _finish:
            _finish(primitive, upload)
        else:
            primitive.uploads.discard(upload)
        asleep._arrival.checkpoint()
        primitive.sweep()
        held = primitive.uploads.find(upload).location if ends is _finish else None
        assert primitive.everything() == ([held] if held else [])
        assert primitive.tombstones() == 0


@pytest.mark.parametrize("failures", [1, 2])
def test_pieces_whose_removal_failed_are_swept(primitive: Place, failures: int) -> None:
    upload = primitive.begin(2000)
    with primitive.uploads.receive(upload, offset=0) as reception:
        reception.write(CONTENT[:1000])
    with primitive.uploads.receive(upload, offset=1000) as reception:
        reception.write(CONTENT[1000:2000])
        primitive.backend.fail("delete", times=failures)
        finished = reception.finish()
    assert finished is not None
    primitive.backend.heal()
    assert len(primitive.everything()) == 1 + failures
    primitive.sweep()
    assert primitive.everything() == [finished.location]
    primitive.manager.verify(primitive.uploads.find(upload).file)  # type: ignore[arg-type] # it is finished


def test_of_an_upload_that_is_discarded_all_is_tried_though_one_removal_fails(primitive: Place) -> None:
    upload = primitive.begin()
    for offset in range(3):
        with primitive.uploads.receive(upload, offset=offset) as reception:
            reception.write(CONTENT[offset : offset + 1])
    primitive.backend.fail("delete", times=1)
    primitive.uploads.discard(upload)
    assert len(primitive.everything()) == 1
    primitive.backend.heal()
    with primitive.engine.begin() as connection:
        connection.execute(update(tables().upload).values(held_until=0))
    primitive.sweep()
    assert primitive.everything() == []


@pytest.mark.parametrize("place", ["primitive", "s3"] if DEEP else ["primitive"], indirect=True)
def test_three_hundred_small_goes_make_few_objects_and_read_little(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENT[: 300 * 1024]
    read, most = 0, 0
    opening = place.backend.inner.open_reader

    def watched(location: str, **range_: Any) -> Any:
        nonlocal read
        reader = opening(location, **range_)
        read += reader.size
        return reader

    monkeypatch.setattr(place.backend.inner, "open_reader", watched)
    upload = place.begin(len(content))
    for go in range(300):
        with place.uploads.receive(upload, offset=go * 1024) as reception:
            reception.write(content[go * 1024 : (go + 1) * 1024])
            finished = reception.finish()
        if go % 16 in (0, 15):
            most = max(most, len(place.everything()))
    assert most <= 3 * 16
    assert read <= 4 * len(content)
    assert finished is not None
    assert finished.file is not None
    assert place.everything() == [finished.file.location]
    assert finished.file.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    place.manager.verify(finished.file)


def test_names_of_goes_that_were_forgotten_do_not_pile_up(primitive: Place) -> None:
    upload = primitive.begin()
    for _ in range(40):
        reception = primitive.uploads.receive(upload, offset=0)
        reception.write(CONTENT[:300_000], records=False)
        reception.close(keep=False)
    state = primitive.uploads.find(upload).progress.to_json()
    assert len(state) < 1000
    _finish(primitive, upload)
    assert primitive.everything() == [primitive.uploads.find(upload).location]


def test_what_may_still_be_needed_is_not_removed_while_the_database_is_away(
    primitive: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A go that folds pieces cannot record it, twice: those that are recorded must be there."""
    upload = primitive.begin()
    for offset in range(16):
        with primitive.uploads.receive(upload, offset=offset) as reception:
            reception.write(CONTENT[offset : offset + 1])
    reception = primitive.uploads.receive(upload, offset=16)
    reception.write(CONTENT[16:300_000])

    def away(*_: Any, **__: Any) -> Any:
        raise BackendUnavailableError("the database is away", operation="record")

    with monkeypatch.context() as patch:
        patch.setattr(primitive.uploads.ledger, "record", away)
        with pytest.raises(BackendUnavailableError):
            reception.record()
        reception.close()
    primitive.overtake()
    _finish(primitive, upload, 16)
    file = primitive.uploads.find(upload).file
    assert file is not None
    primitive.manager.verify(file)
    primitive.sweep()
    assert primitive.everything() == [file.location]


@pytest.mark.parametrize("place", ["obstore", "s3"], indirect=True)
def test_pieces_of_nobody_are_cleared_and_those_of_an_upload_never(place: Place) -> None:
    kept, gone = place.begin(), place.begin()
    for upload in (kept, gone):
        with place.uploads.receive(upload, offset=0) as reception:
            reception.write(CONTENT[:5000])
    with place.engine.begin() as connection:
        connection.execute(tables().upload.delete().where(tables().upload.c.id == gone))
    ledger = SQLAlchemyLedger([place.engine], Base.metadata)
    config = GCConfig(unfinished_after=_NOTHING)
    assert sum(each.cleared for each in Collector(place.manager, ledger, config).reconcile().backends) == 1
    _finish(place, kept, 5000)
    file = place.uploads.find(kept).file
    assert file is not None
    place.manager.verify(file)
    assert place.everything() == [file.location]


@pytest.mark.parametrize("place", ["s3"], indirect=True)
@pytest.mark.parametrize("moment", ["write", "completion"])
def test_an_upload_that_the_store_has_lost_is_ended(place: Place, moment: str) -> None:
    """As a lifecycle rule, or an operator, aborts the store's own upload."""
    content = CONTENT * 20
    upload = place.begin(len(content) + (moment == "write"))
    with place.uploads.receive(upload, offset=0) as reception:
        reception.write(content)
        reception.keep(ends=True)
        reception._over = True
        reception._arrival.close()
    backend: Any = place.backend.inner
    known = json.loads(place.uploads.find(upload).progress.writer or "")["upload"]
    key = place.uploads.find(upload).location
    backend.client.abort_multipart_upload(Bucket=backend.bucket, Key=key, UploadId=known)
    place.overtake()
    with pytest.raises(UploadGoneError):
        if moment == "completion":
            place.uploads.complete(upload)
        else:
            with place.uploads.receive(upload, offset=len(content)) as reception:
                reception.write(b".")
                reception.finish()
    with pytest.raises(UploadNotFoundError):
        place.uploads.find(upload)
    assert place.everything() == []
    place.sweep()
    assert place.tombstones() == 0


@pytest.mark.parametrize("completes", [False, True])
def test_an_upload_whose_bytes_were_lost_is_ended(place: Place, tmp_path: Path, completes: bool) -> None:
    upload = place.begin(9000 if completes else 9001)
    with place.uploads.receive(upload, offset=0) as reception:
        reception.write(CONTENT[:9000])
        reception.keep(ends=True)
        reception._over = True
        reception._arrival.close()
    parts = [each for each in (tmp_path / "root").rglob(".granite-part-*") if each.is_file()]
    for part in parts:
        part.unlink()
    for key in () if parts else place.everything():
        place.backend.inner.delete(key)
    if isinstance(place.backend.inner, S3StorageBackend) and completes:
        place.backend.inner.discard_unfinished(place.uploads.find(upload).location, None)
    place.overtake()
    with pytest.raises(UploadGoneError):
        if completes:
            place.uploads.complete(upload)
        else:
            with place.uploads.receive(upload, offset=9000) as reception:
                reception.write(b".")
                reception.finish()
    with pytest.raises(UploadNotFoundError):
        place.uploads.find(upload)
    assert place.everything() == []


def test_an_object_of_another_length_than_what_came_is_not_given_out(place: Place) -> None:
    upload = place.begin(9000)
    with place.uploads.receive(upload, offset=0) as reception:
        reception.write(CONTENT[:9000])
        reception.record()
        reception._arrival.size += 1  # no way is known by which it would be so
        with pytest.raises(UploadGoneError):
            reception.finish()
    with pytest.raises(UploadNotFoundError):
        place.uploads.find(upload)
    assert place.everything() == []


def test_who_lost_its_upload_is_told_so_and_not_that_it_has_ended(primitive: Place) -> None:
    for ending, told in (
        (None, UploadLostError),
        (_finish, UploadLostError),
        (primitive.uploads.discard, UploadGoneError),
    ):
        upload = primitive.begin()
        asleep = primitive.uploads.receive(upload, offset=0)
        asleep.write(CONTENT[:300_000])
        primitive.overtake()
        if ending is None:
            primitive.uploads.receive(upload, offset=0)
        elif ending is _finish:
            _finish(primitive, upload)
        else:
            primitive.uploads.discard(upload)
        with pytest.raises(told):
            asleep.record()


def test_joining_pieces_can_be_watched(primitive: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("granite_core.progress.EVERY_SECONDS", 0)
    told: list[tuple[int, int | None]] = []
    for asynchronous in (False, True):
        upload, told[:] = primitive.begin(), []
        for offset in (0, 200_000, 400_000):
            reception = primitive.uploads.receive(upload, offset=offset)
            reception.write(CONTENT[offset : offset + 200_000])
            reception.close()
        with primitive.uploads.receive(upload, offset=600_000) as reception:
            reception.write(CONTENT[600_000:])
            reception.keep(ends=True)
            reception._over = True
            reception._arrival.close()
        primitive.overtake()

        async def tell(done: int, total: int | None) -> None:
            told.append((done, total))

        if asynchronous:
            asyncio.run(AsyncUploads(primitive.uploads).complete(upload, progress=tell))  # type: ignore[arg-type]
        else:
            primitive.uploads.complete(upload, progress=lambda *each: told.append(each))
        assert [done for done, _ in told] == [0, 200_000, 400_000, 600_000, len(CONTENT), len(CONTENT)]
        assert {total for _, total in told} == {len(CONTENT)}


def test_copying_a_stored_file_into_an_upload_can_be_watched_and_broken_off(
    primitive: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the pieces are copied that a client has asked to be joined."""
    monkeypatch.setattr("granite_core.progress.EVERY_SECONDS", 0)
    content = CONTENT * 4
    backend, piece = primitive.backend, primitive.manager.put_bytes("files", content=content)
    told: list[tuple[int, int | None]] = []

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))
        if done == stops_at:
            raise InterruptedError

    async def tell_later(done: int, total: int | None) -> None:
        tell(done, total)

    async def join(upload: str, offset: int) -> UploadSession | None:
        async with await AsyncUploads(primitive.uploads).receive(upload, offset=offset) as reception:
            await reception.copy(backend, piece, progress=tell_later)
            return await reception.finish()

    for asynchronous in (False, True):
        upload, stops_at = primitive.begin(MIB + 2 * len(content)), MIB
        with pytest.raises(InterruptedError):
            if asynchronous:
                asyncio.run(join(upload, 0))
            else:
                with primitive.uploads.receive(upload, offset=0) as reception:
                    reception.copy(backend, piece, progress=tell)
        stops_at, told[:], finished = -1, [], None
        for offset in (MIB, MIB + len(content)):
            if asynchronous:
                finished = asyncio.run(join(upload, offset))
            else:
                with primitive.uploads.receive(upload, offset=offset) as reception:
                    with pytest.raises(TypeError):
                        reception.copy(backend, piece, progress=tell_later)
                    reception.copy(backend, piece, progress=tell)
                    finished = reception.finish()
        assert told == [(done, len(content)) for done in (0, MIB, 2 * MIB, len(content), len(content))] * 2
        assert finished is not None
        assert finished.file is not None
        whole = hashlib.sha256(content[:MIB] + 2 * content).hexdigest()
        assert finished.file.checksum == f"sha256:{whole}"
        primitive.manager.verify(finished.file)


def _finish(place: Place, upload: str, offset: int = 0) -> None:
    with place.uploads.receive(upload, offset=offset) as reception:
        reception.write(CONTENT[offset:])
        finished = reception.finish()
    assert finished is not None
    assert finished.status is UploadStatus.FINISHED


def _primitive(_: Any, __: Path) -> tuple[StorageBackend, Callable[[], list[str]]]:
    backend = Primitive()
    return backend, lambda: [each.decode() for each in backend._keys]


def _local(_: Any, root: Path) -> tuple[StorageBackend, Callable[[], list[str]]]:
    backend = LocalStorageBackend(root, durable=False)
    return backend, lambda: [str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()]


def _obstore(_: Any, root: Path) -> tuple[StorageBackend, Callable[[], list[str]]]:
    from obstore.store import LocalStore

    backend = ObstoreStorageBackend(LocalStore(root, mkdir=True))
    return backend, lambda: [str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()]


def _s3(request: pytest.FixtureRequest, _: Path) -> tuple[StorageBackend, Callable[[], list[str]]]:
    server: S3Server = request.getfixturevalue("ministack")
    client, bucket = server.client(), server.create_bucket()
    request.addfinalizer(lambda: server.drop_bucket(bucket))

    def everything() -> list[str]:
        found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        unfinished = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [each["Key"] for each in (*found, *unfinished)]

    return S3StorageBackend(bucket, client=client), everything


_STORES = {"primitive": _primitive, "local": _local, "obstore": _obstore, "s3": _s3}
_NOTHING = timedelta(microseconds=1)
