"""Content is hashed beside the writing of it, and is the same content."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from granite_core import (
    AsyncStorageManager,
    BackendError,
    MemoryStorageBackend,
    ObjectWriter,
    StorageManager,
    StoragePolicy,
)
from granite_core import _digest as digest_module
from granite_core._digest import OVERLAP_BYTES, PIECES_BEHIND, Digest

PIECE = os.urandom(OVERLAP_BYTES)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread to spare, whatever the machine has."""
    BEFORE.clear()
    BEFORE.update(threading.enumerate())
    monkeypatch.setattr(digest_module, "_processors", lambda: 2)
    monkeypatch.setattr(digest_module, "_known", [])
    yield
    for each in digest_module._known:
        if each._threads is not None:
            each._threads.shutdown()


BEFORE: set[threading.Thread] = set()
"""Those of other tests in this process."""


def hashing_threads() -> list[str]:
    found = [each for each in threading.enumerate() if each.name.startswith("granite-hash")]
    return [each.name for each in found if each not in BEFORE]


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [OVERLAP_BYTES - 1],
        [OVERLAP_BYTES],
        [OVERLAP_BYTES, 1, OVERLAP_BYTES],
        [1, OVERLAP_BYTES, OVERLAP_BYTES, 3, 0, OVERLAP_BYTES],
    ],
)
def test_it_is_that_of_all_pieces_in_their_order(sizes: list[int]) -> None:
    made, expected = Digest(), hashlib.sha256()
    for size in sizes:
        made.update(PIECE[:size])
        expected.update(PIECE[:size])
    assert made.hexdigest() == expected.hexdigest()


def test_small_content_needs_no_thread() -> None:
    made = Digest()
    for _ in range(10):
        made.update(b"x" * 1000)
    assert made.hexdigest() == hashlib.sha256(b"x" * 10_000).hexdigest()
    assert hashing_threads() == []


def test_no_more_threads_hash_than_there_are_processors_to_spare() -> None:
    several = [Digest() for _ in range(5)]
    for _ in range(3):
        for each in several:
            each.update(PIECE)
    assert {each.hexdigest() for each in several} == {hashlib.sha256(PIECE * 3).hexdigest()}
    assert len(hashing_threads()) == 1


def test_a_single_processor_hashes_where_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_module, "_processors", lambda: 1)
    made = Digest()
    made.update(PIECE)
    assert made.hexdigest() == hashlib.sha256(PIECE).hexdigest()
    assert hashing_threads() == []


def test_a_forked_process_has_threads_of_its_own() -> None:
    Digest().update(PIECE)
    child = os.fork()
    if not child:
        made = Digest()
        made.update(PIECE)
        os._exit(0 if made.hexdigest() == hashlib.sha256(PIECE).hexdigest() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_whoever_writes_may_be_some_pieces_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHash()
    monkeypatch.setattr(digest_module.hashlib, "sha256", lambda: slow)
    made, given = Digest(), threading.Semaphore(0)

    def write() -> None:
        for _ in range(PIECES_BEHIND + 1):
            made.update(PIECE)
            given.release()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(PIECES_BEHIND):
        assert given.acquire(timeout=20)
    assert not given.acquire(timeout=0.2)
    slow.go.set()
    assert given.acquire(timeout=20)
    writer.join(20)
    made.wait()


def test_a_digest_that_could_not_be_made_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(SlowHash):
        def update(self, data: bytes) -> None:
            raise MemoryError("no room")

    monkeypatch.setattr(digest_module.hashlib, "sha256", Failing)
    made = Digest()
    made.update(PIECE)
    made.wait()
    with pytest.raises(MemoryError, match="no room"):
        made.hexdigest()


class SlowHash:
    """Hashes when it is told to."""

    def __init__(self) -> None:
        self.began, self.go, self.ended = threading.Event(), threading.Event(), False

    def update(self, data: bytes) -> None:
        self.began.set()
        assert self.go.wait(20)
        self.ended = True

    def hexdigest(self) -> str:
        return ""


class FailingBackend(MemoryStorageBackend):
    """Cannot take the second piece."""

    def open_writer(self, location: str, **options: Any) -> ObjectWriter:
        writer = super().open_writer(location, **options)
        taken: list[int] = []
        write = writer.write

        def fail(data: Any, /) -> None:
            taken.append(1)
            if len(taken) == 2:
                raise BackendError("full", operation="write")
            write(data)

        writer.write = fail  # type: ignore[method-assign]
        return writer


def test_a_write_that_fails_leaves_nobody_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHash()
    monkeypatch.setattr(digest_module.hashlib, "sha256", lambda: slow)
    manager = StorageManager({"main": FailingBackend()}, [StoragePolicy("files", "main")])
    write = manager.stage("files")
    write.write(PIECE)
    assert slow.began.wait(20)
    threading.Timer(0.2, slow.go.set).start()
    write.abort()
    assert slow.ended


def test_a_stream_that_cannot_be_stored_raises_what_it_raised_before() -> None:
    backend = FailingBackend()
    manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
    with pytest.raises(BackendError, match="full"):
        manager.put_stream("files", stream=io.BytesIO(PIECE * 4))
    assert [*backend.iter_locations()] == []


async def test_a_cancelled_caller_leaves_nothing_and_nobody_at_work() -> None:
    backend = MemoryStorageBackend()
    manager = AsyncStorageManager(StorageManager({"main": backend}, [StoragePolicy("files", "main")]))
    reading, go = threading.Event(), threading.Event()

    class Stream:
        pieces = 0

        def read(self, size: int, /) -> bytes:
            self.pieces += 1
            if self.pieces == 3:
                reading.set()
                assert go.wait(20)
            return PIECE[:size] if self.pieces < 6 else b""

    task = asyncio.create_task(manager.put_stream("files", stream=Stream()))
    await asyncio.to_thread(reading.wait, 20)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [*backend.iter_locations()] == []
