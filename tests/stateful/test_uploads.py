"""Random programs of goes at uploads, beside an oracle that is a row of bytes.

A go may die, sleep and wake up, the store may fail, others may end the upload or put its file into a row meanwhile.
What is finished is what was sent; and at the end, after a reconcile, the grace and a sweep, the store holds what
sessions and rows hold, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import random
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import Session

from granite_core import (
    LocalStorageBackend,
    MemoryStorageBackend,
    StorageBackend,
    StorageError,
    StorageManager,
    StoragePolicy,
)
from granite_core.backends.base import Capability
from granite_core.gc import Collector, GCConfig
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, SQLAlchemyUploadLedger, db_now, tables_of
from granite_core.testing import FaultyBackend
from granite_core.uploads import Reception, Uploads, UploadStatus
from tests.conformance.test_pieces import Piecewise
from tests.integration.sqlalchemy.world import Base, Document

PIECES = st.integers(0, 9000)
FAULTS: Final = ("write", "checkpoint", "commit", "resume_writer", "delete", "discard")


class Goes(RuleBasedStateMachine):
    """Sends pieces of one content, dies, comes back, fails, hands over to another process, and finishes."""

    backend: StorageBackend
    engine: Any
    killed: set[str]
    """Locations of uploads to which somebody wrote who was killed before he was told that he had come too late."""

    @initialize(size=st.integers(0, 30_000), seed=st.integers(0, 1000), known=st.booleans())
    def begin(self, size: int, seed: int, known: bool) -> None:
        self.content = b"%PDF-1.7\n" + random.Random(seed).randbytes(size)
        self.faulty = FaultyBackend(self.backend)
        self.manager = StorageManager({"main": self.faulty}, [StoragePolicy("files")], grace=GRACE)
        self.manager.register(Base)
        self.uploads = self.process()
        self.sleepers: list[Reception] = []
        self.known = known
        self.begin_another()

    def begin_another(self) -> None:
        known = self.known
        self.id = self.uploads.create("files", kind="test", length=len(self.content) if known else None).id
        self.kept = 0
        """Up to here everything must be there, whatever happens."""
        self.reception: Reception | None = None
        self.finished = False

    def process(self) -> Uploads:
        return Uploads(self.manager, SQLAlchemyUploadLedger(self.engine, Base.metadata))

    @property
    def length(self) -> int:
        return len(self.content)

    @precondition(lambda self: self.reception is None and not self.finished)
    @rule()
    def come(self) -> None:
        stands = self.uploads.find(self.id).offset
        assert self.kept <= stands <= self.length
        self.kept = stands
        self.reception = self.uploads.receive(self.id, offset=stands, length=self.length)

    @precondition(lambda self: self.reception is not None)
    @rule(size=PIECES)
    def send(self, size: int) -> None:
        assert self.reception is not None
        offset = self.reception.offset
        try:
            self.reception.write(self.content[offset : offset + size])
        except StorageError:
            self.lose()

    @precondition(lambda self: self.reception is not None)
    @rule()
    def record(self) -> None:
        assert self.reception is not None
        try:
            self.reception.record()
        except StorageError:
            self.lose()
        else:
            self.kept = self.reception.session.offset

    @precondition(lambda self: self.reception is not None)
    @rule()
    def leave(self) -> None:
        assert self.reception is not None
        offset = self.reception.offset
        self.reception.close()
        self.reception = None
        self.faulty.heal()
        stands = self.uploads.find(self.id).offset
        assert self.kept <= stands <= offset
        self.kept = stands

    @precondition(lambda self: self.reception is not None)
    @rule(descriptors=st.booleans())
    def die(self, descriptors: bool) -> None:
        """A process ends without a word; or sleeps, and its files stay open and locked."""
        assert self.reception is not None
        if descriptors:
            self.reception._arrival.close()
        else:
            self.sleepers.append(self.reception)
        self.lose()

    @precondition(lambda self: self.sleepers)
    @rule(dies=st.booleans(), which=st.integers(0, 100))
    def wake_up(self, dies: bool, which: int) -> None:
        """It goes on as if nothing had happened; or writes what it has, and is killed before it is told anything."""
        sleeper = self.sleepers.pop(which % len(self.sleepers))
        if dies:
            self.killed.add(sleeper.session.location)
            with suppress(StorageError):
                sleeper._arrival.checkpoint()
            sleeper._arrival.close()
        else:
            sleeper.close()

    @rule()
    def discard(self) -> None:
        """Somebody ends the upload, whoever is writing to it."""
        self.uploads.discard(self.id)
        if self.reception is not None:
            self.sleepers.append(self.reception)
        self.begin_another()

    @precondition(lambda self: self.finished)
    @rule()
    def take(self) -> None:
        """A row takes the file."""
        with Session(self.engine) as session:
            session.add(Document(file=self.uploads.find(self.id).file))
            session.commit()
        self.begin_another()

    @precondition(lambda self: self.reception is not None)
    @rule(
        operation=st.sampled_from(FAULTS),
        late=st.booleans(),
    )
    def fail(self, operation: Any, late: bool) -> None:
        self.faulty.fail(operation, late=late)

    @precondition(lambda self: self.reception is not None)
    @rule()
    def finish(self) -> None:
        assert self.reception is not None
        whole = self.reception.offset == self.length
        try:
            done = self.reception.finish()
        except StorageError:
            self.lose()
            return
        assert (done is not None) == whole
        self.reception, self.finished = None, whole
        self.kept = self.uploads.find(self.id).offset

    @precondition(lambda self: self.reception is None)
    @rule()
    def complete(self) -> None:
        try:
            self.finished = self.uploads.complete(self.id).status is UploadStatus.FINISHED
        except StorageError:
            self.lose()

    def lose(self) -> None:
        """Whoever held it is gone; its lease has run out."""
        self.faulty.heal()
        if self.reception is not None and self.reception not in self.sleepers:
            self.reception._arrival.close()
        self.reception = None
        self.uploads = self.process()
        tables = tables_of(Base.metadata)
        assert tables is not None
        with self.engine.begin() as connection:
            connection.execute(update(tables.upload).values(held_until=db_now() - 1))

    @invariant()
    def what_is_finished_is_what_was_sent(self) -> None:
        if not getattr(self, "finished", False):
            return
        file = self.uploads.find(self.id).file
        assert file is not None
        assert file.checksum == f"sha256:{hashlib.sha256(self.content).hexdigest()}"
        assert file.content_type == "application/pdf"
        self.manager.verify(file)

    def teardown(self) -> None:
        """Whatever was left can be gone on with to its end."""
        if not hasattr(self, "id"):
            return
        if self.reception is not None:
            self.lose()
        self.faulty.heal()
        if not self.finished:
            self.come()
            while self.reception is not None and self.reception.offset < self.length:
                self.send(5000)
            self.finish()
        assert self.finished
        self.what_is_finished_is_what_was_sent()
        while self.sleepers:
            self.wake_up(dies=len(self.sleepers) % 2 == 0, which=0)
        self.nothing_lingers_and_nothing_is_lost()

    def nothing_lingers_and_nothing_is_lost(self) -> None:
        """After a reconcile, the grace and a sweep."""
        tables = tables_of(Base.metadata)
        assert tables is not None
        with self.engine.begin() as connection:
            connection.execute(update(tables.upload).values(held_until=0))
        config = GCConfig(unfinished_after=timedelta(microseconds=1), always_allowed=1_000_000)
        collector = Collector(self.manager, SQLAlchemyLedger([self.engine], Base.metadata), config)
        assert not collector.reconcile().problems
        t = tables.tombstone
        with self.engine.begin() as connection:
            connection.execute(update(t).values(written_at=t.c.written_at - 2 * GRACE // _MILLISECOND, retry_at=0))
        assert not collector.sweep().problems
        with self.engine.connect() as connection:
            held = {ref.location for ref in connection.scalars(select(tables.upload.c.file))}
            rows = {ref for ref in connection.scalars(select(Document.file)) if ref is not None}
            assert not connection.execute(select(t)).all()
        for ref in rows:
            self.manager.verify(ref)
        found = everything(self.backend)
        if isinstance(self.backend, Primitive):
            # A go that is killed after it wrote, later than everybody else, leaves a piece there that nobody can list.
            late = tuple(f".granite-pieces/{location}." for location in self.killed)
            found = {each for each in found if not each.startswith(late)}
        assert found == held | {ref.location for ref in rows}


GRACE: Final = timedelta(hours=2)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Primitive(MemoryStorageBackend):
    """Has the five primitives and no more: nobody can list its reserved keys."""

    capabilities = frozenset({Capability.ATOMIC_CREATE})


def everything(backend: StorageBackend) -> set[str]:
    """Whatever is in a store, whoever it belongs to, but for its mark."""
    if isinstance(backend, MemoryStorageBackend):
        found = {each.decode() for each in backend._keys} | {*backend._unfinished}
    else:
        root = Path(backend._root)  # type: ignore[attr-defined]  # the local one
        found = {str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()}
    return found - {MARKER_KEY}


@pytest.fixture(params=["memory", "local", "pieces", "primitive"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    made: dict[str, StorageBackend] = {
        "memory": MemoryStorageBackend(),
        "local": LocalStorageBackend(tmp_path / "root", durable=False),
        "pieces": Piecewise(),
        "primitive": Primitive(),
    }
    return made[request.param]


def test_whatever_happens_to_an_upload_it_becomes_what_was_sent(backend: StorageBackend, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
    Base.metadata.create_all(engine)
    machine = type("Machine", (Goes,), {"backend": backend, "engine": engine, "killed": set()})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=500 if os.environ.get("GRANITE_DEEP") == "1" else 20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    engine.dispose()
