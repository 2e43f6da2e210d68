"""Eight workers of one application: they share the port, the database and the collector's work."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import create_engine, insert

from granite_core import LocalStorageBackend
from granite_core.integrations.sqlalchemy import db_now, tables_of
from tests.support.app_worker import GRACE, Base, serve
from tests.support.many import Child, preload, until
from tests.support.postgres import Database
from tests.support.processes import free_port
from tests.support.turns import LEASES, Turns

preload("tests.support.app_worker")

pytestmark = pytest.mark.timeout(500)  # a busy machine is no failure

WORKERS = 8
SWEEP = LEASES[0]


@pytest.fixture
def workers(postgres_database: Database, tmp_path: Path) -> Iterator[tuple[str, list[Child]]]:
    port = free_port()
    place = tmp_path, postgres_database.async_url, port
    team = [Child(f"worker-{number}", serve, *place) for number in range(WORKERS)]
    yield f"http://127.0.0.1:{port}", team
    for each in team:
        each.kill()


def bury(engine: Any, store: LocalStorageBackend, count: int) -> set[str]:
    """Objects that nobody holds, with tombstones that are due."""
    tables = tables_of(Base.metadata)
    assert tables is not None
    locations = {f"_/{uuid4().hex}" for _ in range(count)}
    for each in locations:
        store.put_bytes(each, b"garbage")
    rows = [{"location": each, "backend": "main", "storage_key": "notes"} for each in locations]
    with engine.begin() as connection:
        old = db_now() - int(GRACE.total_seconds() * 1000) - 1000
        connection.execute(insert(tables.tombstone).values(written_at=old), rows)
    return locations


def test_one_of_eight_workers_collects_and_another_one_when_it_dies(
    postgres_database: Database,
    workers: tuple[str, list[Child]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    url, team = workers
    engine = create_engine(postgres_database.sync_url)
    Base.metadata.create_all(engine)
    turns = Turns(engine)
    store = LocalStorageBackend(tmp_path / "files")
    garbage = bury(engine, store, 150)
    for each in team:
        each.start()
    notes = {uuid4(): b"" for _ in range(16)}

    def put(note: UUID, content: bytes) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.put(f"{url}/notes/{note}", content=content, timeout=60).raise_for_status()
            except httpx.TransportError:  # its worker was killed, or is not there yet
                time.sleep(0.1)
            else:
                notes[note] = content
                return
        pytest.fail("nobody answered")

    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(put, note, b"first " + note.bytes) for note in notes]
        holder = until(lambda: len(garbage & {*store.iter_locations()}) < 140 and turns.holders().get(SWEEP))
        victim = next(each for each in team if each.pid == holder)
        victim.kill()
        held = turns.holders().get(SWEEP) == holder
        for each in first:
            each.result()
        list(pool.map(put, notes, [b"second " + note.bytes for note in notes]))
    until(lambda: len({*store.iter_locations()}) == len(notes))
    for note, content in notes.items():
        assert httpx.get(f"{url}/notes/{note}").content == content
    if held:
        dead = turns.last_of(SWEEP, holder)
        heir = turns.heir_of(dead)
        assert heir is not None
        assert heir.at >= dead.expires_at
        after = f"{heir.at - dead.expires_at:.2f} s after its lease's end"
        record_property("figures", f"Many hands, workers of an application: one killed, followed {after}")
    assert turns.out_of_turn() == []
    assert len({turn.who for turn in turns.all() if turn.lease == SWEEP}) > 1
    until(lambda: not turns.in_transaction())
    for each in team:
        each.signal(signal.SIGTERM)
    until(lambda: not any(each.is_alive for each in team))
    said = "".join(path.read_text() for path in tmp_path.glob("*.stderr"))
    assert not re.search(r"Traceback|WARNING|ERROR|[1-9]\d* failed", said), said
    engine.dispose()
