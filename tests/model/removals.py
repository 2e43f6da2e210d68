"""Safeguards taken away one by one, and the small worlds in which that is seen to lose a file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.bounds import Bounds
from tests.model.explorer import Exploration, explore
from tests.model.protocol import Protocol
from tests.model.state import Kind, Mode
from tests.model.system import Event, Packed, System

__all__ = ["REMOVALS", "Removal", "remove"]

_TWO = Bounds()
_ALONE = Bounds(modes=(Mode.READ_COMMITTED,))
_AUTOCOMMIT = Bounds(modes=(Mode.AUTOCOMMIT,))
_TWO_AUTOCOMMIT = Bounds(modes=(Mode.AUTOCOMMIT, Mode.AUTOCOMMIT))
_COPIES = Bounds(operations=1, statements=True, copies=True)
_UPLOAD = Bounds(operations=1, rows=1, upload=True)
_DATABASES = Bounds(databases=2)
_GRACES = Bounds(operations=1, quarters=(1, 2))


@dataclass(frozen=True, slots=True)
class Removal:
    """A safeguard, and where its absence shows.

    Args:
        name: The setting of ``Protocol`` that is switched off; after a dash, where.
        says: What is so then. ``docs/topics/proof.md`` says it in the same words.
        bounds: A world in which a file is lost then.
        deep: Whether that world takes longer than others.
        lingers: Whether nothing is lost then, but left behind untold.
        guarded: Whether looked-up rows are guarded; where they are, that makes up for some other safeguards.
    """

    name: str
    says: str
    bounds: Bounds = _TWO
    guarded: bool = True
    lingers: bool = False
    deep: bool = False

    @property
    def safeguard(self) -> str:
        """The setting of ``Protocol`` that is switched off."""
        return self.name.partition("-")[0]

    @property
    def whole(self) -> Protocol:
        """The protocol with the safeguard: in the same world it loses nothing."""
        return Protocol(guards=self.guarded)

    @property
    def without(self) -> Protocol:
        """The protocol without it."""
        return replace(self.whole, **{self.safeguard: False})


REMOVALS = (
    Removal("tombstone_with_change", "a tombstone is written before its row's change", guarded=False),
    Removal("waits", "a tombstone is due at once", _ALONE),
    Removal("heeds_younger", "a younger tombstone keeps nothing"),
    Removal("looks", "the sweep does not look whether a row holds the file", _ALONE),
    Removal("one_snapshot", "it reads rows and tombstones at different moments"),
    Removal("admits_by_rule", "a flush lets in any ref", _ALONE),
    Removal("admits_by_age", "a flush lets in what was fresh or held, however long ago", _AUTOCOMMIT),
    Removal("checks", "nothing is checked before COMMIT"),
    Removal("checks_last", "that is checked before the last flush", Bounds(operations=1)),
    Removal("renews", "old tombstones of a transaction are not renewed"),
    Removal("quarter", "whatever is younger than half the grace will do"),
    Removal("quick_commit", "a COMMIT takes as long as it likes"),
    Removal(
        "quick_outer",
        "an outer transaction takes as long as it likes",
        Bounds(modes=(Mode.READ_COMMITTED, Mode.JOINED)),
    ),
    Removal(
        "quick_statement",
        "a flush under AUTOCOMMIT takes as long as it likes",
        Bounds(modes=(Mode.READ_COMMITTED, Mode.AUTOCOMMIT)),
    ),
    Removal("primary", "the collector reads from a replica that lags"),
    Removal("only_sweep_deletes", "what a failed transaction had flushed is deleted at once", _AUTOCOMMIT),
    Removal(
        "ages_from_begin",
        "a look-up counts from the session's beginning, not from the database transaction's",
        Bounds(modes=(Mode.READ_COMMITTED, Mode.JOINED_SNAPSHOT)),
    ),
    Removal("guards", "a row that was looked up may change while an old tombstone waits", Bounds(statements=True)),
    Removal(
        "guards-sqlite",
        "on SQLite the look-up is not repeated once nobody else can write",
        Bounds(modes=(Mode.SQLITE, Mode.SQLITE), operations=1, statements=True),
    ),
    Removal(
        "guards-autocommit", "under AUTOCOMMIT the look-up is not repeated after a young tombstone", _TWO_AUTOCOMMIT
    ),
    Removal(
        "forgets",
        "what was looked up since a savepoint counts as good when that is undone",
        Bounds(rows=1, savepoints=1, statements=True),
    ),
    Removal("distrusts", "what a row let go under AUTOCOMMIT counts as good", _AUTOCOMMIT),
    Removal("steady_copy", "the row that a ref is copied from, within the database, may change before COMMIT", _COPIES),
    Removal("records_grace", "a process with a shorter grace sweeps by that", _GRACES),
    Removal("new_grace_waits", "a longer grace counts at once", _GRACES),
    Removal("grace_in_snapshot", "it reads the longest grace before it looks", _GRACES, deep=True),
    Removal("counts_uploads", "upload sessions do not count as rows that hold files", _UPLOAD),
    Removal("gone_refuses", "the token of an upload is believed when its session is gone", _UPLOAD),
    Removal("expires_by_statement", "an upload session is removed that was found expired a moment ago", _UPLOAD),
    Removal("one_clock", "what is due in another database is judged when the sweep looks into that", _DATABASES),
    Removal(
        "looks_back",
        "of two sweeps one drops the tombstones while the other looks into the next database",
        replace(_DATABASES, statements=True, collectors=(Kind.SWEEP, Kind.SWEEP)),
        deep=True,
    ),
    Removal(
        "guards_everywhere",
        "the young tombstone is written only in the database of the old one",
        replace(_DATABASES, statements=True),
    ),
    Removal("expiry_buries", "an expired upload session leaves no tombstone", _UPLOAD, lingers=True),
)


def remove(removal: Removal) -> tuple[System, Exploration[Packed, Event]]:
    """Take a safeguard away, and look for the shortest way to lose a file."""
    system = System(removal.bounds, removal.without, losses_only=not removal.lingers)
    return system, explore(system.initial(), system.successors, system.broken)
