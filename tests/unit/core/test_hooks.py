"""Hooks of a policy: before an upload, and in both colours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from granite_core import (
    Announcement,
    AsyncStorageManager,
    Committed,
    ConfigurationError,
    ContentRejectedError,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    UploadDeniedError,
    ValidationFailedError,
)

SEEN: Any = None


class World:
    def __init__(self, *hooks: Any, **policy: Any) -> None:
        self.backend = MemoryStorageBackend()
        self.manager = StorageManager({"main": self.backend}, [StoragePolicy("notes", before_upload=hooks, **policy)])
        self.events: list[Any] = []
        self.manager.listen(self.events.append)

    @property
    def is_empty(self) -> bool:
        return not [*self.backend.iter_locations()]


class Stream:
    """Notices whether anybody reads."""

    def __init__(self) -> None:
        self.was_read = False

    def read(self, size: int = -1) -> bytes:
        first, self.was_read = not self.was_read, True
        return b"hello" if first else b""

    async def chunks(self) -> AsyncIterator[bytes]:
        self.was_read = True
        yield b"hello"


def deny(announced: Announcement) -> None:
    raise UploadDeniedError("not you", operation="put")


async def deny_later(announced: Announcement) -> None:
    await asyncio.sleep(0)
    raise ValueError("not now")


VERBS = ["put", "put_stream", "put_bytes", "copy", "chunks"]


async def store(world: World, verb: str, colour: str, stream: Stream, **options: Any) -> Any:
    manager: Any = world.manager if colour == "sync" else AsyncStorageManager(world.manager)
    if verb == "put":
        result = manager.put("notes", stream, **options)
    elif verb == "put_stream":
        result = manager.put_stream("notes", stream=stream, **options)
    elif verb == "put_bytes":
        result = manager.put_bytes("notes", content=b"hello", **options)
    elif verb == "chunks":
        result = manager.put_stream("notes", stream=stream.chunks(), **options)
    else:
        stored = StorageManager({"main": world.backend}, [StoragePolicy("notes")]).put("notes", b"hello")
        result = manager.copy(stored, **options)
    return await result if colour == "async" else result


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_hook_refuses_before_a_byte_is_read(verb: str, colour: str) -> None:
    if verb == "chunks" and colour == "sync":
        return
    world, stream = World(deny), Stream()
    with pytest.raises(UploadDeniedError):
        await store(world, verb, colour, stream)
    assert not stream.was_read
    assert len([*world.backend.iter_locations()]) == (verb == "copy")
    assert [(each.name, each.code, each.field) for each in world.events] == [("refused", "upload_denied", "notes")]


async def test_an_asynchronous_hook_is_awaited_and_what_it_says_is_told_by_field() -> None:
    world = World(deny_later)
    with pytest.raises(ValidationFailedError, match="avatar: not now"):
        await AsyncStorageManager(world.manager).put("notes", b"x", field="avatar")
    with pytest.raises(ConfigurationError, match="asynchronous"):
        world.manager.put("notes", b"x")
    assert world.is_empty
    with pytest.raises(ValidationFailedError):
        await asyncio.to_thread(world.manager.put, "notes", b"x")


async def test_a_hook_is_told_what_is_announced_and_asked_once() -> None:
    told: list[Announcement] = []
    world = World(told.append, key_template="{tenant}")
    options: Any = {"original_filename": "../a b.txt", "content_type": "Text/Plain; x", "context": {"tenant": "acme"}}
    world.manager.put("notes", b"hello", **options)
    await AsyncStorageManager(world.manager).put("notes", b"hello", **options)
    with world.manager.stage("notes", field="f", context={"tenant": "acme"}) as write:
        write.begin()
        write.write(b"a")
        write.write(b"b")
        write.commit()
    first = Announcement(
        storage_key="notes",
        field="notes",
        filename="a b.txt",
        content_type="text/plain",
        size=5,
        context={"tenant": "acme"},
    )
    assert told == [first, first, Announcement(storage_key="notes", field="f", context={"tenant": "acme"})]
    assert told[0].connection is None


async def test_synchronous_hooks_run_in_threads() -> None:
    threads: list[Any] = []
    world = World(lambda announced: threads.append(threading.current_thread()))
    await AsyncStorageManager(world.manager).put("notes", b"hello")
    assert threads[0] is not threading.main_thread()


async def test_an_empty_file_is_asked_for_too() -> None:
    for colour in ("sync", "async"):
        world = World(deny)
        manager: Any = world.manager if colour == "sync" else AsyncStorageManager(world.manager)
        with pytest.raises(UploadDeniedError):
            result = manager.put("notes", b"")
            await result
        assert world.is_empty


def test_what_announces_too_much_is_refused_before_the_hooks_are_asked() -> None:
    world = World(deny, max_size=3)
    with pytest.raises(ContentRejectedError) as caught:
        world.manager.put("notes", b"hello")
    assert caught.value.code == "content_too_large"


def test_hooks_must_be_functions() -> None:
    for name in ("before_upload", "after_commit"):
        with pytest.raises(ConfigurationError, match=name):
            StoragePolicy("x", **{name: ["no function"]})  # type: ignore[arg-type]  # what is refused


class TestAfterCommit:
    """What the integration with SQLAlchemy calls; see tests/integration/sqlalchemy/test_hooks.py."""

    async def test_hooks_fail_alone_and_are_waited_for(self, caplog: pytest.LogCaptureFixture) -> None:
        done: list[str] = []

        def fails(committed: Committed) -> None:
            raise RuntimeError("of its own")

        async def awaited(committed: Committed) -> None:
            await asyncio.sleep(0.05)
            done.append("awaited")

        def called(committed: Committed) -> None:
            done.append("called")

        world = World(after_commit=[fails, awaited, called])
        ref = world.manager.put("notes", b"x")
        world.manager.tell_committed(Committed(ref=ref, field="a.b"))
        assert await AsyncStorageManager(world.manager).wait_for_hooks(timedelta(seconds=20))
        assert sorted(done) == ["awaited", "called"]
        assert [record.name for record in caplog.records] == ["granite.hooks"]
        assert ref.location not in caplog.text

    def test_waiting_has_an_end(self) -> None:
        go = threading.Event()
        world = World(after_commit=[lambda committed: go.wait(20)])
        world.manager.tell_committed(Committed(ref=world.manager.put("notes", b"x"), field=None))
        assert not world.manager.wait_for_hooks(timedelta(seconds=0.05))
        go.set()
        assert world.manager.wait_for_hooks()
