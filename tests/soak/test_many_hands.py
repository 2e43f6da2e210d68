"""Eight processes on one PostgreSQL: one collects at a time, who dies is followed, nobody is in another one's way."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from granite_core import StaleRefError, StoredObjectRef, unsaved
from tests.support.many import Child, preload, side_by_side, until
from tests.support.postgres import Database
from tests.support.turns import Turns

from .audit import Audit
from .collecting import collect
from .crowd import bury, keep, sweep_without_a_lease, transfer
from .journal import read_journals
from .models import Base, Document
from .plans import Content
from .site import Site

preload("tests.soak.collecting", "tests.soak.crowd")

pytestmark = pytest.mark.timeout(500)  # a busy machine is no failure

HANDS = 8
SWEEP = "lease:sweep"


@pytest.fixture
def place(postgres_database: Database, tmp_path: Path) -> Callable[..., Site]:
    def make(**options: Any) -> Site:
        urls = postgres_database.sync_url, postgres_database.async_url
        site = Site(tmp_path, *urls, bucket=None, seed=1, **{"grace": 60, **options})
        engine = site.engine()
        Base.metadata.create_all(engine)
        engine.dispose()
        return site

    return make


@pytest.fixture
def team() -> Iterator[Callable[[Site], list[Child]]]:
    """Eight collectors, each of which begins another sweep as soon as it can."""
    hired: list[Child] = []

    def hire(site: Site) -> list[Child]:
        hired.extend(Child(f"collector-{number}", collect, site) for number in range(HANDS))
        for each in hired:
            each.start()
        return hired

    yield hire
    for each in hired:
        each.signal(signal.SIGCONT)
        each.kill()


def errors(site: Site) -> list[Any]:
    return [line for line in read_journals(site.folder) if line["what"] == "ended" or line.get("failed")]


def test_one_collects_at_a_time_and_a_killed_one_is_followed_when_its_lease_has_ended(
    place: Callable[..., Site], team: Callable[[Site], list[Child]], record_property: Callable[[str, object], None]
) -> None:
    site = place(lease=3, delete_takes=0.01)
    kept = keep(site, 10)
    garbage = bury(site, 300)
    engine = site.engine()
    turns, audit = Turns(engine), Audit(site)
    collectors = team(site)
    followed: list[float] = []
    while len(followed) < 2:
        left = len(audit.store.listing())
        until(lambda left=left: turns.holders().get(SWEEP) and len(audit.store.listing()) < left - 5)
        holder = turns.holders().get(SWEEP) or until(lambda: turns.holders().get(SWEEP))
        next(each for each in collectors if each.pid == holder).kill()
        dead = turns.last_of(SWEEP, holder)
        collectors = [each for each in collectors if each.is_alive]
        assert len(collectors) > 1, "hardly anybody was killed while it collected"
        if turns.holders().get(SWEEP) != holder:  # it had given the lease back the moment before
            garbage |= bury(site, 100)
            continue
        heir = until(lambda dead=dead: turns.heir_of(dead))
        followed.append(heir.at - dead.expires_at)
        assert heir.at >= dead.expires_at
    until(lambda: not audit.store.listing() & garbage)
    after = " and ".join(f"{each:.2f}" for each in followed)
    record_property("figures", f"Many hands, collectors: two killed, followed {after} s after their leases' end")
    assert turns.out_of_turn() == []
    assert len({turn.who for turn in turns.all() if turn.lease == SWEEP}) > 1
    assert until(lambda: not turns.in_transaction())
    assert errors(site) == []
    assert audit.look(whole=True) == audit.store.listing() == set(kept)
    assert not audit.lost
    engine.dispose()


def test_one_that_slept_longer_than_its_lease_does_no_harm_when_it_wakes(
    place: Callable[..., Site], team: Callable[[Site], list[Child]]
) -> None:
    site = place(lease=2.5, delete_takes=0.02)
    kept = keep(site, 10)
    garbage = bury(site, 80)
    engine = site.engine()
    turns, audit = Turns(engine), Audit(site)
    collectors = team(site)
    holder = until(lambda: len(audit.store.listing() & garbage) < 75 and turns.holders().get(SWEEP))
    sleeper = next(each for each in collectors if each.pid == holder)
    sleeper.signal(signal.SIGSTOP)
    until(lambda: not audit.store.listing() & garbage)
    # What it holds in its hands, and is going to delete, nobody can get any more.
    manager = site.manager()
    for location in sorted(garbage)[:5]:
        ref = StoredObjectRef("documents", "main", location, 7, "sha256:0", None, None, None)
        with Session(engine) as session, pytest.raises(StaleRefError):
            session.add(Document(file=ref, sha256="0"))
            session.commit()
    with Session(engine) as session:
        new = manager.put_bytes("documents", content=b"new")
        session.add(Document(file=new, sha256=Content.digest(b"new")))
        session.commit()
    woken = turns.now()
    sleeper.signal(signal.SIGCONT)
    until(lambda: any(turn.who == str(holder) and turn.lease == SWEEP and turn.at > woken for turn in turns.all()))
    more = bury(site, 10)
    until(lambda: not audit.store.listing() & more)
    assert errors(site) == []
    assert audit.look(whole=True) == audit.store.listing() == {*kept, new.location}
    assert not audit.lost
    assert until(lambda: not turns.in_transaction())
    engine.dispose()


def test_any_number_may_sweep_side_by_side_without_a_lease(place: Callable[..., Site]) -> None:
    site = place(delete_takes=0.001)
    kept = keep(site, 10)
    garbage = bury(site, 400)
    reports = side_by_side(sweep_without_a_lease, [(site, HANDS)] * HANDS)
    audit = Audit(site)
    assert audit.look(whole=True) == audit.store.listing() == set(kept)
    assert [(report.failed, report.problems) for report in reports] == [(0, ())] * HANDS
    assert sum(report.deleted for report in reports) >= len(garbage)
    assert sum(report.deleted > 0 for report in reports) > 1
    assert audit.tombstones() == 0


def test_transfers_in_one_order_and_collectors_beside_them_never_lock_each_other_for_good(
    place: Callable[..., Site], team: Callable[[Site], list[Child]], record_property: Callable[[str, object], None]
) -> None:
    site = place()
    keep(site, 12)
    engine = site.engine()
    turns, audit = Turns(engine), Audit(site)
    team(site)
    ended = sum(map(Counter, side_by_side(transfer, [(site, number, 5) for number in range(HANDS)])), Counter())
    said = ", ".join(f"{number} {end}" for end, number in sorted(ended.items()))
    record_property("figures", f"Many hands, transfers: {said}, 0 deadlocks")
    assert ended["committed"] >= HANDS
    assert set(ended) <= {"committed", "refused", "conflict"}
    assert errors(site) == []
    audit.look(whole=True)
    assert not audit.lost
    assert turns.out_of_turn() == []
    assert until(lambda: not turns.in_transaction())
    engine.dispose()


def test_two_that_change_the_same_rows_in_opposite_order_end_as_postgresql_has_it(place: Callable[..., Site]) -> None:
    site = place()
    keep(site, 2)
    engine = site.engine()
    site.manager()
    first, second = threading.Barrier(2, timeout=60), []

    def change(order: list[int]) -> None:
        with Session(engine) as session:
            documents = {each.id: each for each in session.scalars(select(Document))}
            try:
                for number, each in enumerate(order):
                    content = f"{order}{number}".encode()
                    documents[each].file, documents[each].sha256 = unsaved(content), Content.digest(content)
                    session.flush()
                    if number == 0:
                        first.wait()
                session.commit()
                second.append("committed")
            except OperationalError as error:
                session.rollback()
                second.append(type(error.orig).__name__)

    with engine.connect() as connection:
        ids = [*connection.scalars(select(Document.id).order_by(Document.id))]
    threads = [threading.Thread(target=change, args=(order,)) for order in (ids, ids[::-1])]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert sorted(second) == ["DeadlockDetected", "committed"]
    audit = Audit(site)
    assert len(audit.look(whole=True)) == 2
    assert not audit.lost
    engine.dispose()
