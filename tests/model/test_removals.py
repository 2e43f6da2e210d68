"""Take one safeguard away, and a file is lost: each of them is needed."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from tests.model.bounds import Bounds
from tests.model.explorer import Exploration, explore
from tests.model.protocol import Protocol
from tests.model.removals import REMOVALS, Removal, remove
from tests.model.system import Event, Packed, System
from tests.model.trace import tell

DEEP = pytest.mark.skipif(os.environ.get("GRANITE_DEEP") != "1", reason="takes minutes: GRANITE_DEEP=1")
TAKEN_AWAY = [pytest.param(each, id=each.name, marks=[DEEP] * each.deep) for each in REMOVALS]
PAGE = (Path(__file__).parents[2] / "docs" / "topics" / "proof.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("removal", TAKEN_AWAY)
def test_without_it_a_file_is_lost(removal: Removal) -> None:
    system, found = remove(removal)
    print(f"\nwhere {removal.says}:\n{tell(system, found)}")
    assert found.broken is not None, removal.says
    assert found.broken.startswith("law 2" if removal.lingers else ("law 1", "law 3"))
    told = f"* - {removal.says[0].upper()}{removal.says[1:]}\n  - {len(found.trace) - 1}\n"
    assert told in PAGE, f"docs/topics/proof.md does not tell this, or not so: {told}"


@pytest.mark.parametrize("removal", TAKEN_AWAY)
def test_with_it_nothing_is_lost_in_the_same_world(removal: Removal) -> None:
    found, told = intact(removal.bounds, removal.whole, losses_only=not removal.lingers)
    assert found.broken is None, told
    assert found.complete


@cache
def intact(bounds: Bounds, protocol: Protocol, *, losses_only: bool) -> tuple[Exploration[Packed, Event], str]:
    system = System(bounds, protocol, symmetric=True, losses_only=losses_only)
    found = explore(system.initial(), system.successors, system.broken)
    return found, tell(system, found)


def test_every_safeguard_is_taken_away() -> None:
    assert {each.safeguard for each in REMOVALS} == {each.name for each in fields(Protocol)}
