"""The protocol keeps the laws in every state that can be reached."""

from __future__ import annotations

import os

import pytest

from tests.model.explorer import explore
from tests.model.system import System
from tests.model.trace import tell
from tests.model.worlds import DEEP, DEFAULT, Place


def nothing_breaks_in(place: Place) -> None:
    system = System(place.bounds, symmetric=True)
    found = explore(system.initial(), system.successors, system.broken)
    print(tell(system, found))
    assert found.broken is None, tell(system, found)
    assert found.complete


@pytest.mark.parametrize("place", DEFAULT, ids=lambda place: place.name)
def test_nothing_is_lost_and_nothing_lingers(place: Place) -> None:
    nothing_breaks_in(place)


@pytest.mark.skipif(os.environ.get("GRANITE_DEEP") != "1", reason="takes minutes: GRANITE_DEEP=1")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", DEEP, ids=lambda place: place.name)
def test_nor_in_larger_worlds(place: Place) -> None:
    nothing_breaks_in(place)
