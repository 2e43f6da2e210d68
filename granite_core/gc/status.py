"""How things stand: what rows hold, what waits, who collects, and what the last runs found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from granite_core.backends.base import StorageBackend
from granite_core.errors import CollectionRefusedError, StorageError
from granite_core.gc.marker import store_id
from granite_core.gc.plan import distinct_backends
from granite_core.gc.ports import Ledger, State, UploadCounts, Usage
from granite_core.gc.reports import Progress

if TYPE_CHECKING:
    from granite_core.manager import StorageManager

__all__ = [
    "DatabaseStatus",
    "LeaseStatus",
    "StatusReport",
    "StoreStatus",
    "last_name",
    "look_around",
    "reconcile_name",
    "shortened",
]

LEASE: Final = "lease:"
LAST: Final = "last:"
TELL_EVERY: Final = 1000
KEPT: Final = 10


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """What one database keeps.

    Args:
        database: What it is called; no credentials.
        has_tables: Whether it has Granite's tables; without them it keeps no tombstones.
        usage: What its rows hold, by policy and backend.
        waiting: Tombstones a sweep will look at.
        due: Those of them whose time has come.
        retained: Those of them that only their policy's retention keeps.
        failing: Those of them whose object could not be deleted so far.
        unreleased: Notes of a reconcile that has not ended.
        oldest_seconds: How old the oldest of ``waiting`` is.
        uploads: Its upload sessions.
        problem: Why it could not be asked; None where it could.
    """

    database: str
    has_tables: bool = False
    usage: tuple[Usage, ...] = ()
    waiting: int = 0
    due: int = 0
    retained: int = 0
    failing: int = 0
    unreleased: int = 0
    oldest_seconds: float | None = None
    uploads: UploadCounts = field(default_factory=UploadCounts)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """One physical place where bytes lie.

    Args:
        backend: Its ``backend_key``; the first one where it has several.
        aliases: The other keys of the same place.
        objects: What its listing shows; None where it was not listed.
        bytes: Their size.
        reconciled_at: When the last reconcile of it ended, milliseconds since 1970 by the database's clock.
        under_way: How many objects the reconcile that is under way, or was cut short, has listed.
        problem: Why it could not be listed.
    """

    backend: str
    aliases: tuple[str, ...] = ()
    objects: int | None = None
    bytes: int | None = None
    reconciled_at: int | None = None
    under_way: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Who may run.

    Args:
        name: Of what: ``"sweep"``, ``"reconcile"``, ``"verify"``.
        holder: Host, process and run.
        seconds_left: For how long more, unless it is renewed.
    """

    name: str
    holder: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class StatusReport:
    """How things stand.

    Args:
        grace: The manager's, in seconds.
        longest_grace: The longest that any process has worked with, in seconds: sweeps wait as long.
        databases: Each database of the ledger.
        stores: Each physical place.
        leases: Those that are held now.
        last: The last report of each kind of run, as its ``to_dict`` gives it with fewer examples; a run that was
            refused says so under ``refused``.
        refusal: Why the collector would refuse to run now; None where it would not.
    """

    grace: float
    longest_grace: float = 0.0
    databases: tuple[DatabaseStatus, ...] = ()
    stores: tuple[StoreStatus, ...] = ()
    leases: tuple[LeaseStatus, ...] = ()
    last: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refusal: str | None = None

    @property
    def usage(self) -> tuple[Usage, ...]:
        """What the rows of all databases hold, by policy and backend."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for each in (usage for database in self.databases for usage in database.usage):
            objects, size = found.get((each.storage_key, each.backend), (0, 0))
            found[each.storage_key, each.backend] = objects + each.objects, size + each.bytes
        return tuple(Usage(*key, *sums) for key, sums in sorted(found.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form."""
        return {**asdict(self), "usage": [asdict(each) for each in self.usage]}


def look_around(
    manager: StorageManager,
    ledger: Ledger,
    *,
    list_stores: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> StatusReport:
    """Find out how things stand. What cannot be asked is told of in its place. Blocks."""
    refusal = None
    try:
        ledger.check()
    except CollectionRefusedError as error:
        refusal = str(error)
    grace, longest = int(manager.grace.total_seconds() * 1000), 0
    with suppress(Exception):  # whatever a database says, it is asked again below
        longest = ledger.longest_grace()
    grace = max(grace, longest)
    databases = tuple(_database(ledger, number, label, grace) for number, label in enumerate(ledger.labels()))
    asked = all(each.problem is None for each in databases)
    states = ledger.states() if asked else {}
    places = distinct_backends({key: backend.identity for key, backend in manager.backends.items()})
    stores = [
        _known_of(key, aliases, states.get(reconcile_name(manager.get_backend(key)))) for key, aliases in places.items()
    ]
    if list_stores:
        stores = [_listed(ledger, manager.get_backend(each.backend), each, progress) for each in stores]
    return StatusReport(
        grace=manager.grace.total_seconds(),
        longest_grace=grace / 1000,
        databases=databases,
        stores=tuple(stores),
        leases=tuple(
            LeaseStatus(name.removeprefix(LEASE), state.holder, state.expires_in / 1000)
            for name, state in sorted(states.items())
            if name.startswith(LEASE) and state.holder is not None and state.expires_in > 0
        ),
        last={
            name.removeprefix(LAST): json.loads(state.data)
            for name, state in sorted(states.items())
            if name.startswith(LAST) and state.data
        },
        refusal=refusal,
    )


def reconcile_name(backend: StorageBackend) -> str:
    """Return the name under which the state of a backend's reconcile is kept."""
    return f"reconcile:{store_id(backend)}"


def last_name(lease: str) -> str:
    """Return the name under which the last report of a kind of run is kept."""
    return f"{LAST}{lease.removeprefix(LEASE)}"


def shortened(report: Any) -> Any:
    """Return a report with fewer examples, as it is kept: a column of text ends at 64 KiB in some databases."""
    if isinstance(report, Mapping):
        return {key: shortened(value) for key, value in report.items()}
    if isinstance(report, (list, tuple)):
        return [shortened(each) for each in report[:KEPT]]
    return report


def _database(ledger: Ledger, number: int, label: str, grace: int) -> DatabaseStatus:
    try:
        usage = tuple(ledger.usage(number))
        waiting = ledger.waiting(number, grace=grace)
        uploads = ledger.uploads(number)
        now = ledger.now(number)
    except Exception as error:  # noqa: BLE001 - whatever a database says, the others are asked
        return DatabaseStatus(label, problem=f"it cannot be asked ({type(error).__name__})")
    if waiting is None or uploads is None:
        return DatabaseStatus(label, usage=usage)
    return DatabaseStatus(
        label,
        has_tables=True,
        usage=usage,
        waiting=waiting.waiting,
        due=waiting.due,
        retained=waiting.retained,
        failing=waiting.failing,
        unreleased=waiting.unreleased,
        oldest_seconds=None if waiting.oldest is None else max(0.0, (now - waiting.oldest) / 1000),
        uploads=uploads,
    )


def _known_of(key: str, aliases: tuple[str, ...], state: State | None) -> StoreStatus:
    data = json.loads(state.data or "{}") if state is not None else {}
    run = data.get("run") or {}
    others = tuple(each for each in aliases if each != key)
    return StoreStatus(key, others, reconciled_at=data.get("ended_at"), under_way=run.get("listed"))


def _listed(
    ledger: Ledger, backend: StorageBackend, store: StoreStatus, progress: Callable[[Progress], object] | None
) -> StoreStatus:
    try:
        objects, size = ledger.call(backend, _add_up, backend, store.backend, progress)
    except StorageError as error:
        return replace(store, problem=str(error))
    return replace(store, objects=objects, bytes=size)


def _add_up(backend: StorageBackend, key: str, progress: Callable[[Progress], object] | None) -> tuple[int, int]:
    objects = size = 0
    for each in backend.list_objects():
        objects, size = objects + 1, size + each.known_size
        if progress is not None and objects % TELL_EVERY == 0:
            progress(Progress(key, objects, 0, size))
    return objects, size
