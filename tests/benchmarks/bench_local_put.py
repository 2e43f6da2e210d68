"""Storing on local disk: small content at hand, and files of any size from an open stream or a path."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.benchmarks.content import GIB, KIB, MIB, check_stored, clean, make_file, with_source
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.worker import Task, Work

Put = Callable[[Path], object]
"""Stores the content of a file at hand."""
Open = Callable[[Path], Put]
"""Makes a store in a folder."""


# ------------------------------------------------------------------------------------------------------------- ours
def granite(store: Path, *, durable: bool, whole: bool, by_entity: bool = False) -> Put:
    from granite_core import LocalStorageBackend, StorageManager, StoragePolicy

    manager = StorageManager({"main": LocalStorageBackend(store, durable=durable)}, [StoragePolicy("files", "main")])

    def put(source: Path) -> None:
        key = ("document", uuid4().hex, "file") if by_entity else ()
        if whole:
            manager.put_bytes("files", *key, content=held(source), original_filename="a.jpg")
        else:
            with source.open("rb") as stream:
                manager.put_stream("files", *key, stream=stream, original_filename="a.jpg")

    return put


# ------------------------------------------------------------------------------------------------------------ floors
def floor(store: Path, *, durable: bool, whole: bool, by_entity: bool = False) -> Put:
    """Write to a temporary name, hash, rename; synced where that is asked for, as are folders that are made."""

    def put(source: Path) -> None:
        digest = hashlib.sha256()
        folder = store
        if by_entity:
            for name in ("document", uuid4().hex, "file"):
                folder, parent = folder / name, folder
                try:
                    os.mkdir(folder)
                except FileExistsError:
                    continue
                if durable:
                    sync_folder(parent)
        target = folder / uuid4().hex
        temporary = f"{target}.tmp"
        with open(temporary, "xb", buffering=0) as file:
            if whole:
                content = held(source)
                digest.update(content)
                file.write(content)
            else:
                buffer = memoryview(bytearray(256 * KIB))
                with source.open("rb", buffering=0) as stream:
                    while count := stream.readinto(buffer):
                        digest.update(buffer[:count])
                        file.write(buffer[:count])
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, target)
        if durable:
            sync_folder(folder)
        digest.hexdigest()

    return put


def floor_overlapped(store: Path, *, durable: bool) -> Put:
    """As `floor`, hashing one piece in a second thread while the next is read and written."""
    pool = ThreadPoolExecutor(1)

    def put(source: Path) -> None:
        digest = hashlib.sha256()
        target = store / uuid4().hex
        buffers = [memoryview(bytearray(MIB)) for _ in range(2)]
        pending: list[Future[None] | None] = [None, None]
        turn = 0
        with open(f"{target}.tmp", "xb", buffering=0) as file, source.open("rb", buffering=0) as stream:
            while True:
                if (before := pending[turn]) is not None:
                    before.result()
                count = stream.readinto(buffers[turn])
                if not count:
                    break
                piece = buffers[turn][:count]
                pending[turn] = pool.submit(digest.update, piece)
                file.write(piece)
                turn = 1 - turn
            for each in pending:
                if each is not None:
                    each.result()
            if durable:
                os.fsync(file.fileno())
        os.rename(f"{target}.tmp", target)
        if durable:
            sync_folder(store)

    return put


def plain_copy(store: Path) -> Put:
    return lambda source: shutil.copyfile(source, store / uuid4().hex)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- peers
def granite_storage(store: Path, *, whole: bool) -> Put:
    from granite_storage import StorageManager, StoragePolicy
    from granite_storage.backends.local import LocalStorageBackend

    manager = StorageManager({"main": LocalStorageBackend(store)}, {"files": StoragePolicy("files", "main")})
    of: dict[str, Any] = {"storage_key": "files", "model_name": "document", "field_name": "file"}

    def put(source: Path) -> None:
        key = {**of, "entity_id": uuid4().hex, "original_filename": "a.jpg"}
        if whole:
            manager.put_bytes(**key, content=held(source))
        else:
            with source.open("rb") as stream:
                manager.put_stream(**key, stream=stream)

    return put


def sqlalchemy_file(store: Path, *, how: str) -> Put:
    from libcloud.storage.drivers.local import LocalStorageDriver
    from sqlalchemy_file import File
    from sqlalchemy_file.storage import StorageManager

    (store / "files").mkdir(exist_ok=True)
    StorageManager.add_storage("files", LocalStorageDriver(str(store)).get_container("files"))

    def put(source: Path) -> None:
        if how == "path":
            File(content_path=str(source), filename="a.jpg").save_to_storage("files")
        elif how == "bytes":
            File(content=held(source), filename="a.jpg").save_to_storage("files")
        else:
            with source.open("rb") as stream:
                File(content=stream, filename="a.jpg").save_to_storage("files")

    return put


def advanced_alchemy(store: Path, *, backend: str, whole: bool) -> Put:
    from advanced_alchemy.types.file_object import FileObject, storages

    if backend == "obstore":
        from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend

        storages.register_backend(ObstoreBackend(key="files", fs=f"file://{store}/"))
    else:
        from advanced_alchemy.types.file_object.backends.fsspec import FSSpecBackend

        storages.register_backend(FSSpecBackend(key="files", fs="file", prefix=str(store)))

    def put(source: Path) -> None:
        name = f"{uuid4().hex}.bin"
        if whole:
            FileObject(backend="files", filename=name, content=held(source)).save()
        else:
            FileObject(backend="files", filename=name, source_path=source).save()

    return put


# ------------------------------------------------------------------------------------------------------------- cases
_held: dict[Path, bytes] = {}


def held(source: Path) -> bytes:
    """The content as a caller has it in memory."""
    if source not in _held:
        _held[source] = source.read_bytes()
    return _held[source]


@contextmanager
def storing(task: Task, open_store: Open) -> Iterator[Work]:
    store, source = task.folder / "store", Path(task["source"])
    store.mkdir()
    put = open_store(store)
    if task["whole"]:
        held(source)
    small = task.folder / "small.bin"
    make_file(small, 1)

    def warm_up() -> None:
        put(small)  # imports what is imported at first use
        clean(store)

    def run() -> None:
        put(source)

    yield Work(
        run,
        warm_up=warm_up,
        prepare=partial(clean, store),
        check=lambda: check_stored(store, task["sha256"], task["repeat"]),
    )


def contender(name: str, open_store: Open, **options: Any) -> Contender:
    return Contender(name, partial(storing, open_store=open_store), **options)


def small(size: int, *, durable: bool, quick: bool, known: bool = True) -> Case:
    durability = "durable" if durable else "not durable"
    ours = [
        contender("granite", partial(granite, durable=durable, whole=True), kind="ours"),
        contender(
            "granite, by entity",
            partial(granite, durable=durable, whole=True, by_entity=True),
            kind="ours",
            note="makes a folder for each row, and one in it",
        ),
    ]
    peers = [
        contender("granite-storage", partial(granite_storage, whole=True), needs=("granite_storage",)),
        contender("sqlalchemy-file", partial(sqlalchemy_file, how="bytes"), needs=("sqlalchemy_file",), note="no hash"),
        contender(
            "advanced-alchemy, obstore",
            partial(advanced_alchemy, backend="obstore", whole=True),
            needs=("obstore",),
            note="no hash",
        ),
        contender(
            "advanced-alchemy, fsspec",
            partial(advanced_alchemy, backend="fsspec", whole=True),
            needs=("fsspec",),
            note="no hash; in place",
        ),
    ]
    return Case(
        "local put",
        f"{size // KIB} KiB at hand{'' if known else ' of no known kind'}, {durability}",
        [
            contender("floor", partial(floor, durable=durable, whole=True), kind="floor"),
            contender("floor, by entity", partial(floor, durable=durable, whole=True, by_entity=True), kind="floor"),
            *ours,
            *([] if durable else peers),  # none of them syncs
        ],
        baseline="floor",
        values={"size": size, "known": known, "whole": True, "repeat": (repeat := 10 if quick else 300)},
        repeat=repeat,
        rounds=9,
        size=size,
        set_up=with_source,
        on_disk=durable,
        room=64 * MIB,
        goals=[Goal("granite", 1.15), Goal("granite, by entity", 1.15, to="floor, by entity")]
        if durable
        else [Goal("granite", 0.5, to="granite-storage")],
    )


def large(size: int, *, durable: bool, rounds: int, quick: bool = False) -> Case:
    peers = [
        contender("plain copy", plain_copy, kind="floor", note="no hash"),
        contender("granite-storage", partial(granite_storage, whole=False), needs=("granite_storage",)),
        contender(
            "sqlalchemy-file, path", partial(sqlalchemy_file, how="path"), needs=("sqlalchemy_file",), note="no hash"
        ),
        contender(
            "sqlalchemy-file, stream",
            partial(sqlalchemy_file, how="stream"),
            needs=("sqlalchemy_file",),
            note="no hash",
        ),
        contender(
            "advanced-alchemy, obstore",
            partial(advanced_alchemy, backend="obstore", whole=False),
            needs=("obstore",),
            note="no hash",
        ),
    ]
    amount = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    return Case(
        "local put",
        f"{amount} from a file, {'durable' if durable else 'not durable'}",
        [
            contender("floor", partial(floor, durable=durable, whole=False), kind="floor"),
            contender(
                "floor, second thread",
                partial(floor_overlapped, durable=durable),
                kind="floor",
                note="hashes while it writes",
            ),
            contender("granite", partial(granite, durable=durable, whole=False), kind="ours"),
            *([] if durable else peers),
        ],
        baseline="floor",
        values={"size": size, "whole": False, "repeat": (repeat := 1 if quick or size > 64 * MIB else 5)},
        repeat=repeat,
        rounds=rounds,
        size=size,
        set_up=with_source,
        on_disk=durable,
        room=repeat * 10 * size,
        goals=[
            Goal("granite", 4 * MIB, metric="memory"),
            Goal("granite", 1.15) if durable else Goal("granite", 0.75, to="granite-storage"),
        ],
    )


@contextmanager
def reading(task: Task, how: str) -> Iterator[Work]:
    source = Path(task["source"])
    if how == "granite":
        from granite_core import LocalStorageBackend, StorageManager, StoragePolicy

        backend = LocalStorageBackend(task.folder / "store", durable=False)
        manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
        with source.open("rb") as stream:
            ref = manager.put_stream("files", stream=stream)
        open_it: Callable[[], Any] = partial(manager.open, ref)
    elif how == "granite-storage":
        from granite_storage import StorageManager as TheirManager
        from granite_storage import StoragePolicy as TheirPolicy
        from granite_storage.backends.local import LocalStorageBackend as TheirBackend

        theirs = TheirManager({"main": TheirBackend(task.folder)}, {"files": TheirPolicy("files", "main")})
        with source.open("rb") as stream:
            their_ref = theirs.put_stream(
                storage_key="files", model_name="m", entity_id=1, field_name="f", stream=stream
            )
        open_it = partial(theirs.open, their_ref)
    else:
        open_it = partial(source.open, "rb")

    def read(update: Callable[[bytes], object] | None = None) -> None:
        with open_it() as stream:
            while data := stream.read(task["piece"]):
                if update is not None:
                    update(data)

    def check() -> None:
        digest = hashlib.sha256()
        read(digest.update)
        assert digest.hexdigest() == task["sha256"]

    yield Work(read, warm_up=lambda: open_it().close(), check=check)


def read_back(size: int, piece: int, *, quick: bool) -> Case:
    return Case(
        "local read",
        f"{size // MIB} MiB through open(), {piece // KIB} KiB at a time",
        [
            Contender("plain file", partial(reading, how="plain"), kind="floor"),
            Contender("granite", partial(reading, how="granite"), kind="ours"),
            Contender("granite-storage", partial(reading, how="granite-storage"), needs=("granite_storage",)),
        ],
        baseline="plain file",
        values={"size": size, "piece": piece},
        rounds=9,
        size=size,
        set_up=with_source,
        room=4 * size,
        goals=[Goal("granite", 1.0), Goal("granite", 4 * MIB, metric="memory")],
    )


def cases(*, quick: bool) -> list[Case]:
    if quick:
        return [
            small(KIB, durable=False, quick=True),
            large(MIB, durable=True, rounds=1, quick=True),
            read_back(MIB, 64 * KIB, quick=True),
        ]
    return [
        small(KIB, durable=False, quick=False),
        small(KIB, durable=False, quick=False, known=False),
        small(KIB, durable=True, quick=False),
        large(10 * MIB, durable=False, rounds=9),
        large(10 * MIB, durable=True, rounds=9),
        large(GIB, durable=False, rounds=5),
        read_back(256 * MIB, 64 * KIB, quick=False),
        read_back(256 * MIB, MIB, quick=False),
    ]


__all__ = ["cases"]
