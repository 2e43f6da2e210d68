"""What the collector decides, without a database or a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core import CollectionRefusedError, ConfigurationError, ObjectStat
from granite_core.gc import GCConfig
from granite_core.gc.plan import (
    RunState,
    Tombstone,
    Verdict,
    backoff,
    check_marker,
    check_overlaps,
    deletions,
    distinct_backends,
    jittered,
    plan_page,
    plan_release,
    plan_sweep,
)


def tombstone(
    number: int, location: str = "a", *, due: bool = True, backend: str = "main", database: int = 0
) -> Tombstone:
    return Tombstone(database, number, location, backend, due)


class TestSweep:
    def test_an_object_nobody_holds_goes_with_all_its_tombstones(self) -> None:
        rows = [tombstone(1), tombstone(2), tombstone(1, database=1)]
        (plan,) = plan_sweep(rows, held=(), backends={"main"}).objects
        assert (plan.verdict, plan.backends, plan.tombstones) == (Verdict.DELETE, ("main",), tuple(rows))

    def test_a_held_object_stays_and_only_its_due_tombstones_go(self) -> None:
        (plan,) = plan_sweep([tombstone(1), tombstone(2, due=False)], held={"a"}, backends={"main"}).objects
        assert (plan.verdict, plan.tombstones) == (Verdict.HELD, (tombstone(1),))

    def test_a_younger_tombstone_decides_later(self) -> None:
        rows = [tombstone(1), tombstone(1, database=1, due=False)]
        (plan,) = plan_sweep(rows, held=(), backends={"main"}).objects
        assert (plan.verdict, plan.tombstones) == (Verdict.YOUNGER, (tombstone(1),))

    def test_what_is_not_due_at_all_is_left_alone(self) -> None:
        assert plan_sweep([tombstone(1, due=False)], held={"a"}, backends={"main"}).objects == ()

    def test_an_object_in_an_unknown_backend_stays(self) -> None:
        (plan,) = plan_sweep([tombstone(1), tombstone(2, backend="gone")], held=(), backends={"main"}).objects
        assert plan.verdict is Verdict.NO_BACKEND

    def test_objects_go_together_with_those_in_the_same_backends(self) -> None:
        rows = [
            *(tombstone(number, location=name) for number, name in enumerate("abc")),
            *(tombstone(number, location="both", backend=name) for number, name in enumerate(("main", "other"), 10)),
            tombstone(20, location="d", backend="other"),
            tombstone(21, location="e", backend="other"),
            tombstone(30, location="held"),
        ]
        objects = plan_sweep(rows, held={"held"}, backends={"main", "other"}).objects
        groups = [[each.location for each in some] for some in deletions(objects)]
        assert groups == [["a", "b", "c"], ["both"], ["d", "e"]]

    def test_an_object_is_deleted_wherever_it_was_said_to_be(self) -> None:
        rows = [tombstone(1), tombstone(2, backend="alias")]
        (plan,) = plan_sweep(rows, held=(), backends={"main", "alias"}).objects
        assert plan.backends == ("main", "alias")

    @given(
        st.lists(
            st.builds(
                tombstone,
                st.integers(0, 99),
                st.sampled_from("abc"),
                due=st.booleans(),
                backend=st.sampled_from(["main", "gone"]),
                database=st.integers(0, 1),
            )
        ),
        st.sets(st.sampled_from("abc")),
    )
    def test_nothing_is_deleted_that_is_held_or_was_let_go_lately(self, rows: list[Tombstone], held: set[str]) -> None:
        for plan in plan_sweep(rows, held, {"main"}).objects:
            of_it = [each for each in rows if each.location == plan.location]
            assert all(each.due for each in plan.tombstones)
            if plan.verdict is Verdict.DELETE:
                assert plan.location not in held
                assert all(each.due and each.backend == "main" for each in of_it)


class TestReconcile:
    def objects(self, *locations: str) -> list[ObjectStat]:
        return [ObjectStat(each, 10, datetime(2026, 1, 1, tzinfo=UTC)) for each in locations]

    def test_a_page_notes_what_nobody_accounts_for_and_counts(self) -> None:
        plan = plan_page(RunState("r", "0", 5, 1, 7), ["a", "b", "c"], self.objects("a", "c"), "main")
        assert [each.location for each in plan.notes] == ["a", "c"]
        assert plan.state == RunState("r", "c", 8, 3, 27)

    def test_a_note_has_the_longest_retention_of_the_policies_whose_keys_begin_alike(self) -> None:
        retentions = [("", 1), ("docs/", 5), ("docs/a/", 3), ("other/", 9)]
        page = ["docs/a/1", "docs2/1", "other/1"]
        plan = plan_page(RunState("r"), page, self.objects(*page), "main", retentions)
        assert [each.retention for each in plan.notes] == [5, 1, 9]

    @pytest.mark.parametrize(("noted", "released"), [(50, True), (51, False), (10, True), (100, False)])
    def test_a_run_that_would_take_more_than_its_share_is_refused(self, noted: int, released: bool) -> None:
        plan = plan_release(RunState("r", None, 100, noted), "main", max_share=0.5, always_allowed=10)
        assert plan.release is released
        assert (plan.reason is None) is released

    def test_the_refusal_says_the_numbers_and_what_to_do(self) -> None:
        plan = plan_release(RunState("r", None, 200, 150), "main", max_share=0.5, always_allowed=100)
        assert plan.reason is not None
        for words in ("150", "200", "'main'", "0.5", "max_share=1"):
            assert words in plan.reason

    def test_everything_may_go_when_told_so(self) -> None:
        assert plan_release(RunState("r", None, 200, 200), "main", max_share=1, always_allowed=0).release


class TestUniverse:
    def test_two_names_of_one_place_are_listed_once(self) -> None:
        places = distinct_backends({"main": ("s3", "b"), "old": ("s3", "b"), "other": ("s3", "c")})
        assert places == {"main": ("main", "old"), "other": ("other",)}
        check_overlaps({"main": ("s3", "b"), "old": ("s3", "b")})

    def test_a_backend_inside_another_is_refused(self) -> None:
        with pytest.raises(CollectionRefusedError, match="'inner' lies inside backend 'outer'"):
            check_overlaps({"inner": ("file", "/", "var", "x"), "outer": ("file", "/", "var")})

    def test_neighbours_are_no_overlap(self) -> None:
        check_overlaps({"a": ("file", "/", "var", "x"), "b": ("file", "/", "var", "xy")})

    def test_a_foreign_marker_is_refused_with_a_way_out(self) -> None:
        with pytest.raises(CollectionRefusedError, match=r"adopt\('main'\)"):
            check_marker("main", "theirs", "ours")
        with pytest.raises(CollectionRefusedError):
            check_marker("main", "theirs", None)
        check_marker("main", "ours", "ours")
        check_marker("main", None, "ours")

    def test_a_mark_that_is_gone_is_refused_with_a_way_out(self) -> None:
        with pytest.raises(CollectionRefusedError, match=r"mark is gone.*adopt\('main'\)"):
            check_marker("main", None, "ours", marked=True)
        check_marker("main", "ours", "ours", marked=True)


class TestTime:
    def test_retries_wait_longer_each_time_and_a_day_at_most(self) -> None:
        waits = [backoff(attempts) for attempts in range(40)]
        assert waits[1] == 60_000
        assert waits[2] == 120_000
        assert waits == sorted(waits)
        assert waits[-1] == 24 * 3600 * 1000

    @given(st.floats(0, 1))
    def test_jitter_is_a_tenth(self, random: float) -> None:
        assert 90 <= jittered(100, random) <= 110.000001


@pytest.mark.parametrize(
    "wrong",
    [
        {"sweep_every": timedelta(0)},
        {"batch_size": 0},
        {"page_size": 20_000},
        {"max_share": 1.5},
        {"rate_limit": 0},
        {"time_budget": timedelta(0)},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        GCConfig(**wrong)  # type: ignore[arg-type]
