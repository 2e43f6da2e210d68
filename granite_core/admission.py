"""What a flush lets into rows, and what a transaction may still commit: pure decisions, without a clock.

Arguments are ages: how long ago something was staged, looked up or written. ``within`` is a quarter of the grace.
A ref gets into a row when it is known to be good since less than that, and is committed while it is; together with a
COMMIT that takes less than another quarter, the sweep can rely on seeing every row that may name an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, TypeAlias

import msgspec

__all__ = [
    "CLOCK_SKEW",
    "Admission",
    "Aged",
    "Check",
    "RecordedGrace",
    "Reliance",
    "guarded_from",
    "is_fresh",
    "plan_admission",
    "plan_check",
    "plan_looked_up",
    "plan_reliance",
]

CLOCK_SKEW: Final = timedelta(seconds=5)
"""By how much the clock of a host that staged may be ahead of ours."""

Aged: TypeAlias = tuple[timedelta, timedelta]
"""An age, and what it must stay below."""


class Admission(msgspec.Struct, frozen=True):
    """What becomes of a ref that is to get into a row.

    Args:
        since: How long ago it was known to be good; None when it has to be looked up, or is refused.
        refusal: Why it may not get in; None when it may, or has to be looked up.
    """

    since: timedelta | None = None
    refusal: str | None = None

    @property
    def must_look_up(self) -> bool:
        """Whether it gets in only if a committed row holds it."""
        return self.since is None and self.refusal is None


class Check(msgspec.Struct, frozen=True):
    """Whether a transaction may be committed.

    Args:
        too_old: Something it rests on that is too old; None when all is well.
        renew: Positions of the tombstones that are to be written anew.
    """

    too_old: Aged | None
    renew: tuple[int, ...]


class RecordedGrace(msgspec.Struct, frozen=True):
    """A grace that a process works with, and has written down in the database.

    Args:
        grace: The grace.
        age: How long ago it was written down.
    """

    grace: timedelta
    age: timedelta


class Reliance(msgspec.Struct, frozen=True):
    """What a process may rely on while others may work with another grace.

    Args:
        within: How old anything may be that a transaction rests on.
        record: Whether it writes its own grace down.
        settled: Whether that stays so, and need not be asked again.
    """

    within: timedelta
    record: bool
    settled: bool


def is_fresh(staged: timedelta | None, within: timedelta) -> bool:
    """Whether a ref was staged lately, by its own word; None is an age that nobody knows."""
    return staged is not None and -CLOCK_SKEW <= staged < within


def plan_admission(
    known: timedelta | None, staged: timedelta | None, within: timedelta, *, may_be_held: bool = False
) -> Admission:
    """Decide whether a ref may get into a row without a look at other rows.

    Args:
        known: How long ago this transaction learned that the ref is good; None when it knows nothing of it.
        staged: How long ago it was staged, by its own word; None when it does not say.
        within: A quarter of the grace.
        may_be_held: Whether it is likely that a row holds it. Then it is looked up from half that age on: one that
            was staged nearly a quarter of the grace ago would be too old in a moment, and with it its transaction.
    """
    if known is None:
        if not is_fresh(staged, within / 2 if may_be_held else within):
            return Admission()
        known = staged
    if known is None or known >= within:
        return Admission(refusal="it is known to be good since too long ago")
    return Admission(known)


def plan_looked_up(began: timedelta, within: timedelta, *, held: bool, staged: timedelta | None = None) -> Admission:
    """Decide whether a ref that was looked up may get into a row.

    Args:
        began: How long ago the database's transaction began: what it shows may be that old.
        within: A quarter of the grace.
        held: Whether a committed row holds it.
        staged: How long ago it was staged, by its own word; None when it does not say.
    """
    ages = [staged] if staged is not None and is_fresh(staged, within) else []
    if held and began < within:
        ages.append(began)
    if ages:
        return Admission(min(ages))
    if held:
        return Admission(refusal="the transaction that looked it up is too old")
    return Admission(refusal="it was not staged lately, and no row holds it")


def guarded_from(within: timedelta) -> timedelta:
    """From which age a tombstone of a looked-up file may be due before the row that gets it can be seen.

    The look-up counts for a quarter of the grace, and COMMIT takes less than another. Where a tombstone is older than
    these two, and waits, the row that was found must not change meanwhile.

    Args:
        within: A quarter of the grace.
    """
    return 2 * within


def plan_check(rests_on: Iterable[Aged], tombstones: Sequence[Aged]) -> Check:
    """Decide, right before COMMIT, whether a transaction may be committed, and which tombstones it writes anew.

    Args:
        rests_on: How long ago each ref that its rows rest on was known to be good, and a quarter of the grace.
        tombstones: How long ago each of its tombstones was written, and a quarter of the grace.
    """
    return Check(
        next(((age, within) for age, within in rests_on if age >= within), None),
        tuple(position for position, (age, within) in enumerate(tombstones) if age >= within),
    )


def plan_reliance(own: timedelta, recorded: Sequence[RecordedGrace]) -> Reliance:
    """Decide what a process may rely on, given which graces have been written down.

    Every sweep waits as long as the longest of them. A process whose own is longer than all before it writes it down,
    and relies on it when it has been there for as long as it is: until then a sweep may have deleted what the longer
    grace would have kept. The first one of all counts at once, since nobody has relied on another.

    Args:
        own: The grace of the process.
        recorded: What the database knows.
    """
    first = max(recorded, key=lambda each: each.age, default=None)
    counting = [each.grace for each in recorded if each is first or each.age >= each.grace]
    longest = max(counting, default=own)
    return Reliance(
        within=min(own, longest) / 4,
        record=all(each.grace < own for each in recorded),
        settled=any(grace >= own for grace in counting),
    )
