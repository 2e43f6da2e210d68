"""The collector of the explicit form deletes a policy's unreferenced objects, and nothing else."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from granite_core import (
    AccessDeniedError,
    BackendUnavailableError,
    CollectionRefusedError,
    ConfigurationError,
    LocalStorageBackend,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.events import Deleted, Event, ObjectName, object_id
from granite_core.gc import GarbageCollectionReport, StorageGarbageCollector
from granite_core.testing.faults import FaultyBackend
from tests.support.seven_methods import DictBackend


def ref(location: str, storage_key: str = "documents") -> StoredObjectRef:
    return StoredObjectRef(storage_key, "main", location, 1)


def manage(backend: Any, *policies: tuple[str, str | None], **more: Any) -> StorageManager:
    return StorageManager({"main": backend, **more}, [StoragePolicy(key, "main", key_prefix=p) for key, p in policies])


def store(backend: Any, *locations: str) -> None:
    for location in locations:
        backend.put_bytes(key=location, content=b"x")


def collect(
    manager: StorageManager,
    refs: Iterable[StoredObjectRef | None] = (),
    *,
    storage_key: str = "documents",
    dry_run: bool = False,
    complete: bool = False,
) -> GarbageCollectionReport:
    collector = StorageGarbageCollector(manager, lambda: refs, complete=complete)
    return collector.collect(storage_key=storage_key, dry_run=dry_run)


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(MemoryStorageBackend())


def test_what_nobody_refers_to_is_deleted(backend: FaultyBackend) -> None:
    manager = manage(backend, ("documents", "docs"), ("avatars", "avatars"))
    store(backend, "docs/a", "docs/b", "docs/c/d", "avatars/a")
    heard: list[Event] = []
    manager.listen(heard.append, Deleted)
    report = collect(manager, [ref("docs/b"), None, ref("docs/b"), ref("docs/gone")])
    assert report == GarbageCollectionReport(scanned=3, referenced=1, orphaned=2, deleted=2)
    assert [*backend.iter_locations()] == ["avatars/a", "docs/b"]
    named = [
        ObjectName(object_id=object_id(each), storage_key="documents", backend_key="main")
        for each in ("docs/a", "docs/c/d")
    ]
    assert heard == [Deleted(**each, reason="swept") for each in named]


def test_a_dry_run_is_the_default_and_deletes_nothing(backend: FaultyBackend) -> None:
    store(backend, "docs/a")
    report = StorageGarbageCollector(manage(backend, ("documents", "docs")), list).collect(storage_key="documents")
    assert (report.orphaned, report.deleted, report.dry_run) == (1, 0, True)
    assert report.to_dict()["scanned"] == 1
    assert backend.exists("docs/a")


def test_an_alike_prefix_is_another_folder(backend: FaultyBackend) -> None:
    manager = manage(backend, ("documents", "doc"))
    store(backend, "docs/a", "doc/a", "doc")
    assert collect(manager).deleted == 1
    assert [*backend.iter_locations()] == ["doc", "docs/a"]


@pytest.mark.parametrize(
    ("mine", "other", "shared"),
    [
        (None, None, ["docs/a", "docs/inner/b", "e"]),
        (None, "docs", ["docs/a", "docs/inner/b"]),
        ("docs", None, ["docs/a", "docs/inner/b"]),
        ("docs", "docs", ["docs/a", "docs/inner/b"]),
        ("docs", "docs/inner", ["docs/inner/b"]),
        ("docs/inner", "docs", ["docs/inner/b"]),
        ("docs", "doc", []),
        ("docs", "avatars", []),
    ],
)
def test_what_another_policy_may_have_stored_stays(
    backend: FaultyBackend, mine: str | None, other: str | None, shared: list[str]
) -> None:
    manager = manage(backend, ("documents", mine), ("avatars", other))
    store(backend, "docs/a", "docs/inner/b", "e")
    within = [each for each in ["docs/a", "docs/inner/b", "e"] if mine is None or each.startswith(f"{mine}/")]
    report = collect(manager)
    assert (report.scanned, report.shared) == (len(within), len(shared))
    assert report.deleted == report.orphaned == len(within) - len(shared)
    assert {*shared} <= {*backend.iter_locations()}


def test_with_every_reference_known_shared_objects_are_collected_too(backend: FaultyBackend) -> None:
    manager = manage(backend, ("documents", None), ("avatars", None))
    store(backend, "a", "b", "c")
    report = collect(manager, [ref("a"), ref("b", "avatars")], complete=True)
    assert (report.deleted, report.shared, [*backend.iter_locations()]) == (1, 0, ["a", "b"])


def test_what_a_reference_of_any_policy_names_stays(backend: FaultyBackend) -> None:
    manager = manage(backend, ("documents", None))
    store(backend, "a", "b")
    assert collect(manager, [ref("a", "moved here from elsewhere")]).deleted == 1
    assert [*backend.iter_locations()] == ["a"]


def test_a_policy_of_another_backend_is_no_neighbour(backend: FaultyBackend) -> None:
    manager = StorageManager(
        {"main": backend, "cold": MemoryStorageBackend()},
        [StoragePolicy("documents", "main"), StoragePolicy("archive", "cold")],
    )
    store(backend, "a")
    assert collect(manager).deleted == 1


def test_two_keys_of_one_store_are_one_store(tmp_path: Path) -> None:
    one, same = LocalStorageBackend(tmp_path), LocalStorageBackend(tmp_path)
    manager = StorageManager(
        {"one": one, "same": same}, [StoragePolicy("documents", "one"), StoragePolicy("b", "same")]
    )
    store(one, "a")
    assert (collect(manager).shared, one.exists("a")) == (1, True)


def test_a_store_inside_another_is_refused(tmp_path: Path) -> None:
    outer, inner = LocalStorageBackend(tmp_path), LocalStorageBackend(tmp_path / "inner")
    manager = StorageManager(
        {"outer": outer, "inner": inner}, [StoragePolicy("documents", "outer"), StoragePolicy("b", "inner")]
    )
    store(inner, "a")
    with pytest.raises(CollectionRefusedError):
        collect(manager)
    assert inner.exists("a")


def test_the_listing_comes_before_the_references(backend: FaultyBackend) -> None:
    """What is stored and committed while the run begins is in the store and not in the listing."""
    manager = manage(backend, ("documents", None))
    store(backend, "a")

    def references() -> Iterator[StoredObjectRef]:
        store(backend, "b")
        yield ref("a")

    assert StorageGarbageCollector(manager, references).collect(storage_key="documents", dry_run=False).deleted == 0
    assert [*backend.iter_locations()] == ["a", "b"]


def test_a_failing_delete_ends_nothing(backend: FaultyBackend) -> None:
    manager = manage(backend, ("documents", None))
    store(backend, "a", "b", "c")
    backend.fail("delete", AccessDeniedError("not yours"), at=2)
    report = collect(manager)
    assert (report.orphaned, report.deleted, report.failed) == (3, 2, 1)
    assert [(each.location, each.message) for each in report.problems] == [("b", "AccessDeniedError: not yours")]


def test_when_the_references_cannot_be_read_nothing_is_deleted(backend: FaultyBackend) -> None:
    manager = manage(backend, ("documents", None))
    store(backend, "a", "b")

    def references() -> Iterator[StoredObjectRef]:
        yield ref("a")
        raise LookupError("the database is gone")

    with pytest.raises(LookupError):
        StorageGarbageCollector(manager, references).collect(storage_key="documents", dry_run=False)
    backend.fail("list", BackendUnavailableError("down"), late=True)
    with pytest.raises(BackendUnavailableError):
        collect(manager)
    assert [*backend.iter_locations()] == ["a", "b"]


def test_an_unknown_policy_is_refused(backend: FaultyBackend) -> None:
    with pytest.raises(ConfigurationError, match="no policy 'other'"):
        collect(manage(backend, ("documents", None)), storage_key="other")


def test_granite_s_own_objects_stay(backend: FaultyBackend) -> None:
    store(backend, ".granite/store", "a")
    assert collect(manage(backend, ("documents", None))).deleted == 1
    assert backend.exists(".granite/store")


def test_a_backend_with_seven_methods_is_collected_too() -> None:
    inner = DictBackend()
    manager = manage(inner, ("documents", "docs"))
    store(inner, "docs/b", "docs/a", "docs2/c")
    assert collect(manager, [ref("docs/b")]).deleted == 1
    assert [*inner.objects] == ["docs/b", "docs2/c"]


def test_memory_stays_flat() -> None:
    class Endless(MemoryStorageBackend):
        def list_objects(self, **_: Any) -> Iterator[Any]:
            return (Listed(f"docs/document/{number:06}/file") for number in range(150_000))

    class Listed:
        def __init__(self, location: str) -> None:
            self.location = location

    manager = manage(Endless(), ("documents", "docs"))
    numbers = list(range(149_000))
    random.Random(1).shuffle(numbers)
    refs = (ref(f"docs/document/{number:06}/file") for number in numbers)
    tracemalloc.start()
    try:
        report = collect(manager, refs, dry_run=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.scanned, report.orphaned) == (150_000, 1000)
    assert peak < 40 * 1024 * 1024
