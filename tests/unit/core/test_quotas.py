"""Whether there is room, as a pure function."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core import ConfigurationError, Quota, QuotaExceededError, QuotaLimit, QuotaUsage, StoragePolicy
from granite_core.quotas import Share, plan_hold


def plan(*, used: int, limit: int | None, held: int | None, size: int, wish: int, files: int = 0) -> int:
    share = Share("a", QuotaLimit(max_bytes=limit, max_files=3))
    return plan_hold([share], [QuotaUsage("a", used, files)], [held], size=size, wish=wish, field="file")


SIZES = st.integers(0, 50)


@given(used=SIZES, limit=st.none() | SIZES, held=st.none() | SIZES, size=SIZES, more=SIZES)
def test_what_is_granted_is_enough_and_never_takes_the_sum_over_the_limit(
    used: int, limit: int | None, held: int | None, size: int, more: int
) -> None:
    used += held or 0
    before, after = used, used - (held or 0) + size
    try:
        granted = plan(used=used, limit=limit, held=held, size=size, wish=size + more)
    except QuotaExceededError:
        assert limit is not None
        assert after > limit
        assert size > (held or 0)
        return
    assert size <= granted <= size + more
    total = before - (held or 0) + granted
    assert limit is None or total <= limit or (granted == size and size <= (held or 0))
    if limit is None or total < limit:
        assert granted == size + more or (limit is not None and total >= limit)


def test_each_share_must_have_room() -> None:
    shares = [Share("a", QuotaLimit(max_bytes=10)), Share("b", QuotaLimit(max_bytes=100))]
    used = [QuotaUsage("a", 0, 0), QuotaUsage("b", 95, 1)]
    assert plan_hold(shares, used, [None, None], size=5, wish=9, field="file") == 5
    with pytest.raises(QuotaExceededError) as caught:
        plan_hold(shares, used, [None, None], size=6, wish=6, field="file")
    assert (caught.value.limit, caught.value.used, caught.value.asked) == (100, 95, 6)


def test_files_are_counted_when_they_begin() -> None:
    assert plan(used=0, limit=None, held=5, size=9, wish=9, files=3) == 9
    with pytest.raises(QuotaExceededError, match="no more than 3 files"):
        plan(used=0, limit=None, held=None, size=0, wish=0, files=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": "user"},
        {"scope": str, "limit": "10"},
        {"scope": str, "limit": True},
        {"scope": str, "limit": -1},
    ],
)
def test_a_quota_that_cannot_be_meant_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        Quota(**wrong)


def test_a_policy_takes_quotas_only() -> None:
    with pytest.raises(ConfigurationError, match="quotas"):
        StoragePolicy("a", quotas=[str])  # type: ignore[list-item]  # what is refused
