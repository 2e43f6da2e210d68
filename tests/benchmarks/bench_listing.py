"""Listing a local store, as a reconcile does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from granite_core import LocalStorageBackend
from tests.benchmarks.harness import Case, Contender
from tests.benchmarks.worker import Task, Work


def make_tree(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """A store with a thousand files in each folder."""
    store = folder / "store"
    for number in range(values["files"]):
        if number % 1000 == 0:
            (store / f"documents/{number // 1000:06d}").mkdir(parents=True)
        os.close(os.open(store / f"documents/{number // 1000:06d}/{number:026d}.pdf", os.O_CREAT | os.O_WRONLY))
    return {"store": str(store)}


def scandir(store: Path, *, with_stat: bool) -> Iterator[str]:
    """A sorted walk, in the order of whole keys."""
    pending = [""]
    while pending:
        path = pending.pop()
        if path and not path.endswith("/"):
            yield path
            continue
        with os.scandir(store / path) as entries:
            found = []
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    found.append(f"{path}{each.name}/")
                else:
                    if with_stat:
                        each.stat(follow_symlinks=False)
                    found.append(path + each.name)
        pending.extend(sorted(found, reverse=True))


def obstore_list(store: Path) -> Iterator[str]:
    from obstore.store import LocalStore

    for page in LocalStore(str(store)).list(chunk_size=1000):
        for each in page:
            yield each["path"]


def fsspec_find(store: Path) -> Iterator[str]:
    import fsspec

    yield from fsspec.filesystem("file").find(str(store), detail=True)


def granite_storage_list(store: Path) -> Iterator[str]:
    from granite_storage.backends.local import LocalStorageBackend as TheirBackend

    yield from TheirBackend(store).iter_locations()


def granite_list(store: Path) -> Iterator[str]:
    for each in LocalStorageBackend(store).list_objects():
        yield each.location


def granite_keys(store: Path) -> Iterator[str]:
    yield from LocalStorageBackend(store).list_keys()


@contextmanager
def listing(task: Task, walk: Callable[[Path], Iterator[str]]) -> Iterator[Work]:
    store = Path(task["store"])

    def run() -> int:
        return sum(1 for _ in walk(store))

    def check() -> None:
        found = sorted(each.rpartition("/")[2] for each in walk(store))
        assert found == [f"{number:026d}.pdf" for number in range(task["files"])]

    yield Work(run, warm_up=lambda: list(islice(walk(store), 1)), check=check)


def listings(files: int, *, rounds: int) -> Case:
    def contender(name: str, walk: Callable[[Path], Iterator[str]], **options: Any) -> Contender:
        return Contender(name, partial(listing, walk=walk), **options)

    return Case(
        "listing",
        f"a local store of {files:,} files",
        [
            contender("scandir and stat", partial(scandir, with_stat=True), kind="floor"),
            contender("scandir", partial(scandir, with_stat=False), kind="floor", note="names only"),
            contender("granite", granite_list, kind="ours", note="sorted, size and time"),
            contender("granite, keys", granite_keys, kind="ours", note="sorted, names only: what a reconcile asks for"),
            contender("granite-storage", granite_storage_list, needs=("granite_storage",), note="names only"),
            contender("obstore", obstore_list, needs=("obstore",), note="not sorted"),
            contender("fsspec", fsspec_find, needs=("fsspec",)),
        ],
        baseline="scandir and stat",
        values={"files": files},
        rounds=rounds,
        unit="file",
        set_up=make_tree,
        room=files * 2000,
    )


def cases(*, quick: bool) -> list[Case]:
    return [listings(2000, rounds=1) if quick else listings(200_000, rounds=5)]


__all__ = ["cases"]
