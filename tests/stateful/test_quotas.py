"""Random programs of uploads beside an oracle: what a scope has is what its live objects have, and never too much."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import create_engine, update

from granite_core import BackendError, MemoryStorageBackend, Quota, QuotaExceededError, StagedFile, StorageManager
from granite_core import StoragePolicy as Policy
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, SQLAlchemyQuotaLedger, tables_of
from granite_core.staging import StagedWrite
from granite_core.testing import FaultyBackend
from tests.integration.sqlalchemy.collecting import GRACE_MS, MINUTE
from tests.integration.sqlalchemy.world import GRACE, Base, Document

OWNERS = st.sampled_from(["ann", "ben"])
SIZES = st.integers(0, 70)
LIMIT = 100
TABLES = tables_of(Base.metadata)
DEEP = os.environ.get("GRANITE_DEEP") == "1"


class Drive(RuleBasedStateMachine):
    """Stores, shares, fails, dies, deletes, rolls back, waits and collects."""

    engine: Any

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStorageBackend()
        self.faulty = FaultyBackend(self.store)
        quota = Quota(scope=lambda announced: announced.context["owner"], limit=LIMIT)
        policies = [Policy("documents", quotas=[quota]), Policy("pages", quotas=[quota])]
        self.manager = StorageManager({"main": self.faulty}, policies, grace=GRACE)
        self.manager.register(Base)
        self.manager.count_in(SQLAlchemyQuotaLedger(self.engine, Base.metadata))
        self.collector = Collector(self.manager, SQLAlchemyLedger([self.engine], Base.metadata))
        self.expected: dict[str, tuple[str, int]] = {}
        """By location, whose it is and how large."""
        self.rows: list[tuple[Any, StagedFile]] = []
        self.staged: list[StagedFile] = []
        self.open: list[tuple[StagedWrite, str]] = []

    def used(self, owner: str) -> int:
        return sum(size for whose, size in self.expected.values() if whose == owner)

    @rule(owner=OWNERS, size=SIZES, announced=st.booleans(), attach=st.booleans(), fails=st.booleans())
    def put(self, owner: str, size: int, announced: bool, attach: bool, fails: bool) -> None:
        content: Any = b"x" * size if announced else iter([b"x" * size])
        if fails:
            self.faulty.fail("commit", BackendError("broken"))
        try:
            stored = self.manager.put("documents", content, context={"owner": owner})
        except QuotaExceededError:
            assert self.used(owner) + size > LIMIT
            return
        except BackendError:
            return
        finally:
            self.faulty.heal()
        assert self.used(owner) + size <= LIMIT
        self.expected[stored.location] = owner, size
        self.staged.append(stored)
        if attach:
            self.attach(stored)

    def attach(self, stored: StagedFile) -> None:
        from sqlalchemy.orm import Session

        with Session(self.engine) as session:
            document = Document(file=stored)
            session.add(document)
            session.commit()
            self.rows.append((document.id, stored))
        if stored in self.staged:
            self.staged.remove(stored)

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        if self.rows:
            self.attach(data.draw(st.sampled_from(self.rows))[1])

    @rule(data=st.data())
    def delete_row(self, data: st.DataObject) -> None:
        from sqlalchemy.orm import Session

        if self.rows:
            index = data.draw(st.integers(0, len(self.rows) - 1))
            with Session(self.engine) as session:
                session.delete(session.get_one(Document, self.rows.pop(index)[0]))
                session.commit()

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        if self.staged:
            gone = self.staged.pop(data.draw(st.integers(0, len(self.staged) - 1)))
            gone.discard()
            del self.expected[gone.location]

    @rule(owner=OWNERS, size=SIZES)
    def begin_and_die(self, owner: str, size: int) -> None:
        """A process that dies: what it reserved stays until the reconcile."""
        write = self.manager.stage("documents", expected_size=size, context={"owner": owner})
        try:
            write.begin()
        except QuotaExceededError:
            assert self.used(owner) + size > LIMIT
            return
        self.expected[write._location] = owner, size

    @rule()
    def wait_and_collect(self) -> None:
        assert TABLES is not None
        for _ in range(2):  # the second sweep deletes what the first reconcile has noted
            with self.engine.begin() as connection:
                for column in (TABLES.tombstone.c.written_at, TABLES.usage.c.touched_at):
                    connection.execute(update(column.table).values({column.name: column - GRACE_MS - MINUTE}))
            self.collector.sweep()
            self.collector.reconcile(max_share=1)
        live = {stored.location for _, stored in self.rows}
        self.expected = {location: each for location, each in self.expected.items() if location in live}
        self.staged.clear()
        assert set(self.store.iter_locations()) == live

    @invariant()
    def sums_are_those_of_live_objects(self) -> None:
        for owner in ("ann", "ben"):
            found = self.manager.quotas.usage(owner)
            files = [size for whose, size in self.expected.values() if whose == owner]
            assert (found.bytes, found.files) == (sum(files), len(files))
            assert found.bytes <= LIMIT


@pytest.mark.timeout(300)
def test_what_scopes_have_is_what_is_there(tmp_path: Path) -> None:
    number = 0

    class Here(Drive):
        def __init__(self) -> None:
            nonlocal number
            number += 1
            self.engine = create_engine(f"sqlite:///{tmp_path}/{number}.sqlite3")
            Base.metadata.create_all(self.engine)
            super().__init__()

        def teardown(self) -> None:
            self.engine.dispose()

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=100 if DEEP else 5,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
