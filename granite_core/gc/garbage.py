"""Collection at once, by listing and comparing: the form for scripts and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from granite_core._sorting import sorted_distinct
from granite_core.backends.base import StorageBackend
from granite_core.gc.plan import check_overlaps
from granite_core.gc.reports import MAX_DETAILS, GarbageCollectionReport, Problem
from granite_core.manager import StorageManager
from granite_core.policies import StoragePolicy
from granite_core.refs import StoredObjectRef

__all__ = ["StorageGarbageCollector"]


class StorageGarbageCollector:
    """Deletes the objects of a policy that no reference names, at once and without the wait.

    Safe while nothing writes: in a maintenance window, a script, a test. There is no grace here: an upload whose row is
    not committed yet, or a row that a session of the caller does not see, loses its file. An application that serves
    people uses ``Collector``, whose ``sweep`` and ``reconcile`` are safe at any time and find the references by
    themselves.

    What a reference of any policy names stays. Where policies of one backend share a prefix, or one has none, it cannot
    be told which of them stored an object that nobody names: such objects are counted as ``shared`` and stay too.

    Args:
        manager: The manager whose backends are collected.
        iter_references: Called once in each run, after the listing; yields every ref that is in use. None is passed
            over. See ``iter_model_storage_refs``.
        complete: Whether ``iter_references`` yields the refs of all policies that ever stored into the backend. Then
            nobody names the shared objects that it does not name, and they are collected too.
    """

    def __init__(
        self,
        manager: StorageManager,
        iter_references: Callable[[], Iterable[StoredObjectRef | None]],
        *,
        complete: bool = False,
    ) -> None:
        self.manager: Final = manager
        self.iter_references: Final = iter_references
        self.complete: Final = complete

    def collect(self, *, storage_key: str, dry_run: bool = True) -> GarbageCollectionReport:
        """Compare what is stored under a policy with what is referred to, and delete the rest.

        Memory stays flat: both are sorted on disk. A delete that fails is reported, and ends nothing. Blocks.

        Args:
            storage_key: The policy.
            dry_run: Delete nothing; report what would be.

        Raises:
            ConfigurationError: There is no such policy.
            CollectionRefusedError: Another backend of the manager lies inside this one, or this one inside another.
            BackendError: The listing failed; nothing was deleted.
        """
        policy = self.manager.get_policy(storage_key)
        backend = self.manager.get_backend_for_policy(policy)
        others = [] if self.complete else [_segments(each) for each in self._neighbours(policy, backend)]
        prefix = "/".join([*_segments(policy), ""])
        counts = dict.fromkeys(("scanned", "referenced", "orphaned", "deleted", "failed", "shared"), 0)
        problems: list[Problem] = []
        # The listing first: what is stored and referred to while the references are read is in neither.
        with (
            sorted_distinct(each.location for each in backend.list_objects(prefix=prefix)) as listed,
            sorted_distinct(self._locations()) as named,
        ):
            for location, is_named in _compared(listed, named):
                counts["scanned"] += 1
                if is_named:
                    counts["referenced"] += 1
                elif any(location.split("/")[: len(other)] == other for other in others):
                    counts["shared"] += 1
                else:
                    counts["orphaned"] += 1
                    if dry_run:
                        continue
                    try:
                        backend.delete(location)
                        self.manager.give_back(location, storage_key)
                        counts["deleted"] += 1
                        self.manager.events.deleted(location, storage_key, policy.backend_key, "swept")
                    except Exception as error:  # noqa: BLE001 - whatever one delete raises, the others go on
                        counts["failed"] += 1
                        if len(problems) < MAX_DETAILS:
                            problem = Problem(policy.backend_key, location, f"{type(error).__name__}: {error}")
                            problems.append(problem)
        return GarbageCollectionReport(**counts, dry_run=dry_run, problems=tuple(problems))

    def _locations(self) -> Iterator[str]:
        return (ref.location for ref in self.iter_references() if ref is not None)

    def _neighbours(self, policy: StoragePolicy, backend: StorageBackend) -> Iterator[StoragePolicy]:
        """The other policies of the same store, whatever key it has."""
        identity = backend.identity
        for each in self.manager.policies.values():
            other = self.manager.get_backend_for_policy(each).identity
            check_overlaps({policy.backend_key: identity, each.backend_key: other})
            if each.storage_key != policy.storage_key and other == identity:
                yield each


def _segments(policy: StoragePolicy) -> list[str]:
    """The folders of a policy's prefix; none where it has no prefix."""
    return [each for each in (policy.key_prefix or "").split("/") if each]


def _compared(listed: Iterator[str], named: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Each that is listed, and whether it is named too; both in one order."""
    name = next(named, None)
    for location in listed:
        while name is not None and name < location:
            name = next(named, None)
        yield location, name == location
