"""What goes, what stays, what is refused: pure decisions, without I/O, clock or randomness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from granite_core.backends.base import ObjectStat
from granite_core.errors import CollectionRefusedError

__all__ = [
    "LocationPlan",
    "Note",
    "PagePlan",
    "ReleasePlan",
    "RunState",
    "SweepPlan",
    "Tombstone",
    "Verdict",
    "backoff",
    "check_marker",
    "check_overlaps",
    "deletions",
    "distinct_backends",
    "jittered",
    "plan_page",
    "plan_release",
    "plan_sweep",
]

FIRST_RETRY_MS: Final = 60_000
LAST_RETRY_MS: Final = 24 * 3600 * 1000


class Tombstone(msgspec.Struct, frozen=True, gc=False):  # a sweep makes thousands at a time
    """A row that says: after this time, look whether this object may go.

    Args:
        database: Number of the database that keeps it.
        id: Its id there.
        location: The object's key.
        backend: ``backend_key`` of the backend that holds the object.
        due: Whether its time has come.
        attempts: How often deleting the object has failed.
        storage_key: Policy of the object, where known.
    """

    database: int
    id: int
    location: str
    backend: str
    due: bool
    attempts: int = 0
    storage_key: str = ""


class Note(msgspec.Struct, frozen=True):
    """A tombstone to be written, by someone who saw that probably nobody points at an object.

    Args:
        location: The object's key.
        backend: ``backend_key`` of the backend that holds it.
        storage_key: Its policy, where known.
        retention: How many milliseconds longer than the grace it stays.
    """

    location: str
    backend: str
    storage_key: str = ""
    retention: int = 0


class Verdict(Enum):
    """What becomes of an object that has a due tombstone."""

    DELETE = "delete"
    """Nobody points at it: the bytes go, then its tombstones."""
    HELD = "held"
    """A row holds it: it stays, its due tombstones go."""
    YOUNGER = "younger"
    """A tombstone is not due yet: it stays until that is, its due ones go."""
    NO_BACKEND = "no-backend"
    """Nobody points at it, but the backend is unknown or cannot be asked: all stays, to be tried again."""


class LocationPlan(msgspec.Struct, frozen=True, gc=False):
    """What becomes of one object.

    Args:
        location: Its key.
        verdict: The decision.
        backends: Keys of the backends it is in.
        tombstones: The due tombstones that were read; no others may be dropped.
    """

    location: str
    verdict: Verdict
    backends: tuple[str, ...]
    tombstones: tuple[Tombstone, ...]

    @property
    def storage_key(self) -> str:
        """Its policy; empty where no tombstone tells."""
        return next((each.storage_key for each in self.tombstones if each.storage_key), "")


class SweepPlan(msgspec.Struct, frozen=True):
    """What becomes of a batch."""

    objects: tuple[LocationPlan, ...]


def plan_sweep(tombstones: Collection[Tombstone], held: Collection[str], backends: Collection[str]) -> SweepPlan:
    """Decide what becomes of objects.

    Args:
        tombstones: Every tombstone of those objects, due or not.
        held: The locations that someone points at.
        backends: Keys of the backends that can be asked to delete.
    """
    by_location: dict[str, list[Tombstone]] = {}
    for each in tombstones:
        by_location.setdefault(each.location, []).append(each)
    objects = []
    for location, rows in by_location.items():
        due = tuple([each for each in rows if each.due])
        if not due:
            continue
        keys = (due[0].backend,) if len(due) == 1 else tuple(dict.fromkeys([each.backend for each in due]))
        if location in held:
            verdict = Verdict.HELD
        elif len(due) < len(rows):
            verdict = Verdict.YOUNGER
        elif all(key in backends for key in keys):
            verdict = Verdict.DELETE
        else:
            verdict = Verdict.NO_BACKEND
        objects.append(LocationPlan(location, verdict, keys, due))
    return SweepPlan(tuple(objects))


def deletions(objects: Collection[LocationPlan]) -> list[list[LocationPlan]]:
    """Return the objects that go, those together that are in the same backends."""
    groups: dict[tuple[str, ...], list[LocationPlan]] = {}
    for each in objects:
        if each.verdict is Verdict.DELETE:
            groups.setdefault(each.backends, []).append(each)
    return [*groups.values()]


def backoff(attempts: int) -> int:
    """Return how long to wait, in milliseconds, after so many failed attempts: a minute, doubling, a day at most."""
    return int(min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** min(max(attempts, 1) - 1, 20)))


def jittered(seconds: float, random: float) -> float:
    """Return a waiting time within a tenth of the given one, so that workers started together part.

    Args:
        seconds: The time wanted.
        random: A number from 0 to 1.
    """
    return seconds * (0.9 + 0.2 * random)


# -- the reconcile -----------------------------------------------------------------------------------------------------


class RunState(msgspec.Struct, frozen=True):
    """Where the reconcile of one backend stands.

    Args:
        run: Name of the run, which its unreleased notes carry.
        after: The last key that was looked at.
        listed: Objects seen so far.
        noted: Objects nobody points at.
        noted_bytes: Their size in bytes, as far as the store tells it.
    """

    run: str
    after: str | None = None
    listed: int = 0
    noted: int = 0
    noted_bytes: int = 0


class PagePlan(msgspec.Struct, frozen=True):
    """What becomes of a page of a listing."""

    notes: tuple[Note, ...]
    state: RunState


def plan_page(
    state: RunState,
    page: Sequence[str],
    loose: Collection[ObjectStat],
    backend: str,
    retentions: Collection[tuple[str, int]] = (),
) -> PagePlan:
    """Decide which objects of a page get a note, and count.

    Whether a row ever held them, and under which policy, cannot be seen: each stays for the longest retention of the
    policies whose files have such keys, since a statement that passed the session may have let it go.

    Args:
        state: Where the run stood before the page.
        page: The keys that were listed, at least one.
        loose: Those objects of them that no row, upload or tombstone holds.
        backend: ``backend_key`` for the notes.
        retentions: First characters of keys, and how many milliseconds longer than the grace such objects stay.
    """
    return PagePlan(
        tuple(Note(each.location, backend, retention=_retention_of(each.location, retentions)) for each in loose),
        msgspec.structs.replace(
            state,
            after=page[-1],
            listed=state.listed + len(page),
            noted=state.noted + len(loose),
            noted_bytes=state.noted_bytes + sum(each.known_size for each in loose),
        ),
    )


def _retention_of(location: str, retentions: Collection[tuple[str, int]]) -> int:
    return max((retention for prefix, retention in retentions if location.startswith(prefix)), default=0)


class ReleasePlan(msgspec.Struct, frozen=True):
    """Whether a run's notes may be acted on; else why not."""

    release: bool
    reason: str | None = None


def plan_release(state: RunState, backend: str, *, max_share: float, always_allowed: int) -> ReleasePlan:
    """Refuse a run that would take more than a share of a backend's objects."""
    if state.noted <= always_allowed or state.noted <= max_share * state.listed:
        return ReleasePlan(release=True)
    return ReleasePlan(
        release=False,
        reason=(
            f"nobody points at {state.noted} of the {state.listed} objects in backend {backend!r}, more than the share "
            f"of {max_share:g} that a run may take: see that the database and the backend belong together and that "
            "every model is imported; if they do, reconcile once with max_share=1"
        ),
    )


# -- the right universe ------------------------------------------------------------------------------------------------


def distinct_backends(identities: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return one key for each physical place, and all the keys (aliases) of that place."""
    places: dict[tuple[str, ...], list[str]] = {}
    for key, identity in identities.items():
        places.setdefault(identity, []).append(key)
    return {keys[0]: tuple(keys) for keys in places.values()}


def check_overlaps(identities: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse backends of which one lies inside the other: their listings would show each other's objects.

    Two keys of one and the same place are fine: objects are matched by location.

    Raises:
        CollectionRefusedError: One identity is a proper prefix of another.
    """
    for outer_key, outer in identities.items():
        for inner_key, inner in identities.items():
            if len(outer) < len(inner) and inner[: len(outer)] == outer:
                raise CollectionRefusedError(
                    f"backend {inner_key!r} lies inside backend {outer_key!r}: a listing of one shows the objects of "
                    "the other; give each a root (or bucket and prefix) of its own",
                    backend=outer_key,
                )


def check_marker(backend: str, found: str | None, ours: str | None, *, marked: bool = False) -> None:
    """Refuse a store that belongs to another database, and one that has lost the mark of ours.

    Args:
        backend: Its ``backend_key``, for the message.
        found: The database that the store's marker names; None where there is no marker.
        ours: Our database's identity; None where it has none.
        marked: Whether the database remembers that its mark was there.

    Raises:
        CollectionRefusedError: They differ, or the mark is gone.
    """
    if found is None and marked:
        raise CollectionRefusedError(
            f"the store of backend {backend!r} was this database's, and its mark is gone: this may be an empty folder "
            "whose disk is not mounted, or another bucket, and every object would look lost; see that the right store "
            f"is there; if this is the one from now on, call adopt({backend!r}) on the collector once",
            backend=backend,
            limit=ours,
        )
    if found is None or found == ours:
        return
    raise CollectionRefusedError(
        f"the store of backend {backend!r} belongs to another database ({found}; this one is {ours or 'unnamed'}): its "
        "objects would look like nobody's; point the backend at a store of its own, or, if this database has taken "
        f"the other one's place for good, call adopt({backend!r}) on the collector once",
        backend=backend,
        limit=found,
        value=ours,
    )
