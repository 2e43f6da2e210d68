"""Run the model: ``python -m tests.model``; with ``--deep`` larger worlds, with ``--removed`` the counter-examples."""

from __future__ import annotations

import argparse
import sys
import time

from tests.model.explorer import explore
from tests.model.removals import REMOVALS, remove
from tests.model.system import System
from tests.model.trace import tell
from tests.model.worlds import DEEP, DEFAULT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--deep", action="store_true", help="larger worlds too: well over an hour")
    parser.add_argument("--removed", action="store_true", help="show what each safeguard is good for")
    options = parser.parse_args()
    return show_removals() if options.removed else show_sound(deep=options.deep)


def show_sound(*, deep: bool) -> int:
    places = DEFAULT + DEEP if deep else DEFAULT
    began, states, wrong = time.perf_counter(), 0, 0
    for place in places:
        system = System(place.bounds, symmetric=True)
        found = explore(system.initial(), system.successors, system.broken)
        print(f"{place.name}: {tell(system, found)}", flush=True)
        states += found.states
        wrong += found.broken is not None
    print(f"{len(places)} worlds, {states:,} states, {time.perf_counter() - began:.1f} s, {wrong} with a law broken")
    return 1 if wrong else 0


def show_removals() -> int:
    kept = 0
    for removal in REMOVALS:
        system, found = remove(removal)
        print(f"\n{removal.name}: {removal.says}\n{tell(system, found)}", flush=True)
        kept += found.broken is None
    print(f"\nsafeguards taken away in {len(REMOVALS)} worlds, a file lost in {len(REMOVALS) - kept}")
    return 1 if kept else 0


if __name__ == "__main__":
    sys.exit(main())
