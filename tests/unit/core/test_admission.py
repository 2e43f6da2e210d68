"""Which refs get into rows, and what may be committed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from granite_core.admission import (
    CLOCK_SKEW,
    Admission,
    RecordedGrace,
    Reliance,
    guarded_from,
    is_fresh,
    plan_admission,
    plan_check,
    plan_looked_up,
    plan_reliance,
)

WITHIN = timedelta(minutes=30)
YOUNG = timedelta(minutes=29, seconds=59)
MOMENT = timedelta(microseconds=1)


class TestWhatIsFresh:
    @pytest.mark.parametrize("age", [timedelta(0), YOUNG, WITHIN - MOMENT, -CLOCK_SKEW])
    def test_what_was_staged_within_a_quarter_is(self, age: timedelta) -> None:
        assert is_fresh(age, WITHIN)

    @pytest.mark.parametrize("age", [WITHIN, WITHIN * 2, -CLOCK_SKEW - MOMENT, None])
    def test_what_is_older_comes_from_the_future_or_does_not_say_is_not(self, age: timedelta | None) -> None:
        assert not is_fresh(age, WITHIN)


class TestWhatGetsIn:
    def test_what_is_fresh_since_it_was_staged(self) -> None:
        assert plan_admission(None, YOUNG, WITHIN) == Admission(YOUNG)

    @pytest.mark.parametrize("staged", [WITHIN, None])
    def test_what_is_not_fresh_is_looked_up(self, staged: timedelta | None) -> None:
        plan = plan_admission(None, staged, WITHIN)
        assert (plan.must_look_up, plan.since, plan.refusal) == (True, None, None)

    def test_what_may_be_held_is_looked_up_before_it_is_too_old(self) -> None:
        assert plan_admission(None, WITHIN * 0.4, WITHIN, may_be_held=True) == Admission(WITHIN * 0.4)
        assert plan_admission(None, WITHIN * 0.6, WITHIN, may_be_held=True).must_look_up

    def test_what_was_looked_up_since_the_later_of_both(self) -> None:
        old, young = WITHIN * 0.9, WITHIN * 0.1
        assert plan_looked_up(young, WITHIN, held=True, staged=old) == Admission(young)
        assert plan_looked_up(old, WITHIN, held=True, staged=young) == Admission(young)
        assert plan_looked_up(WITHIN, WITHIN, held=True, staged=old) == Admission(old)
        assert plan_looked_up(young, WITHIN, held=False, staged=old) == Admission(old)
        assert plan_looked_up(young, WITHIN, held=False, staged=WITHIN).refusal is not None

    def test_what_the_transaction_knows_already_since_then(self) -> None:
        assert plan_admission(YOUNG, timedelta(0), WITHIN) == Admission(YOUNG)

    def test_nothing_that_it_knows_since_a_quarter(self) -> None:
        plan = plan_admission(WITHIN, timedelta(0), WITHIN)
        assert plan.refusal is not None
        assert not plan.must_look_up

    def test_what_a_row_holds_since_the_transaction_began(self) -> None:
        assert plan_looked_up(YOUNG, WITHIN, held=True) == Admission(YOUNG)

    @pytest.mark.parametrize(("began", "held"), [(WITHIN, True), (YOUNG, False)])
    def test_nothing_that_no_row_holds_or_was_seen_too_long_ago(self, began: timedelta, held: bool) -> None:
        plan = plan_looked_up(began, WITHIN, held=held)
        assert plan.refusal is not None
        assert plan.since is None


def test_a_tombstone_that_cannot_be_due_before_the_row_is_seen_needs_no_guard() -> None:
    grace, commit = 4 * WITHIN, WITHIN
    assert guarded_from(WITHIN) + WITHIN + commit <= grace


class TestWhatMayBeCommitted:
    def test_what_rests_on_young_things(self) -> None:
        plan = plan_check([(YOUNG, WITHIN)], [(YOUNG, WITHIN)])
        assert (plan.too_old, plan.renew) == (None, ())

    def test_nothing_that_rests_on_an_old_one_by_its_own_limit(self) -> None:
        assert plan_check([(YOUNG, WITHIN), (YOUNG, YOUNG)], []).too_old == (YOUNG, YOUNG)

    def test_old_tombstones_are_written_anew(self) -> None:
        plan = plan_check([], [(YOUNG, WITHIN), (WITHIN, WITHIN), (WITHIN * 9, WITHIN)])
        assert (plan.too_old, plan.renew) == (None, (1, 2))


class TestWhatIsReliedOn:
    GRACE = 4 * WITHIN

    def recorded(self, *graces: tuple[float, float]) -> list[RecordedGrace]:
        """Graces and ages, as parts of ours."""
        return [RecordedGrace(self.GRACE * grace, self.GRACE * age) for grace, age in graces]

    def test_the_first_grace_of_all_counts_at_once(self) -> None:
        assert plan_reliance(self.GRACE, []) == Reliance(WITHIN, record=True, settled=False)
        assert plan_reliance(self.GRACE, self.recorded((1, 0))) == Reliance(WITHIN, record=False, settled=True)

    @pytest.mark.parametrize("age", [0, 0.9])
    def test_a_longer_one_does_not_count_while_it_is_new(self, age: float) -> None:
        before = self.recorded((0.1, 3), (0.5, 2))
        assert plan_reliance(self.GRACE, before) == Reliance(WITHIN / 2, record=True, settled=False)
        after = [*before, *self.recorded((1, age))]
        assert plan_reliance(self.GRACE, after) == Reliance(WITHIN / 2, record=False, settled=False)

    @pytest.mark.parametrize("longer", [(1, 1), (2, 2)])
    def test_it_does_once_it_has_been_there_for_as_long_as_it_is(self, longer: tuple[float, float]) -> None:
        found = self.recorded((0.1, 3), longer)
        assert plan_reliance(self.GRACE, found) == Reliance(WITHIN, record=False, settled=True)

    def test_nobody_relies_on_more_than_its_own(self) -> None:
        assert plan_reliance(self.GRACE, self.recorded((8, 9))) == Reliance(WITHIN, record=False, settled=True)
