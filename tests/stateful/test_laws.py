"""The laws under random programs: sessions, savepoints, statements, time and the collector, in any order.

Law 1 after every step, law 2 at the end, law 3 throughout: what a committed row holds is there and whole; what no row
holds is gone after a reconcile, the grace and a sweep.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import create_engine, delete, event, select, update
from sqlalchemy.exc import OperationalError

from granite_core import StaleRefError, unsaved
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, tables_of
from tests.integration.sqlalchemy.world import QUARTER, Base, Document, World, fix_pysqlite

pytestmark = pytest.mark.stateful

CHOICE = st.integers(0, 10**6)

tried: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def told(record_property: Callable[[str, object], None]) -> Iterator[None]:
    tried.clear()
    yield
    for unit, number in tried.items():
        record_property("counted", f"The laws under random programs|{number}|{unit}")


class Laws(RuleBasedStateMachine):
    """One session that lives through everything, and others that come between its transactions."""

    @initialize()
    def begin(self) -> None:
        tried["programs"] += 1
        self.folder = Path(tempfile.mkdtemp(prefix="granite-laws-"))
        self.engine = create_engine(f"sqlite:///{self.folder}/db.sqlite3", connect_args={"timeout": 0.2})
        fix_pysqlite(self.engine)
        with self.engine.connect() as connection:  # readers and a writer side by side
            connection.connection.cursor().execute("PRAGMA journal_mode=WAL")
        self.world = World(self.engine)
        Base.metadata.create_all(self.engine)
        self.collector = Collector(
            self.world.manager, SQLAlchemyLedger([self.engine], Base.metadata), GCConfig(always_allowed=10**6)
        )
        self.wrote = False  # whether the session holds SQLite's one write lock
        event.listen(self.engine, "before_cursor_execute", self.watch)
        self.session = self.world.session(expire_on_commit=False)
        self.savepoints: list[Any] = []
        self.memory: list[Any] = []  # refs that code keeps in variables, however stale
        self.titles = 0

    def watch(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.wrote = self.wrote or statement.startswith(("INSERT", "UPDATE", "DELETE", "SAVEPOINT"))

    # -- what code does in a session -----------------------------------------------------------------------------------

    @rule(content=st.binary(max_size=20), late=st.booleans())
    def add(self, content: bytes, late: bool) -> None:
        self.titles += 1
        file = unsaved(content) if late else self.world.stage(content)
        self.attempt(lambda: self.session.add(Document(title=str(self.titles), file=file)))

    @rule(which=CHOICE, content=st.binary(max_size=20))
    def replace(self, which: int, content: bytes) -> None:
        self.with_document(which, lambda document: setattr(document, "file", unsaved(content)))

    @rule(which=CHOICE)
    def clear(self, which: int) -> None:
        self.with_document(which, lambda document: setattr(document, "file", None))

    @rule(which=CHOICE)
    def delete(self, which: int) -> None:
        self.with_document(which, self.session.delete)

    @rule(which=CHOICE, content=st.binary(max_size=20))
    def append(self, which: int, content: bytes) -> None:
        self.with_document(which, lambda document: document.pages.append(self.world.stage(content)))

    @rule(which=CHOICE)
    def pop(self, which: int) -> None:
        self.with_document(which, lambda document: document.pages and document.pages.pop(0))

    @rule(which=CHOICE, ref=CHOICE, move=st.booleans())
    def attach_what_was_remembered(self, which: int, ref: int, move: bool) -> None:
        if self.memory:
            chosen = self.memory[ref % len(self.memory)]
            self.with_document(which, lambda document: setattr(document, "cover" if move else "file", chosen))
            self.commit()

    @rule()
    def flush(self) -> None:
        self.attempt(self.session.flush)

    @precondition(lambda self: len(self.savepoints) < 3)
    @rule()
    def begin_savepoint(self) -> None:
        self.attempt(lambda: self.savepoints.append(self.session.begin_nested()))

    @precondition(lambda self: self.savepoints)
    @rule(keep=st.booleans())
    def end_savepoint(self, keep: bool) -> None:
        savepoint = self.savepoints.pop()
        self.attempt(savepoint.commit if keep else savepoint.rollback)

    @rule()
    def commit(self) -> None:
        self.savepoints.clear()
        self.attempt(self.session.commit)
        self.wrote = False

    @rule(close=st.booleans())
    def undo(self, close: bool) -> None:
        self.savepoints.clear()
        (self.session.close if close else self.session.rollback)()
        self.wrote = False

    # -- what others do meanwhile --------------------------------------------------------------------------------------

    @precondition(lambda self: not self.wrote)
    @rule(which=CHOICE, how=st.sampled_from(["replace", "delete", "core-delete", "core-clear", "share"]))
    def someone_else(self, which: int, how: str) -> None:
        with self.world.session() as other:
            documents = other.scalars(select(Document).order_by(Document.title)).all()
            if not documents:
                return
            document = documents[which % len(documents)]
            if how == "replace":
                document.file = self.world.stage(b"other")
            elif how == "delete":
                other.delete(document)
            elif how == "core-delete":
                other.execute(delete(Document).where(Document.id == document.id))
            elif how == "core-clear":
                other.execute(update(Document).where(Document.id == document.id).values(file=None))
            elif document.file is not None:
                self.titles += 1
                other.add(Document(title=str(self.titles), file=document.file))
            other.commit()
        self.wrote = False

    @precondition(lambda self: not self.wrote)
    @rule(quarters=st.sampled_from([0.3, 0.7, 1, 5]))
    def time_passes(self, quarters: float) -> None:
        """For the manager's clock and for tombstones; a transaction that is open that long is refused at its end."""
        delay = QUARTER * quarters
        self.world.later(delay)
        if (state := self.session.info.get("granite_transaction")) is not None:
            state.began -= delay.total_seconds()
        tables = tables_of(Base.metadata)
        assert tables is not None
        with self.engine.begin() as connection:
            written_at = tables.tombstone.c.written_at - int(delay.total_seconds() * 1000)
            connection.execute(update(tables.tombstone).values(written_at=written_at, retry_at=0))
        self.wrote = False

    @precondition(lambda self: not self.wrote)
    @rule()
    def sweep(self) -> None:
        self.collector.sweep()
        self.wrote = False

    @precondition(lambda self: not self.wrote)
    @rule(reconcile=st.booleans())
    def collect(self, reconcile: bool) -> None:
        if reconcile:
            self.collector.reconcile()
        self.time_passes(5)
        self.collector.sweep()
        self.wrote = False

    @precondition(lambda self: not self.wrote)
    @rule()
    def reconcile(self) -> None:
        self.collector.reconcile()
        self.wrote = False

    # -- the laws ------------------------------------------------------------------------------------------------------

    @invariant()
    def every_committed_ref_points_at_what_was_stored(self) -> None:
        tried["steps"] += 1
        for ref in self.world.rows():
            self.world.manager.verify(ref)
            if ref not in self.memory:
                self.memory.append(ref)

    def teardown(self) -> None:
        self.session.close()
        self.collector.reconcile()
        self.savepoints.clear()
        for _ in range(2):  # notes of the reconcile, and what was claimed before
            self.time_passes(5)
            self.collector.sweep()
        assert self.world.stored() - {".granite/store"} == self.world.held()
        assert self.world.tombstones() == []
        self.engine.dispose()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- small things --------------------------------------------------------------------------------------------------

    def attempt(self, step: Any) -> None:
        """A step may be refused, for a ref that is too old; then the program starts over, as an application would."""
        try:
            step()
        except (StaleRefError, OperationalError):  # the latter where someone else wrote meanwhile
            self.undo(close=False)

    def with_document(self, which: int, step: Any) -> None:
        def run() -> None:
            documents = self.session.scalars(select(Document).order_by(Document.title)).all()
            if documents:
                step(documents[which % len(documents)])

        self.attempt(run)


TestLaws = Laws.TestCase
TestLaws.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
