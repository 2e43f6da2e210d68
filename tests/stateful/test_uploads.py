"""Random programs of goes at one upload, beside an oracle that is a row of bytes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

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
from sqlalchemy import create_engine, update

from granite_core import (
    LocalStorageBackend,
    MemoryStorageBackend,
    StorageBackend,
    StorageError,
    StorageManager,
    StoragePolicy,
)
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger, db_now, tables_of
from granite_core.testing import FaultyBackend
from granite_core.uploads import Reception, Uploads, UploadStatus
from tests.conformance.test_pieces import Piecewise
from tests.integration.sqlalchemy.world import Base

PIECES = st.integers(0, 9000)


class Goes(RuleBasedStateMachine):
    """Sends pieces of one content, dies, comes back, fails, hands over to another process, and finishes."""

    backend: StorageBackend
    engine: Any

    @initialize(size=st.integers(0, 30_000), seed=st.integers(0, 1000), known=st.booleans())
    def begin(self, size: int, seed: int, known: bool) -> None:
        self.content = b"%PDF-1.7\n" + random.Random(seed).randbytes(size)
        self.faulty = FaultyBackend(self.backend)
        self.manager = StorageManager({"main": self.faulty}, [StoragePolicy("files")])
        self.uploads = self.process()
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
            sleepers.append(self.reception)
        self.lose()

    @precondition(lambda self: self.reception is not None)
    @rule(operation=st.sampled_from(["write", "checkpoint", "commit", "resume_writer"]), late=st.booleans())
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
        if self.reception is not None and self.reception not in sleepers:
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
        for sleeper in sleepers:
            sleeper._arrival.close()
        sleepers.clear()


sleepers: list[Reception] = []


@pytest.fixture(params=["memory", "local", "pieces"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    made: dict[str, StorageBackend] = {
        "memory": MemoryStorageBackend(),
        "local": LocalStorageBackend(tmp_path / "root", durable=False),
        "pieces": Piecewise(),
    }
    return made[request.param]


def test_whatever_happens_to_an_upload_it_becomes_what_was_sent(backend: StorageBackend, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
    Base.metadata.create_all(engine)
    machine = type("Machine", (Goes,), {"backend": backend, "engine": engine})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    engine.dispose()
