"""Anything that can be stored, by both managers."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from granite_core import (
    AsyncStorageManager,
    ContentTooLargeError,
    ContentUnavailableError,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    from_data_uri,
)

TEXT = b"one two three\n" * 30_000
PIECES = [TEXT[at : at + 1000] for at in range(0, len(TEXT), 1000)]


class Pieces:
    """Gives bytes to asynchronous code, tells how far it was asked, and notices its end."""

    def __init__(self) -> None:
        self.given = 0
        self.ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for piece in PIECES:
                self.given += len(piece)
                yield piece
                await asyncio.sleep(0)
        finally:
            self.ended = True

    def plain(self) -> Iterator[bytes]:
        try:
            for piece in PIECES:
                self.given += len(piece)
                yield piece
        finally:
            self.ended = True


class Reader:
    """Asynchronous, and never closed by us."""

    def __init__(self) -> None:
        self._content = io.BytesIO(TEXT)
        self.closed = False

    async def read(self, size: int = -1) -> bytes:
        return self._content.read(size)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def backend() -> MemoryStorageBackend:
    return MemoryStorageBackend()


@pytest.fixture
def manager(backend: MemoryStorageBackend) -> StorageManager:
    return StorageManager({"main": backend}, [StoragePolicy("notes"), StoragePolicy("small", max_size=100_000)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "näme.txt").write_bytes(TEXT)
    return tmp_path / "näme.txt"


def sources(path: Path) -> dict[str, Callable[[], Any]]:
    return {
        "bytes": lambda: TEXT,
        "memoryview": lambda: memoryview(TEXT),
        "path": lambda: path,
        "stream": lambda: io.BytesIO(TEXT),
        "list": lambda: PIECES,
        "iterator": lambda: iter(PIECES),
        "generator": lambda: Pieces().plain(),
        "data": lambda: from_data_uri("data:," + TEXT.decode().replace(" ", "%20").replace("\n", "%0A")),
    }


KINDS = [*sources(Path())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("progress", [False, True])
async def test_both_managers_store_whatever_can_be_stored(
    manager: StorageManager, path: Path, kind: str, progress: bool
) -> None:
    told: list[tuple[int, int | None]] = []
    options: Any = {"progress": lambda done, total: told.append((done, total))} if progress else {}
    stored = manager.put("notes", sources(path)[kind](), **options)
    again = await AsyncStorageManager(manager).put("notes", sources(path)[kind](), **options)
    for each in (stored, again):
        assert (each.size, each.original_filename) == (len(TEXT), "näme.txt" if kind == "path" else None)
        assert manager.get(each) == TEXT
    if progress:
        total = None if kind in ("list", "iterator", "generator") else len(TEXT)
        half = told[: len(told) // 2]
        assert (half[0], half[-1]) == ((0, total), (len(TEXT), len(TEXT)))
        assert (told[len(half)], told[-1]) == ((0, total), (len(TEXT), len(TEXT)))


@pytest.mark.parametrize("kind", ["iterator", "reader", "stream-reader"])
async def test_asynchronous_streams_are_stored_by_the_asynchronous_manager(manager: StorageManager, kind: str) -> None:
    content: Any = {"iterator": lambda: Pieces().chunks(), "reader": Reader, "stream-reader": asyncio.StreamReader}[
        kind
    ]()
    if kind == "stream-reader":  # it can also be iterated over, by lines, which may be too long for it
        content.feed_data(TEXT.replace(b"\n", b" "))
        content.feed_eof()
    stored = await AsyncStorageManager(manager).put("notes", content, original_filename="a.txt")
    assert (stored.size, stored.original_filename) == (len(TEXT), "a.txt")
    if kind == "reader":
        assert not content.closed


async def test_an_asynchronous_stream_needs_an_asynchronous_manager(manager: StorageManager) -> None:
    with pytest.raises(TypeError, match="AsyncStorageManager"):
        manager.put("notes", Pieces().chunks())


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_an_iterator_is_read_no_further_than_the_limit_and_closed(
    manager: StorageManager, backend: MemoryStorageBackend, colour: str
) -> None:
    pieces = Pieces()
    with pytest.raises(ContentTooLargeError):
        if colour == "async":
            await AsyncStorageManager(manager).put("small", pieces.chunks())
        else:
            manager.put("small", pieces.plain())
    assert pieces.ended
    assert pieces.given == 101_000
    assert not list(backend.iter_locations())


async def test_a_cancelled_put_closes_its_iterator_and_leaves_nothing(
    manager: StorageManager, backend: MemoryStorageBackend
) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield TEXT
            asked.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(AsyncStorageManager(manager).put_stream("notes", stream=chunks()))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert not list(backend.iter_locations())


async def test_a_source_waits_while_what_came_is_stored(manager: StorageManager, backend: MemoryStorageBackend) -> None:
    """Back-pressure: no piece is asked for while the backend is busy."""
    pieces, stuck, go = Pieces(), threading.Event(), threading.Event()
    backend.executor().submit(lambda: (stuck.set(), go.wait(20)))
    for _ in range(backend.max_workers - 1):
        backend.executor().submit(go.wait, 20)
    stuck.wait(10)
    task = asyncio.create_task(AsyncStorageManager(manager).put("notes", pieces.chunks()))
    for _ in range(2000):
        await asyncio.sleep(0)
    held = pieces.given
    go.set()
    assert (await task).size == len(TEXT)
    assert held < 300_000


def test_paths_can_be_read_side_by_side(manager: StorageManager, path: Path) -> None:
    from granite_core.sources import Source

    source = Source(path)
    with source.open() as one, source.open() as other:
        assert one.stream.read(10) == other.stream.read(10)
        assert one.stream.read(10) == TEXT[10:20]


async def test_a_file_that_changes_while_it_is_read_is_refused(
    manager: StorageManager, backend: MemoryStorageBackend, path: Path
) -> None:
    def grow(done: int, total: int | None) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    for put in (manager.put, AsyncStorageManager(manager).put):
        with pytest.raises(ContentUnavailableError, match="changed"):
            result: Any = put("notes", path, progress=grow)
            if put != manager.put:
                await result
    assert not list(backend.iter_locations())


def test_what_is_no_file_is_not_waited_for(manager: StorageManager, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for each in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ContentUnavailableError, match="no file"):
            manager.put("notes", each)
    with pytest.raises(FileNotFoundError):
        manager.put("notes", tmp_path / "missing")


@pytest.mark.parametrize("content", ["a/path.txt", "https://example.org/", "data:,x", 7, None, io.StringIO("x")])
def test_what_cannot_be_meant_is_refused_and_the_right_way_named(manager: StorageManager, content: Any) -> None:
    with pytest.raises(TypeError, match="content must be"):
        manager.put("notes", content)


@pytest.mark.parametrize("content", [["text"], iter(["text"])])
def test_text_is_refused(manager: StorageManager, content: Any) -> None:
    with pytest.raises(TypeError, match="binary"):
        manager.put("notes", content)


class TestProgress:
    async def test_it_is_told_now_and_then_and_at_the_end(self, manager: StorageManager) -> None:
        told: list[tuple[int, int | None]] = []

        async def progress(done: int, total: int | None) -> None:
            await asyncio.sleep(0)
            told.append((done, total))

        await AsyncStorageManager(manager).put("notes", Pieces().chunks(), progress=progress)
        assert told[0] == (0, None)
        assert told[-1] == (len(TEXT), len(TEXT))
        assert len(told) < len(PIECES)

    def test_it_is_throttled(self) -> None:
        from granite_core.progress import Meter

        now, told = [0.0], []
        meter = Meter(lambda done, total: told.append(done), None, clock=lambda: now[0])
        for done in range(100):
            meter.tell(done)
            now[0] += 0.1
        meter.tell(100, at_end=True)
        assert told == [*range(0, 100, 3), 100]

    @pytest.mark.parametrize("at", ["beginning", "end"])
    @pytest.mark.parametrize("verb", ["put", "put_stream", "copy"])
    async def test_what_it_raises_ends_the_work_and_nothing_remains(
        self, manager: StorageManager, backend: MemoryStorageBackend, at: str, verb: str
    ) -> None:
        stored = manager.put("notes", TEXT)

        def stop(done: int, total: int | None) -> None:
            if (done > 0) == (at == "end"):
                raise InterruptedError

        for each in (manager, AsyncStorageManager(manager)):
            with pytest.raises(InterruptedError):
                arguments: Any = {"put": (TEXT,), "put_stream": (), "copy": ()}[verb]
                more: Any = {"stream": io.BytesIO(TEXT)} if verb == "put_stream" else {}
                first = stored if verb == "copy" else "notes"
                result = getattr(each, verb)(first, *arguments, progress=stop, **more)
                if each is not manager:
                    await result
        assert [*backend.iter_locations()] == [stored.location]

    def test_nobody_waits_for_an_asynchronous_one_in_synchronous_code(self, manager: StorageManager) -> None:
        async def progress(done: int, total: int | None) -> None: ...

        with pytest.raises(TypeError, match="synchronous"):
            manager.put("notes", b"x", progress=progress)

    async def test_a_copy_is_told_of(self, manager: StorageManager) -> None:
        told: list[tuple[int, int | None]] = []
        stored = manager.put("notes", TEXT)
        manager.copy(stored, progress=lambda *each: told.append(each))
        await AsyncStorageManager(manager).copy(stored, progress=lambda *each: told.append(each))
        assert (told[0], told[-1]) == ((0, len(TEXT)), (len(TEXT), len(TEXT)))
        assert told.count((0, len(TEXT))) == 2
