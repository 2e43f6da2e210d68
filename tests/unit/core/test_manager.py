"""The manager's verbs, in both colours."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import threading
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import DeclarativeBase

from granite_core import (
    AsyncStorageManager,
    BackendUnavailableError,
    ChecksumMismatchError,
    ConfigurationError,
    ContentTooLargeError,
    ContentTypeNotAllowedError,
    InvalidKeyError,
    MemoryStorageBackend,
    ObjectNotFoundError,
    StorageError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.testing.faults import FaultyBackend

MB = 1024 * 1024


class Pipe:
    """Can be read, and nothing else; counts."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self.taken = 0
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        data = self._content.read(size)
        self.taken += len(data)
        return data

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(MemoryStorageBackend())


@pytest.fixture
def manager(backend: FaultyBackend) -> StorageManager:
    return StorageManager(
        {"main": backend, "cold": MemoryStorageBackend()},
        {
            "documents": StoragePolicy("documents", "main", max_size=2 * MB, key_prefix="docs"),
            "images": StoragePolicy("images", "main", content_types=["image/*"]),
            "archive": StoragePolicy("archive", "cold"),
        },
    )


@pytest.fixture
def aio(manager: StorageManager) -> AsyncStorageManager:
    return AsyncStorageManager(manager)


def stored(backend: FaultyBackend) -> list[str]:
    return [*backend.inner.iter_locations()]


class TestStoring:
    def test_a_ref_says_what_was_stored(self, manager: StorageManager) -> None:
        ref = manager.put_bytes("documents", "user", "42", "cv", content=b"hello", original_filename="../My CV.TXT")
        assert ref.location.startswith("docs/user/42/cv/")
        assert ref.location.endswith(".txt")
        assert (ref.storage_key, ref.backend, ref.size) == ("documents", "main", 5)
        assert ref.checksum == f"sha256:{hashlib.sha256(b'hello').hexdigest()}"
        assert (ref.content_type, ref.original_filename) == ("text/plain", "My CV.TXT")
        assert ref.created_at is not None
        assert ref.created_at.endswith("Z")
        manager.verify(ref)

    def test_a_stream_is_read_to_its_end_and_never_closed(self, manager: StorageManager) -> None:
        stream = Pipe(b"x" * MB + b"y")
        ref = manager.put_stream("documents", stream=stream, original_filename="a")
        assert (ref.size, stream.closed) == (MB + 1, False)
        manager.verify(ref)

    def test_max_size_stops_the_reading_and_nothing_remains(
        self, manager: StorageManager, backend: FaultyBackend
    ) -> None:
        stream = Pipe(b"x" * 50 * MB)
        with pytest.raises(ContentTooLargeError) as caught:
            manager.put_stream("documents", stream=stream)
        assert (caught.value.limit, caught.value.field) == (2 * MB, "documents")
        assert stream.taken <= 3 * MB
        assert stored(backend) == []
        assert backend.open_writers == 0

    def test_exactly_max_size_is_allowed(self, manager: StorageManager) -> None:
        assert manager.put_bytes("documents", content=b"x" * 2 * MB).size == 2 * MB

    def test_a_type_that_is_not_accepted_is_refused_by_what_the_bytes_are(
        self, manager: StorageManager, backend: FaultyBackend
    ) -> None:
        with pytest.raises(ContentTypeNotAllowedError) as caught:
            manager.put_bytes("images", content=b"<html>", content_type="image/png", original_filename="a.png")
        assert caught.value.value == "text/html"
        assert stored(backend) == []
        assert "open_writer" not in {operation for operation, _ in backend.log}

    @pytest.mark.parametrize("announced", [{"expected_size": 4}, {"checksum": "sha256:" + "0" * 64}])
    def test_what_is_announced_is_checked(
        self, manager: StorageManager, backend: FaultyBackend, announced: dict[str, Any]
    ) -> None:
        with pytest.raises(ChecksumMismatchError), manager.stage("documents", **announced) as write:
            write.write(b"hello")
            write.commit()
        assert stored(backend) == []

    def test_a_write_that_is_left_without_commit_leaves_nothing(
        self, manager: StorageManager, backend: FaultyBackend
    ) -> None:
        with manager.stage("documents") as write:
            write.write(b"x" * MB)
        assert (stored(backend), backend.open_writers) == ([], 0)
        with pytest.raises(StorageError):
            write.write(b"more")

    @pytest.mark.parametrize("operation", ["open_writer", "write", "commit"])
    def test_a_backend_that_fails_leaves_nothing(
        self, manager: StorageManager, backend: FaultyBackend, operation: Any
    ) -> None:
        backend.fail(operation)
        with pytest.raises(BackendUnavailableError):
            manager.put_bytes("documents", content=b"hello")
        assert (stored(backend), backend.open_writers) == ([], 0)

    def test_a_stream_that_fails_leaves_nothing(self, manager: StorageManager, backend: FaultyBackend) -> None:
        class Broken(Pipe):
            def read(self, size: int = -1, /) -> bytes:
                if self.taken:
                    raise ConnectionResetError
                return super().read(size)

        with pytest.raises(ConnectionResetError):
            manager.put_stream("documents", stream=Broken(b"x" * MB))
        assert (stored(backend), backend.open_writers) == ([], 0)

    @pytest.mark.parametrize("piece", ["..", "a/b", ""])
    def test_traversal_is_refused(self, manager: StorageManager, backend: FaultyBackend, piece: str) -> None:
        with pytest.raises(InvalidKeyError):
            manager.put_bytes("documents", "user", piece, "cv", content=b"x")
        assert stored(backend) == []

    @pytest.mark.parametrize("entity_id", [42, UUID(int=42), "42"])
    def test_a_primary_key_of_any_type_is_a_part_of_the_key(self, manager: StorageManager, entity_id: object) -> None:
        ref = manager.put_bytes("documents", "user", entity_id, "cv", content=b"x")
        assert ref.location.startswith(f"docs/user/{entity_id}/cv/")

    def test_what_is_extra_stays_with_the_ref_as_it_was_then(self, manager: StorageManager) -> None:
        extra = {"owner": {"id": 1}, "tags": ("a", "b")}
        refs = [
            manager.put_bytes("documents", content=b"x", extra=extra),
            manager.put_stream("documents", stream=Pipe(b"x"), extra=extra),
        ]
        extra["owner"] = None
        assert [ref.to_dict()["extra"] for ref in refs] == [{"owner": {"id": 1}, "tags": ["a", "b"]}] * 2

    async def test_what_is_extra_stays_with_the_ref_of_asynchronous_callers(self, aio: AsyncStorageManager) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        for ref in (
            await aio.put_bytes("documents", content=b"x", extra={"a": 1}),
            await aio.put_stream("documents", stream=io.BytesIO(b"x"), extra={"a": 1}),
            await aio.put_stream("documents", stream=chunks(), extra={"a": 1}),
        ):
            assert ref.extra == {"a": 1}

    @pytest.mark.parametrize("extra", [{"a": object()}, {"a": float("nan")}, {"a": b"x"}])
    def test_what_a_column_cannot_keep_is_refused_before_anything_is_stored(
        self, manager: StorageManager, backend: FaultyBackend, extra: dict[str, Any]
    ) -> None:
        with pytest.raises(TypeError, match="JSON"):
            manager.put_bytes("documents", content=b"x", extra=extra)
        assert stored(backend) == []

    def test_a_text_stream_is_refused(self, manager: StorageManager) -> None:
        with pytest.raises(TypeError, match="binary"):
            manager.put_stream("documents", stream=io.StringIO("text"))  # type: ignore[arg-type]

    def test_buffers_may_be_used_again_by_the_caller(self, manager: StorageManager) -> None:
        buffer = bytearray(b"first")
        with manager.stage("documents") as write:
            write.write(memoryview(buffer))
            buffer[:] = b"other"
            assert manager.get(write.commit()) == b"first"


class TestReading:
    def test_open_serves_libraries_that_seek(self, manager: StorageManager) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a.csv", "x,y\n1,2\n")
        ref = manager.put_bytes("documents", content=packed.getvalue(), original_filename="a.zip")
        with manager.open(ref) as file, zipfile.ZipFile(file) as archive:
            rows = list(csv.reader(io.TextIOWrapper(archive.open("a.csv"))))
        assert rows == [["x", "y"], ["1", "2"]]

    def test_open_takes_offset_and_length(self, manager: StorageManager) -> None:
        ref = manager.put_bytes("documents", content=b"0123456789")
        assert manager.open(ref, offset=3, length=4).read() == b"3456"
        assert manager.open(ref, offset=8).read() == b"89"
        assert manager.open(ref, offset=99).read() == b""

    def test_absent_objects_are_told(self, manager: StorageManager) -> None:
        ref = manager.put_bytes("documents", content=b"x")
        manager.delete(ref)
        manager.delete(ref)
        assert not manager.exists(ref)
        for verb in (manager.get, manager.open, manager.stat, manager.verify, manager.copy):
            with pytest.raises(ObjectNotFoundError):
                verb(ref)

    def test_an_unreachable_backend_is_not_an_absent_object(
        self, manager: StorageManager, backend: FaultyBackend
    ) -> None:
        ref = manager.put_bytes("documents", content=b"x")
        backend.fail("stat")
        with pytest.raises(BackendUnavailableError):
            manager.exists(ref)

    def test_verify_finds_a_changed_byte(self, manager: StorageManager, backend: FaultyBackend) -> None:
        ref = manager.put_bytes("documents", content=b"hello")
        backend.inner.delete(ref.location)
        backend.inner.put_bytes(ref.location, b"hellO")
        with pytest.raises(ChecksumMismatchError):
            manager.verify(ref)

    @pytest.mark.parametrize("target", ["documents", "archive"])
    def test_a_copy_is_an_object_of_its_own(self, manager: StorageManager, target: str) -> None:
        ref = manager.put_bytes("documents", content=b"hello", original_filename="a.txt")
        copy = manager.copy(ref, target)
        manager.delete(ref)
        assert manager.get(copy) == b"hello"
        assert (copy.checksum, copy.size, copy.original_filename) == (ref.checksum, 5, "a.txt")
        manager.verify(copy)

    def test_a_copy_obeys_the_target_s_policy(self, manager: StorageManager) -> None:
        ref = manager.put_bytes("documents", content=b"hello")
        with pytest.raises(ContentTypeNotAllowedError):
            manager.copy(ref, "images")


class TestRefsOfGraniteStorage:
    """They name the kind of backend, ``local``, whatever its key; their object is where their policy says."""

    LOCATION = "docs/user/42-0a1b2c3d.txt"

    def ref(self, storage_key: str, location: str = LOCATION, backend: str = "local") -> StoredObjectRef:
        return StoredObjectRef(storage_key, backend, location, 3, created_at="2024-05-01T10:00:00.000000+00:00")

    @pytest.fixture
    def manager(self) -> StorageManager:
        backends = {"local": MemoryStorageBackend(), "cold": MemoryStorageBackend(), "s3": MemoryStorageBackend()}
        for key, backend in backends.items():
            backend.backend_name = "s3" if key == "s3" else "local"
            backend.put_bytes(self.LOCATION, key.encode())
        return StorageManager(
            backends,
            [StoragePolicy("documents", "local", key_prefix="docs"), StoragePolicy("archive", "cold")],
        )

    async def test_an_object_is_looked_for_in_its_policy_s_backend(self, manager: StorageManager) -> None:
        aio = AsyncStorageManager(manager)
        for storage_key, found in (("documents", b"local"), ("archive", b"cold")):
            for backend in ("local", "a class of their own"):
                ref = self.ref(storage_key, backend=backend)
                assert manager.get(ref) == await aio.get(ref) == manager.open(ref).read() == found
                assert manager.exists(ref)

    def test_a_policy_that_moved_to_another_kind_leaves_them_readable(self, manager: StorageManager) -> None:
        moved = StorageManager(manager.backends, [StoragePolicy("documents", "s3")])
        assert moved.get(self.ref("documents")) == b"local"

    def test_a_row_that_names_the_key_by_now_is_taken_at_its_word(self, manager: StorageManager) -> None:
        moved = StorageManager(manager.backends, [StoragePolicy("archive", "local")])
        assert moved.get(self.ref("archive", backend="cold")) == b"cold"

    def test_deleting_takes_the_object_of_its_policy_s_backend(self, manager: StorageManager) -> None:
        manager.delete(self.ref("archive"))
        assert [key for key, each in manager.backends.items() if each.exists(self.LOCATION)] == ["local", "s3"]

    def test_a_ref_of_ours_is_read_where_it_says(self, manager: StorageManager) -> None:
        ref = manager.put_bytes("archive", "user", 42, "file", content=b"x", original_filename="a.txt")
        moved = StorageManager(manager.backends, [StoragePolicy("archive", "local")])
        assert moved.get(ref) == b"x"

    def test_a_ref_whose_backend_and_policy_are_gone_is_refused(self, manager: StorageManager) -> None:
        with pytest.raises(ConfigurationError, match="no backend 'gcs'"):
            manager.get(self.ref("gone", "a/42-0a1b2c3d.txt", "gcs"))

    def test_a_policy_may_be_given_for_its_name(self, manager: StorageManager) -> None:
        policy = manager.get_policy("archive")
        assert manager.get_backend_for_policy(policy) is manager.get_backend_for_policy("archive")


class TestConfiguration:
    def test_a_policy_can_be_pointed_elsewhere_and_old_refs_stay_readable(self, manager: StorageManager) -> None:
        ref = manager.put_bytes("documents", content=b"old")
        moved = StorageManager(manager.backends, [StoragePolicy("documents", "cold")])
        new = moved.put_bytes("documents", content=b"new")
        assert (moved.get(ref), moved.get(new), new.backend) == (b"old", b"new", "cold")

    def test_override_replaces_a_backend_for_a_block(self, manager: StorageManager, backend: FaultyBackend) -> None:
        other = MemoryStorageBackend()
        with manager.override(main=other):
            ref = manager.put_bytes("documents", content=b"x")
            assert manager.exists(ref)
        assert not manager.exists(ref)
        assert stored(backend) == []
        with pytest.raises(ConfigurationError), manager.override(nope=other):
            pass

    @pytest.mark.parametrize(
        ("backends", "policies"),
        [
            ({}, [StoragePolicy("a", "main")]),
            ({"main": MemoryStorageBackend()}, {"b": StoragePolicy("a", "main")}),
            ({"main": MemoryStorageBackend()}, [StoragePolicy("a", "main"), StoragePolicy("a", "main")]),
        ],
    )
    def test_what_cannot_work_is_refused_at_once(self, backends: Any, policies: Any) -> None:
        with pytest.raises(ConfigurationError):
            StorageManager(backends, policies)

    def test_unknown_names_say_which_there_are(self, manager: StorageManager) -> None:
        with pytest.raises(ConfigurationError, match="'documents', 'images', 'archive'"):
            manager.put_bytes("nope", content=b"")

    @pytest.mark.parametrize(
        "options", [{"max_size": -1}, {"content_types": "image/png"}, {"key_prefix": "../x"}, {"storage_key": ""}]
    )
    def test_policies_refuse_nonsense(self, options: dict[str, Any]) -> None:
        with pytest.raises((ConfigurationError, InvalidKeyError)):
            StoragePolicy(**{"storage_key": "a", "backend_key": "b", **options})

    def test_register_wants_a_base(self, manager: StorageManager) -> None:
        class Base(DeclarativeBase):
            pass

        manager.register(Base)
        with pytest.raises(ConfigurationError):
            manager.register("Base")

    def test_grace_is_a_duration(self, manager: StorageManager) -> None:
        assert manager.attach_within == timedelta(minutes=30)
        with pytest.raises(ConfigurationError):
            StorageManager({}, [], grace=timedelta(0))


class TestAsync:
    async def test_the_same_verbs(self, aio: AsyncStorageManager) -> None:
        ref = await aio.put_bytes("documents", content=b"hello", original_filename="a.txt")
        assert await aio.exists(ref)
        assert (await aio.stat(ref)).size == 5
        assert await aio.get(ref) == b"hello"
        await aio.verify(ref)
        copy = await aio.copy(ref)
        async with await aio.open(copy, offset=1, length=3) as reader:
            assert (reader.size, await reader.read(2), await reader.read(), await reader.read()) == (
                5,
                b"el",
                b"l",
                b"",
            )
        await aio.delete(ref)
        assert not await aio.exists(ref)
        assert await aio.discard(copy)

    @pytest.mark.parametrize("kind", ["sync", "iterator", "reader"])
    async def test_streams_of_every_colour(self, aio: AsyncStorageManager, kind: str) -> None:
        class Reader:
            def __init__(self) -> None:
                self.inner = io.BytesIO(b"x" * MB)

            async def read(self, size: int = -1) -> bytes:
                return self.inner.read(size)

        async def iterator() -> AsyncIterator[bytes]:
            for _ in range(16):
                yield b"x" * (MB // 16)

        stream: Any = {"sync": Pipe(b"x" * MB), "iterator": iterator(), "reader": Reader()}[kind]
        ref = await aio.put_stream("documents", stream=stream)
        assert ref.size == MB
        await aio.verify(ref)

    async def test_a_limit_aborts(self, aio: AsyncStorageManager, backend: FaultyBackend) -> None:
        async with aio.stage("documents") as write:
            with pytest.raises(ContentTooLargeError):
                for _ in range(100):
                    await write.write(b"x" * 100_000)
        assert (stored(backend), backend.open_writers) == ([], 0)

    @pytest.mark.parametrize("operation", ["open_writer", "write", "commit"])
    async def test_a_cancelled_write_is_joined_and_leaves_nothing(
        self, aio: AsyncStorageManager, backend: FaultyBackend, operation: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        reached, go_on = threading.Event(), threading.Event()

        def stall() -> None:
            reached.set()
            go_on.wait(5)

        backend.call(operation, stall)

        async def work() -> None:
            async with aio.stage("documents") as write:
                await write.write(b"x" * MB)
                await write.commit()

        task = asyncio.create_task(work())
        await loop.run_in_executor(None, reached.wait, 5)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (stored(backend), backend.open_writers) == ([], 0)

    async def test_the_next_buffer_is_gathered_while_one_is_stored(
        self, aio: AsyncStorageManager, backend: FaultyBackend
    ) -> None:
        stored_one, go_on = threading.Event(), threading.Event()
        async with aio.stage("documents") as write:
            await write.write(b"a" * MB)
            backend.call("write", lambda: (stored_one.set(), go_on.wait(5)))
            await write.write(b"b" * (MB // 2))
            await write.write(b"c" * 1000)  # gathered, though the store has not taken what came before
            assert not go_on.is_set()
            await asyncio.get_running_loop().run_in_executor(None, stored_one.wait, 5)
            go_on.set()
            ref = await write.commit()
        assert await aio.get(ref) == b"a" * MB + b"b" * (MB // 2) + b"c" * 1000

    @pytest.mark.parametrize("then", ["write", "commit", "too much"])
    async def test_what_fails_behind_a_write_is_told_by_the_next_call(
        self, aio: AsyncStorageManager, backend: FaultyBackend, then: str
    ) -> None:
        async with aio.stage("documents") as write:
            await write.write(b"x" * MB)
            backend.fail("write")
            await write.write(b"x" * (MB // 2))
            with pytest.raises(BackendUnavailableError):
                await (write.commit() if then == "commit" else write.write(b"x" * (MB // 2 if then == "write" else MB)))
            assert (stored(backend), backend.open_writers) == ([], 0)

    @pytest.mark.parametrize("how", ["cancelled", "aborted", "too large"])
    async def test_what_is_being_stored_is_joined_before_a_write_is_given_up(
        self, aio: AsyncStorageManager, backend: FaultyBackend, how: str
    ) -> None:
        reached, go_on = threading.Event(), threading.Event()
        expected = {"cancelled": asyncio.CancelledError, "too large": ContentTooLargeError}.get(how, LookupError)

        async def work() -> None:
            async with aio.stage("documents") as write:
                await write.write(b"x" * MB)
                backend.call("write", lambda: (reached.set(), go_on.wait(5)))
                await write.write(b"x" * (MB // 2))
                if how == "too large":
                    await write.write(b"x" * MB)
                elif how == "cancelled":
                    await write.commit()
                raise LookupError

        task = asyncio.create_task(work())
        await asyncio.get_running_loop().run_in_executor(None, reached.wait, 5)
        if how == "cancelled":
            task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        go_on.set()
        with pytest.raises(expected):
            await task
        assert (stored(backend), backend.open_writers) == ([], 0)

    async def test_a_cancelled_put_lets_go_what_it_stored(
        self, aio: AsyncStorageManager, backend: FaultyBackend
    ) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(aio.put_bytes("documents", content=b"hello"))
        backend.call("commit", lambda: loop.call_soon_threadsafe(task.cancel))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stored(backend) == []

    async def test_a_cancelled_open_closes_what_it_opened(
        self, aio: AsyncStorageManager, backend: FaultyBackend
    ) -> None:
        ref = await aio.put_bytes("documents", content=b"hello")
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(aio.open(ref))
        backend.call("open_reader", lambda: loop.call_soon_threadsafe(task.cancel))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.calls["open_reader"] == 1
        assert backend.open_readers == 0

    async def test_a_slow_backend_does_not_block_the_loop(
        self, aio: AsyncStorageManager, backend: FaultyBackend
    ) -> None:
        release = threading.Event()
        backend.call("commit", lambda: release.wait(5))
        task = asyncio.create_task(aio.put_bytes("documents", content=b"hello"))
        await asyncio.sleep(0.02)
        release.set()  # only a loop that runs gets here
        assert (await task).size == 5
