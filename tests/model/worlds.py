"""The worlds that are explored: by default in seconds, deep in minutes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Final

from tests.model.bounds import Bounds
from tests.model.state import Kind, Mode

__all__ = ["DEEP", "DEFAULT", "Place"]

_RC, _RR, _AUTO, _JOINED, _JOINED_RR, _SQLITE = Mode
_SERVER: Final = [*combinations_with_replacement((_RC, _RR, _AUTO, _JOINED, _JOINED_RR), 2)]
_PAIRS: Final = [*_SERVER, (_AUTO, _SQLITE), (_SQLITE, _SQLITE)]
_FEW: Final = [(_RC, _RC), (_RC, _RR), (_RC, _AUTO), (_AUTO, _AUTO), (_RC, _JOINED_RR), (_SQLITE, _SQLITE)]


@dataclass(frozen=True, slots=True)
class Place:
    """A world, and what is special about it."""

    special: str
    bounds: Bounds

    @property
    def name(self) -> str:
        return f"{self.special}: {' + '.join(mode.name.lower() for mode in self.bounds.modes)}"


def _each(special: str, bounds: Bounds, modes: Iterable[tuple[Mode, ...]]) -> list[Place]:
    return [Place(special, replace(bounds, modes=each)) for each in modes]


_ONE: Final = Bounds(operations=1, statements=True)
_TWO_FILES: Final = Bounds(flush=2, objects=2)
_RETRIES: Final = Bounds(operations=1, statements=True, transactions=2, notes=True)
_SAVEPOINTS: Final = Bounds(rows=1, savepoints=1, statements=True)
_UPLOAD: Final = Bounds(operations=1, rows=1, upload=True)
_GRACES: Final = replace(_ONE, quarters=(1, 2))
_DATABASES: Final = Bounds(databases=2, statements=True)
_SWEEPS: Final = (Kind.SWEEP, Kind.SWEEP)
_RECONCILE: Final = (Kind.SWEEP, Kind.RECONCILE)
_ALL: Final = Bounds(operations=1, objects=2, savepoints=1, collectors=_SWEEPS)

DEFAULT: Final = [
    *_each("two rows each", Bounds(statements=True), _PAIRS),
    *_each("moves in one flush", replace(_TWO_FILES, objects=1), [(_RC, _RC), (_AUTO, _AUTO)]),
    *_each("two files change places", _TWO_FILES, [(_RC,), (_AUTO,), (_SQLITE,)]),
    *_each("retries and notes", replace(_RETRIES, operations=2), [(_RC,), (_AUTO,), (_JOINED_RR,)]),
    *_each("savepoints", _SAVEPOINTS, [(_RC, _RC)]),
    *_each("two sweeps", replace(_ONE, collectors=_SWEEPS), [(_RC, _RC), (_AUTO, _AUTO)]),
    *_each("sweep and reconcile", replace(_ONE, collectors=_RECONCILE), [(_RC, _RC), (_AUTO, _AUTO)]),
    *_each("three writers", _ONE, [(_RC, _RC, _RC)]),
    *_each("copies within the database", replace(_ONE, copies=True), _FEW),
    *_each("an upload session", _UPLOAD, [(_RC, _RC), (_RC, _AUTO), (_SQLITE, _SQLITE)]),
    *_each("two graces", replace(_GRACES, statements=False), [(_RC, _RC)]),
    *_each("two databases", replace(_DATABASES, operations=1), [(_RC, _RC)]),
    *_each("two files, savepoints, two sweeps", _ALL, [(_RC, _RC)]),
]

DEEP: Final = [
    *_each("savepoints, two rows each", replace(_SAVEPOINTS, rows=2), _FEW),
    *_each("two files change places", replace(_TWO_FILES, statements=True), [(_RC, _RC), (_SQLITE, _SQLITE)]),
    *_each("two files, one row each", replace(_ONE, objects=2), _FEW),
    *_each("retries and notes", _RETRIES, _FEW),
    *_each("two sweeps, two rows each", Bounds(statements=True, collectors=_SWEEPS), _FEW),
    *_each("two sweeps and a reconcile", Bounds(operations=1, collectors=(Kind.SWEEP, *_RECONCILE)), _FEW),
    *_each("three writers", _ONE, [(_RC, _RC, _AUTO), (_RC, _RR, _RR), (_AUTO, _AUTO, _AUTO)]),
    *_each("copies within the database, two rows each", Bounds(statements=True, copies=True), _FEW),
    *_each("an upload session and two rows", replace(_UPLOAD, rows=2, operations=2, statements=True), _FEW),
    *_each("two graces", _GRACES, [*_FEW, (_RR, _RC), (_AUTO, _RC), (_JOINED_RR, _RC)]),
    *_each("two graces, two rows each", Bounds(statements=True, quarters=(1, 2)), [(_RC, _RC), (_SQLITE, _SQLITE)]),
    *_each("two databases, two rows each", _DATABASES, [(_RC, _RC), (_RC, _RR), (_RR, _RR)]),
    *_each("two databases, two sweeps", replace(_DATABASES, collectors=_SWEEPS), [(_RC, _RC)]),
    *_each("two databases, a move in one flush", replace(_DATABASES, flush=2), [(_RC, _RC), (_RC, _RR)]),
    *_each("two files, savepoints, two sweeps", replace(_ALL, statements=True), _FEW),
    *_each("two files, savepoints, sweep and reconcile", replace(_ALL, collectors=_RECONCILE), [(_RC, _RC)]),
    *_each("two graces, savepoints", replace(_GRACES, rows=1, savepoints=1), _FEW),
    *_each("two graces, two databases", replace(_GRACES, databases=2), [(_RC, _RC), (_RC, _RR)]),
    *_each("a finer clock", replace(_ONE, quarter=2), _FEW),
]
