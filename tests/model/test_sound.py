"""The protocol as it is keeps the laws in every state that can be reached."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from tests.model.bounds import Bounds
from tests.model.explorer import explore
from tests.model.state import Mode
from tests.model.system import System
from tests.model.trace import tell

PAIRS = [*combinations_with_replacement(Mode, 2)]


@pytest.mark.parametrize("modes", PAIRS, ids=lambda modes: "+".join(mode.name.lower() for mode in modes))
def test_two_writers_of_any_kind_lose_nothing_and_leave_nothing(modes: tuple[Mode, ...]) -> None:
    system = System(Bounds(modes=modes, statements=True), symmetric=True)
    found = explore(system.initial(), system.successors, system.broken)
    print(tell(system, found))
    assert found.broken is None, tell(system, found)
    assert found.complete
