"""The system gives no more threads, for a moment: what was handed to one is neither lost nor done twice."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import time
import weakref
from typing import NoReturn

import pytest

from granite_core import AsyncStorageManager, MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core import _digest as digest_module
from granite_core._digest import OVERLAP_BYTES, Digest
from granite_core._hops import hop

BUFFER = 256 * 1024


class Refusal:
    """The next threads of some name cannot be started (pthread_create(3), EAGAIN): no test may use up a machine's."""

    def __init__(self) -> None:
        self.of = ""
        self.refused = 0

    def give_none(self, name: str) -> None:
        self.of = name


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Refusal:
    found, start = Refusal(), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if found.of and thread.name.startswith(found.of):
            found.of, found.refused = "", found.refused + 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return found


async def test_an_upload_goes_on_with_what_it_had_when_no_thread_could_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStorageBackend()
    manager = StorageManager({"main": store}, [StoragePolicy("files", "main")])
    executor = store.executor()

    def refuse(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    async with AsyncStorageManager(manager).stage("files") as write:
        await write.write(b"a" * BUFFER)
        with monkeypatch.context() as fault:
            fault.setattr(executor, "submit", refuse)
            with pytest.raises(RuntimeError, match="thread"):
                await write.write(b"b" * BUFFER)
        await write.write(b"c" * BUFFER)
        staged = await write.commit()
    content = b"a" * BUFFER + b"b" * BUFFER + b"c" * BUFFER
    assert staged.size == len(content)
    assert manager.get(staged) == content
    assert staged.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"


async def test_a_call_that_no_thread_could_be_had_for_is_never_made(refusal: Refusal) -> None:
    """The pool of the standard library queues it before it starts a thread, and a later one finds it there."""
    store, made = MemoryStorageBackend(), list[str]()
    executor, released = store.executor(), threading.Event()
    busy = executor.submit(released.wait)
    refusal.give_none("granite")
    with pytest.raises(RuntimeError, match="thread"):
        await hop(store, made.append, "the one that was refused")
    released.set()
    await asyncio.wrap_future(busy)
    await hop(store, made.append, "the next")
    assert refusal.refused == 1
    assert made == ["the next"]


async def test_a_cancelled_call_that_failed_holds_nothing() -> None:
    """Or the buffers of an upload would stay until Python's garbage collector finds them."""

    class Buffer:
        pass

    def fail(_: Buffer) -> NoReturn:
        time.sleep(0.05)
        raise OSError

    async def call() -> None:
        buffer = Buffer()
        held.append(weakref.ref(buffer))
        await hop(store, fail, buffer)

    store, held = MemoryStorageBackend(), list[weakref.ref[Buffer]]()
    gc.disable()
    try:
        task = asyncio.create_task(call())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await hop(store, lambda: None)
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_checksum_is_right_when_no_thread_to_hash_could_be_had(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_module, "_processors", lambda: 4)
    monkeypatch.setattr(digest_module, "_known", [])
    other, made = Digest(), Digest()
    other.update(b"z" * 64 * OVERLAP_BYTES)  # one helper is busy
    pieces = [bytes([each]) * 16 * OVERLAP_BYTES for each in range(6)]
    refusal.give_none("granite-hash_1")
    for each in pieces:
        made.update(each)
    assert refusal.refused == 1
    assert made.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
    other.hexdigest()
    for each_pool in digest_module._known:
        if each_pool._threads is not None:
            each_pool._threads.shutdown()
