"""The protocol as the model plays it: the code's own decisions, and the safeguards that can be taken away."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from granite_core.admission import (
    RecordedGrace,
    guarded_from,
    plan_admission,
    plan_check,
    plan_looked_up,
    plan_reliance,
)
from granite_core.backends.base import ObjectStat
from granite_core.gc.plan import RunState, Tombstone, Verdict, plan_page, plan_release, plan_sweep

__all__ = ["Protocol", "admit", "admit_looked_up", "check", "compare", "guarded_age", "reliance", "sweep_verdict"]

_EVER: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Which safeguards there are. As it is made, all of them: the protocol as it is.

    Args:
        tombstone_with_change: A tombstone is written in its row's transaction; under AUTOCOMMIT after its statement.
        waits: A tombstone is due when the grace has passed; else at once.
        heeds_younger: A tombstone that is not due yet keeps the object.
        looks: The sweep looks whether a row holds the object.
        one_snapshot: It reads rows and tombstones as of one moment.
        admits_by_rule: A flush lets in what is fresh or held; else anything.
        admits_by_age: A flush heeds how long ago that was.
        checks: Before COMMIT everything a transaction rests on is checked for its age.
        checks_last: That is done after the last flush, not before it.
        renews: Old tombstones of a transaction are written anew there.
        quarter: Old means a quarter of the grace; else half of it.
        quick_commit: Assumed: a COMMIT takes a quarter of the grace at most.
        quick_outer: Assumed: so does a transaction that the session has joined, from the session's commit to its end.
        quick_statement: Assumed: so does a flush under AUTOCOMMIT, from its look-up to its statement.
        steady_copy: Assumed: who copies a ref within the database keeps its row as it is until COMMIT (``FOR SHARE``).
        primary: Assumed: the collector does not read from a replica.
        only_sweep_deletes: What a flush has seen stays when its transaction fails; else it is deleted at once.
        ages_from_begin: What is looked up is as old as the database's transaction; else as the session's.
        guards: Where an old tombstone waits, the row that was looked up is kept from changing.
        forgets: An undone savepoint takes what was looked up with it.
        distrusts: What a row held and let go under AUTOCOMMIT is not taken for good.
        records_grace: A process records its grace, in its first transaction, and sweeps go by the longest one; else
            by their own.
        new_grace_waits: A longer grace than all before is relied on when it has been known for as long as it is.
        grace_in_snapshot: The sweep reads that in the snapshot in which it looks; else earlier.
        counts_uploads: Upload sessions are rows that hold files, for every look-up.
        gone_refuses: Who attaches an upload must find its session there; else its token is believed.
        expires_by_statement: Whether an upload has expired is decided by the statement that removes its session.
        expiry_buries: That transaction writes a tombstone.
        one_clock: What is due in any of several databases was so before the sweep looked into the first.
        looks_back: After several databases the sweep reads the tombstones once more: they must still be there.
        guards_everywhere: The tombstone that guards is written in every database, not only where the old one waits.
    """

    tombstone_with_change: bool = True
    waits: bool = True
    heeds_younger: bool = True
    looks: bool = True
    one_snapshot: bool = True
    admits_by_rule: bool = True
    admits_by_age: bool = True
    checks: bool = True
    checks_last: bool = True
    renews: bool = True
    quarter: bool = True
    quick_commit: bool = True
    quick_outer: bool = True
    quick_statement: bool = True
    steady_copy: bool = True
    primary: bool = True
    only_sweep_deletes: bool = True
    ages_from_begin: bool = True
    guards: bool = True
    forgets: bool = True
    distrusts: bool = True
    records_grace: bool = True
    new_grace_waits: bool = True
    grace_in_snapshot: bool = True
    counts_uploads: bool = True
    gone_refuses: bool = True
    expires_by_statement: bool = True
    expiry_buries: bool = True
    one_clock: bool = True
    looks_back: bool = True
    guards_everywhere: bool = True

    def within(self, quarter: int) -> int:
        """How old anything may be that a transaction rests on, in ticks."""
        return quarter if self.quarter else 2 * quarter

    def relied_on(self, own: int, recorded: tuple[tuple[int, int], ...]) -> tuple[int, bool]:
        """A quarter of the grace that a process may rely on, and whether it records its own."""
        if not self.records_grace:
            return own, False
        quarter, records = reliance(own, recorded)
        return quarter if self.new_grace_waits else own, records


def _ticks(age: int) -> timedelta | None:
    """An age of the model as the code takes it. A tick is long beside the skew of clocks."""
    return None if age < 0 else timedelta(minutes=age)


@cache
def admit(known: int, staged: int, within: int, *, may_be_held: bool) -> int | None:
    """Since when a ref is good that is to get into a row; -1 when it must be looked up, None when it is refused."""
    plan = plan_admission(_ticks(known), _ticks(staged), timedelta(minutes=within), may_be_held=may_be_held)
    if plan.must_look_up:
        return -1
    return None if plan.since is None else plan.since // timedelta(minutes=1)


@cache
def admit_looked_up(began: int, staged: int, within: int, *, held: bool) -> int | None:
    """Since when a ref is good that was looked up; None when it is refused."""
    plan = plan_looked_up(timedelta(minutes=began), timedelta(minutes=within), held=held, staged=_ticks(staged))
    return None if plan.since is None else plan.since // timedelta(minutes=1)


@cache
def guarded_age(within: int) -> int:
    """From which age a tombstone that waits makes the flush guard the row that it looked up."""
    return guarded_from(timedelta(minutes=within)) // timedelta(minutes=1)


@cache
def check(oldest: int, tombstones: tuple[int, ...], within: int) -> tuple[bool, tuple[int, ...]]:
    """Whether a transaction may be committed, and the positions of the tombstones that it renews."""
    limit = timedelta(minutes=within)
    rests_on = [(timedelta(minutes=oldest), limit)] if oldest >= 0 else []
    plan = plan_check(rests_on, [(timedelta(minutes=age), limit) for age in tombstones])
    return plan.too_old is None, plan.renew


@cache
def reliance(own: int, recorded: tuple[tuple[int, int], ...]) -> tuple[int, bool]:
    """A quarter of the grace that a process may rely on, and whether it records its own.

    Args:
        own: A quarter of its own grace.
        recorded: A quarter of each that it sees recorded, and the age of that record.
    """
    seen = [RecordedGrace(timedelta(minutes=4 * quarter), timedelta(minutes=age)) for quarter, age in recorded]
    plan = plan_reliance(timedelta(minutes=4 * own), seen)
    return plan.within // timedelta(minutes=1), plan.record


@cache
def sweep_verdict(due: tuple[bool, ...], held: bool) -> Verdict | None:
    """What becomes of one object; None when none of its tombstones is due."""
    tombstones = [Tombstone(0, number, "object", "main", each) for number, each in enumerate(due)]
    objects = plan_sweep(tombstones, {"object"} if held else set(), {"main"}).objects
    return objects[0].verdict if objects else None


@cache
def compare(listed: int, accounted: int, objects: int = 8) -> int:
    """Which objects a reconcile notes, as bits: those that were listed and that nothing accounts for."""
    names = [str(position) for position in range(objects)]
    page = [name for position, name in enumerate(names) if listed >> position & 1]
    known = {name for position, name in enumerate(names) if accounted >> position & 1}
    loose = [ObjectStat(name, 1, _EVER) for name in page if name not in known]
    plan = plan_page(RunState("run"), page, loose, "main")
    released = plan_release(plan.state, "main", max_share=0.5, always_allowed=objects).release
    return sum(1 << int(note.location) for note in plan.notes) if released else 0
