"""An S3 server on this machine, over TLS: one large object, and small ones, 32 at once.

The server has the same processors as its clients, so a client's own CPU seconds tell more than the time.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tests.benchmarks.content import KIB, MIB, make_file
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.s3_store import AT_ONCE, Store, check_objects, empty, part, reached, set_up
from tests.benchmarks.worker import Task, Work
from tests.support.parts import why_missing

# ------------------------------------------------------------------------------------------------- one large object
Put = Callable[[Path], object]


def raw_put(store: Store) -> Put:
    """One PUT over a connection of the standard library, hashed as it goes; the address was signed before."""
    client = store.client()
    context = ssl.create_default_context(cafile=store.certificate) if store.certificate else None
    place = urlsplit(store.endpoint)

    def put(source: Path) -> None:
        url = urlsplit(client.generate_presigned_url("put_object", {"Bucket": store.bucket, "Key": uuid4().hex}))
        line: http.client.HTTPConnection
        if context is None:
            line = http.client.HTTPConnection(place.netloc)
        else:
            line = http.client.HTTPSConnection(place.netloc, context=context)
        line.putrequest("PUT", f"{url.path}?{url.query}", skip_accept_encoding=True)
        line.putheader("Content-Length", str(source.stat().st_size))
        line.endheaders()
        digest, buffer = hashlib.sha256(), memoryview(bytearray(256 * KIB))
        with source.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
                line.send(buffer[:count])
        answer = line.getresponse()
        answer.read()
        line.close()
        assert answer.status == 200, answer.status
        digest.hexdigest()

    return put


def obstore_put(store: Store) -> Put:
    import obstore

    target = store.obstore(unsigned_payload=True)

    def put(source: Path) -> None:
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            with source.open("rb", buffering=0) as stream:
                while data := stream.read(MIB):
                    digest.update(data)
                    yield data

        obstore.put(target, uuid4().hex, pieces(), chunk_size=8 * MIB)
        digest.hexdigest()

    return put


def granite_put(store: Store) -> Put:
    manager = store.granite()

    def put(source: Path) -> None:
        with source.open("rb") as stream:
            manager.put_stream("files", stream=stream, original_filename="a.jpg")

    return put


def granite_obstore_put(store: Store) -> Put:
    manager = store.granite_obstore()

    def put(source: Path) -> None:
        with source.open("rb") as stream:
            manager.put_stream("files", stream=stream, original_filename="a.jpg")

    return put


def granite_storage_put(store: Store) -> Put:
    manager = store.granite_storage()

    def put(source: Path) -> None:
        with source.open("rb") as stream:
            manager.put_stream(
                storage_key="files", model_name="document", entity_id=uuid4().hex, field_name="file", stream=stream
            )

    return put


class _Hashed:
    """A file that is hashed while boto3 reads it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(size)
        self.digest.update(data)
        return data


def boto3_put(store: Store) -> Put:
    client = store.client()

    def put(source: Path) -> None:
        with source.open("rb") as stream:
            client.upload_fileobj(_Hashed(stream), store.bucket, uuid4().hex)

    return put


def advanced_alchemy_put(store: Store) -> Put:
    from advanced_alchemy.types.file_object import FileObject, storages
    from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend

    storages.register_backend(ObstoreBackend(key="files", fs=store.obstore()))
    return lambda source: FileObject(backend="files", filename=uuid4().hex, source_path=source).save()


def s3fs_put(store: Store) -> Put:
    loop, files = _loop_thread(), store.s3fs()

    def put(source: Path) -> None:
        call = files._put_file(str(source), f"{store.bucket}/{uuid4().hex}")
        asyncio.run_coroutine_threadsafe(call, loop).result()

    return put


@cache
def _loop_thread() -> asyncio.AbstractEventLoop:
    """The process's one event loop: clients keep to the one they began on."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


@contextmanager
def streaming(task: Task, open_store: Callable[[Store], Put]) -> Iterator[Work]:
    source, small = Path(task["source"]), task.folder / "small.bin"
    make_file(small, 1)
    with reached(task) as store:
        put = open_store(store)

        def run() -> None:
            put(source)

        yield Work(
            run,
            warm_up=lambda: put(small),
            prepare=partial(empty, store),
            check=lambda: check_objects(store, task["sha256"], 1),
        )


def stream(size: int, *, rounds: int, quick: bool) -> Case:
    chosen = part(quick=quick)

    def contender(name: str, open_store: Callable[[Store], Put], **options: Any) -> Contender:
        return Contender(name, partial(streaming, open_store=open_store), missing=why_missing(chosen), **options)

    return Case(
        "s3",
        f"one object of {size // MIB} MiB from a file, with SHA-256, TLS, {chosen}",
        [
            contender("raw PUT", raw_put, kind="floor", note="the standard library"),
            contender("obstore, unsigned", obstore_put, kind="floor", needs=("obstore",), note="a hashing generator"),
            contender("granite", granite_put, kind="ours", needs=("boto3",)),
            contender("granite, obstore", granite_obstore_put, kind="ours", needs=("obstore",)),
            contender("granite-storage", granite_storage_put, needs=("granite_storage",), note="spooled first"),
            contender("boto3 upload_fileobj", boto3_put, needs=("boto3",)),
            contender("s3fs", s3fs_put, needs=("s3fs",), note="no hash"),
            contender("advanced-alchemy, obstore", advanced_alchemy_put, needs=("obstore",), note="no hash"),
        ],
        baseline="raw PUT",
        values={"size": size, "part": chosen},
        rounds=rounds,
        size=size,
        unit="object",
        set_up=None if why_missing(chosen) else set_up,
        goals=[
            Goal("granite", 0.55, to="granite-storage", metric="cpu"),
            Goal("granite", 0.45, to="boto3 upload_fileobj", metric="cpu"),
            Goal("granite", 64 * MIB, metric="memory"),
            Goal("granite, obstore", 0.55, to="granite-storage", metric="cpu"),
            Goal("granite, obstore", 0.45, to="boto3 upload_fileobj", metric="cpu"),
            Goal("granite, obstore", 64 * MIB, metric="memory"),
        ],
    )


# -------------------------------------------------------------------------------------------- many small ones at once
One = Callable[[int], object]


def threads(one: One) -> Callable[[int], None]:
    """Blocking calls, a thread for each that is under way."""
    pool = ThreadPoolExecutor(AT_ONCE)

    def run(count: int) -> None:
        for _ in pool.map(one, range(count)):
            pass

    return run


def tasks(one: Callable[[int], Awaitable[object]]) -> Callable[[int], None]:
    """Coroutines on one loop, so many under way."""
    loop = _loop_thread()

    async def everything(count: int) -> None:
        numbers = iter(range(count))

        async def some() -> None:
            for number in numbers:
                await one(number)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    return lambda count: asyncio.run_coroutine_threadsafe(everything(count), loop).result()


@dataclass(frozen=True)
class Small:
    """Storing one more, and reading what was stored with a number."""

    put: Callable[[int], None]
    get: Callable[[int], None]


def _numbered(put: Callable[[], Any], get: Callable[[Any], bytes], expected: int) -> Small:
    kept: list[Any] = []

    def read(number: int) -> None:
        assert len(get(kept[number % len(kept)])) == expected

    return Small(threads(lambda _: kept.append(put())), threads(read))


def _numbered_async(put: Callable[[], Awaitable[Any]], get: Callable[[Any], Awaitable[Any]], expected: int) -> Small:
    kept: list[Any] = []

    async def write(_: int) -> None:
        kept.append(await put())

    async def read(number: int) -> None:
        assert len(await get(kept[number % len(kept)])) == expected

    return Small(tasks(write), tasks(read))


def obstore_small(store: Store, content: bytes) -> Small:
    import obstore

    target = store.obstore(unsigned_payload=True)

    async def put() -> str:
        name = uuid4().hex
        await obstore.put_async(target, name, content, use_multipart=False)
        return name

    async def get(name: str) -> Any:
        return await (await obstore.get_async(target, name)).bytes_async()

    return _numbered_async(put, get, len(content))


def granite_small(store: Store, content: bytes) -> Small:
    manager = store.granite()
    return _numbered(partial(manager.put_bytes, "files", content=content), manager.get, len(content))


def granite_async_small(store: Store, content: bytes) -> Small:
    from granite_core import AsyncStorageManager

    manager = AsyncStorageManager(store.granite())
    return _numbered_async(lambda: manager.put_bytes("files", content=content), manager.get, len(content))


def granite_obstore_small(store: Store, content: bytes) -> Small:
    manager = store.granite_obstore()
    return _numbered(partial(manager.put_bytes, "files", content=content), manager.get, len(content))


def granite_obstore_async_small(store: Store, content: bytes) -> Small:
    from granite_core import AsyncStorageManager

    manager = AsyncStorageManager(store.granite_obstore())
    return _numbered_async(lambda: manager.put_bytes("files", content=content), manager.get, len(content))


def granite_storage_small(store: Store, content: bytes) -> Small:
    manager = store.granite_storage()

    def put() -> Any:
        return manager.put_bytes(
            storage_key="files", model_name="document", entity_id=uuid4().hex, field_name="file", content=content
        )

    return _numbered(put, manager.get, len(content))


def boto3_small(store: Store, content: bytes) -> Small:
    client = store.client()

    def put() -> str:
        name = uuid4().hex
        client.put_object(Bucket=store.bucket, Key=name, Body=content)
        return name

    def get(name: str) -> bytes:
        found: bytes = client.get_object(Bucket=store.bucket, Key=name)["Body"].read()
        return found

    return _numbered(put, get, len(content))


def s3fs_small(store: Store, content: bytes) -> Small:
    files = store.s3fs()

    async def put() -> str:
        path = f"{store.bucket}/{uuid4().hex}"
        await files._pipe_file(path, content)
        return path

    return _numbered_async(put, files._cat_file, len(content))


def advanced_alchemy_small(store: Store, content: bytes, *, backend: str) -> Small:
    from advanced_alchemy.types.file_object import FileObject, storages

    if backend == "obstore":
        from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend

        storages.register_backend(ObstoreBackend(key="files", fs=store.obstore()))
    else:
        from advanced_alchemy.types.file_object.backends.fsspec import FSSpecBackend

        storages.register_backend(FSSpecBackend(key="files", fs=store.s3fs(), prefix=store.bucket))

    def put() -> Awaitable[Any]:
        return FileObject(backend="files", filename=uuid4().hex, content=content).save_async()

    return _numbered_async(put, FileObject.get_content_async, len(content))


@contextmanager
def many(task: Task, open_store: Callable[[Store, bytes], Small], verb: str) -> Iterator[Work]:
    content = Path(task["source"]).read_bytes()
    count = task["count"]
    with reached(task) as store:
        small = open_store(store, content)

        def put() -> int:
            small.put(count)
            return int(count)

        def get() -> int:
            small.get(count)
            return int(count)

        if verb == "get":
            small.put(AT_ONCE)
            yield Work(get, warm_up=get, check=lambda: check_objects(store, task["sha256"], AT_ONCE))
        else:
            yield Work(
                put,
                warm_up=lambda: (small.put(AT_ONCE), small.get(1)),
                prepare=partial(empty, store),
                check=lambda: check_objects(store, task["sha256"], count),
            )


def small_ones(verb: str, *, count: int, rounds: int, quick: bool) -> Case:
    chosen = part(quick=quick)

    def contender(name: str, open_store: Callable[..., Small], **options: Any) -> Contender:
        make = partial(many, open_store=open_store, verb=verb)
        return Contender(name, make, missing=why_missing(chosen), **options)

    return Case(
        "s3",
        f"{verb} of 4 KiB, {AT_ONCE} at once, TLS, {chosen}",
        [
            contender("obstore, unsigned", obstore_small, kind="floor", needs=("obstore",), note="no hash"),
            contender("granite, threads", granite_small, kind="ours", needs=("boto3",)),
            contender("granite, async", granite_async_small, kind="ours", needs=("boto3",)),
            contender("granite, obstore, threads", granite_obstore_small, kind="ours", needs=("obstore",)),
            contender("granite, obstore, async", granite_obstore_async_small, kind="ours", needs=("obstore",)),
            contender("granite-storage, threads", granite_storage_small, needs=("granite_storage",)),
            contender("boto3, threads", boto3_small, needs=("boto3",), note="no hash"),
            contender("s3fs, async", s3fs_small, needs=("s3fs",), note="no hash"),
            contender(
                "advanced-alchemy, obstore",
                partial(advanced_alchemy_small, backend="obstore"),
                needs=("obstore",),
                note="no hash",
            ),
            contender(
                "advanced-alchemy, s3fs",
                partial(advanced_alchemy_small, backend="fsspec"),
                needs=("s3fs",),
                note="no hash",
            ),
        ],
        baseline="boto3, threads",
        values={"size": 4 * KIB, "count": count, "part": chosen},
        rounds=rounds,
        unit="object",
        set_up=None if why_missing(chosen) else set_up,
        goals=[
            *(Goal(f"granite, {way}", 0.1) for way in ("threads", "async")),
            *(Goal(f"granite, obstore, {way}", 0.1) for way in ("threads", "async")),
        ],
    )


def cases(*, quick: bool) -> list[Case]:
    if quick:
        return [
            stream(9 * MIB, rounds=1, quick=True),
            *(small_ones(each, count=32, rounds=1, quick=True) for each in VERBS),
        ]
    return [
        stream(256 * MIB, rounds=5, quick=False),  # the store keeps all of it in memory, and eight take turns
        *(small_ones(each, count=640, rounds=5, quick=False) for each in VERBS),
    ]


VERBS = ("put", "get")

__all__ = ["cases"]
