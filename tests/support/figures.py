"""What a run of the proofs has shown, in lines: from the properties that its tests recorded.

A test records `figures`, a line of its own or several; or `counted`, as `what was tried|how many|of what`, which is
added up for all that say the same; or, by `tests.support.network.Tally`, `fault`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

__all__ = ["figures_of"]


def figures_of(properties: Iterable[tuple[str, object]]) -> list[str]:
    """The lines, in order of what was tried."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name, value in properties:
        by_name[name].append(str(value))
    return sorted([*by_name["figures"], *_sums(by_name["counted"]), *_outcomes(by_name["fault"])])


def _sums(counted: Iterable[str]) -> Iterator[str]:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for each in counted:
        title, number, unit = each.split("|")
        sums[title][unit] += int(number)
    for title, found in sums.items():
        yield f"{title}: {', '.join(f'{number} {unit}' for unit, number in sorted(found.items()))}"


def _outcomes(faults: Iterable[str]) -> Iterator[str]:
    by_title: dict[str, Counter[str]] = defaultdict(Counter)
    for each in faults:
        title, _, name = each.partition("|")
        by_title[title][name] += 1
    for title, found in by_title.items():
        errors = ", ".join(f"{number} {name}" for name, number in sorted(found.items()) if name)
        ended = found.total() - found[""]
        yield f"{title}: {found.total()} faults, {found['']} successes, {ended} typed errors ({errors})"
