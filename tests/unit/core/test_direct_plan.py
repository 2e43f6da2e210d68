"""How a client sends its bytes is decided by their number and what the store takes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from granite_core import Capability, ConfigurationError, ContentTooLargeError
from granite_core.keys import is_reserved
from granite_core.uploads import DirectSettings, DirectWay, Progress
from granite_core.uploads.direct.plan import DirectPlan, plan_direct

MIB = 1024 * 1024
GIB = 1024 * MIB
EVERYTHING = frozenset({Capability.PRESIGNED_PUT, Capability.PRESIGNED_POST, Capability.PRESIGNED_PARTS})
SINGLE = EVERYTHING - {Capability.PRESIGNED_PARTS}


def plan(size: int | None, capabilities: Any = EVERYTHING, *, form: bool = False, max_size: int | None = None) -> Any:
    return plan_direct(size, "unique", DirectSettings(), capabilities, form=form, max_size=max_size, put_limit=5 * GIB)


@pytest.mark.parametrize(
    ("size", "capabilities", "way", "native"),
    [
        (0, EVERYTHING, DirectWay.PUT, True),
        (64 * MIB, EVERYTHING, DirectWay.PUT, True),
        (64 * MIB + 1, EVERYTHING, DirectWay.PARTS, True),
        (64 * MIB + 1, SINGLE, DirectWay.PUT, True),
        (5 * GIB + 1, SINGLE, DirectWay.PARTS, False),
        (64 * MIB, frozenset(), DirectWay.PUT, False),
        (64 * MIB + 1, frozenset(), DirectWay.PARTS, False),
    ],
)
def test_the_store_takes_what_it_can_and_the_application_the_rest(
    size: int, capabilities: Any, way: DirectWay, native: bool
) -> None:
    found = plan(size, capabilities)
    assert (found.way, found.native) == (way, native)
    assert all(is_reserved(key) for key in found.keys)
    assert found == DirectPlan.from_details(found.to_details())


@pytest.mark.parametrize("size", [64 * MIB + 1, 1000 * 16 * MIB, 1000 * 16 * MIB + 1, 1000 * 5 * GIB])
def test_parts_are_as_many_as_it_takes_and_never_more_than_a_thousand(size: int) -> None:
    found = plan(size)
    assert found.count <= 1000
    lengths = [found.length_of(number) for number in range(1, found.count + 1)]
    assert sum(lengths) == size
    assert set(lengths[:-1]) <= {found.part_size}
    assert 0 < lengths[-1] <= found.part_size
    assert 5 * MIB <= found.part_size <= 5 * GIB


def test_each_part_that_the_application_takes_is_a_key_that_the_session_names() -> None:
    found = plan(100 * MIB, frozenset())
    assert len(set(found.keys)) == found.count == 7
    assert plan(100 * MIB).keys == (found.key,)


@pytest.mark.parametrize("keys", [(), ("a.1",), ("a.1", "a.2"), ("a.2", "a.3"), (".1", ".2"), ("a", "b.1", "b.2")])
def test_keys_are_read_as_they_were_written(keys: tuple[str, ...]) -> None:
    progress = Progress(leftovers=keys, upload="x")
    assert Progress.from_json(progress.to_json()) == progress


def test_a_session_of_a_thousand_parts_is_a_short_row() -> None:
    progress = Progress(leftovers=plan(1000 * 5 * GIB, frozenset()).keys)
    assert len(progress.to_json()) < 100
    assert Progress.from_json(progress.to_json()) == progress


def test_more_than_parts_can_hold_is_refused() -> None:
    with pytest.raises(ContentTooLargeError):
        plan(1000 * 5 * GIB + 1)


@pytest.mark.parametrize("capabilities", [EVERYTHING, frozenset()])
def test_more_than_one_request_can_hold_is_refused_of_a_form(capabilities: Any) -> None:
    assert plan(5 * GIB, capabilities, form=True).limit == 5 * GIB
    with pytest.raises(ContentTooLargeError):
        plan(5 * GIB + 1, capabilities, form=True)


def test_only_a_form_may_leave_its_size_open() -> None:
    with pytest.raises(ConfigurationError):
        plan(None)
    assert plan(None, form=True, max_size=10).limit == 10
    assert plan(None, form=True).limit == 5 * GIB
    assert plan(None, frozenset(), form=True, max_size=10).native is False


@pytest.mark.parametrize(
    "settings",
    [
        {"part_size": 5 * MIB - 1},
        {"part_size": 5 * GIB + 1},
        {"parts_above": 0},
        {"page": 0},
        {"requests_expire_in": timedelta(0)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        DirectSettings(**settings)
    assert refused.value.field == next(iter(settings))
