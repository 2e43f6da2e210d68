"""Writing, deleting, and what is left when it goes wrong."""

from __future__ import annotations

import array
import threading
from datetime import timedelta

import pytest

from granite_core.backends.base import Capability, StorageBackend, WriteOptions
from granite_core.errors import BackendError, ObjectExistsError, ObjectNotFoundError, StorageError
from granite_core.testing.conformance.support import MIB, BackendTests, all_at_once, assert_same, memory_peak, noise

__all__ = ["WritingTests"]


class InterruptionError(Exception):
    """Something that goes wrong outside the backend."""


class WritingTests(BackendTests):
    """``open_writer``, ``delete``, ``clear_unfinished``."""

    def test_a_committed_object_is_there_and_whole(self, backend: StorageBackend) -> None:
        writer = backend.open_writer(
            "a/b",
            content_type="text/plain",
            size=6,
            options=WriteOptions(metadata={"purpose": "test"}, tags={"kind": "test"}),
        )
        writer.write(b"abc")
        writer.write(b"def")
        writer.commit()
        assert backend.get("a/b") == b"abcdef"
        assert self.keys(backend) == ["a/b"]

    def test_nothing_is_visible_before_commit(self, backend: StorageBackend) -> None:
        with backend.open_writer("a/b") as writer:
            for size in (3, self.large):
                writer.write(noise(size))
                assert not backend.exists("a/b")
                with pytest.raises(ObjectNotFoundError):
                    backend.open_reader("a/b")
                assert self.keys(backend) == []

    @pytest.mark.parametrize("many_parts", [False, True])
    def test_nothing_remains_after_abort(self, backend: StorageBackend, many_parts: bool) -> None:
        writer = backend.open_writer("a/b")
        writer.write(noise(self.large) if many_parts else b"abc")
        writer.abort()
        assert not backend.exists("a/b")
        assert self.keys(backend) == []
        assert backend.clear_unfinished(timedelta(seconds=-60)) == 0

    def test_aborting_twice_is_no_error(self, backend: StorageBackend) -> None:
        writer = backend.open_writer("a/b")
        writer.write(b"abc")
        writer.abort()
        writer.abort()
        backend.open_writer("a/c").abort()
        assert self.keys(backend) == []

    def test_aborting_after_commit_changes_nothing(self, backend: StorageBackend) -> None:
        writer = backend.open_writer("a/b")
        writer.write(b"abc")
        writer.commit()
        writer.abort()
        writer.abort()
        assert backend.get("a/b") == b"abc"

    def test_leaving_a_writer_that_was_not_committed_aborts_it(self, backend: StorageBackend) -> None:
        with backend.open_writer("a/b") as writer:
            writer.write(b"abc")
        with pytest.raises(InterruptionError), backend.open_writer("a/c") as writer:
            writer.write(b"abc")
            raise InterruptionError
        assert self.keys(backend) == []

    def test_an_aborted_writer_takes_nothing_and_commits_nothing(self, backend: StorageBackend) -> None:
        writer = backend.open_writer("a/b")
        writer.write(b"abc")
        writer.abort()
        with pytest.raises(BackendError):
            writer.write(b"def")
        with pytest.raises(BackendError):
            writer.commit()
        assert self.keys(backend) == []

    def test_a_committed_writer_takes_nothing_more(self, backend: StorageBackend) -> None:
        writer = backend.open_writer("a/b")
        writer.write(b"abc")
        writer.commit()
        with pytest.raises(BackendError):
            writer.write(b"def")
        assert backend.get("a/b") == b"abc"

    def test_an_object_may_be_empty(self, backend: StorageBackend) -> None:
        with backend.open_writer("a/none") as writer:
            writer.commit()
        with backend.open_writer("a/nothing", size=0) as writer:
            writer.write(b"")
            writer.commit()
        for key in ("a/none", "a/nothing"):
            assert backend.stat(key).size == 0
            assert backend.get(key) == b""
        assert self.keys(backend) == ["a/none", "a/nothing"]

    def test_an_object_of_many_parts_comes_back_exactly(self, backend: StorageBackend) -> None:
        content = noise(self.large)
        steps = [1, 70_001, 1_234_567, 3 * MIB, 9 * MIB + 1]
        view, position = memoryview(content), 0
        with backend.open_writer("a/b") as writer:
            while position < len(content):
                step = steps[position % len(steps)]
                writer.write(view[position : position + step])
                position += step
            writer.commit()
        assert_same(backend.get("a/b"), content)
        assert backend.stat("a/b").size == len(content)

    def test_an_object_written_in_one_piece_comes_back_exactly(self, backend: StorageBackend) -> None:
        content = noise(self.large)
        assert backend.put_bytes("a/b", content).size == len(content)
        assert_same(backend.get("a/b"), content)

    def test_the_caller_may_reuse_its_buffer(self, backend: StorageBackend) -> None:
        content, buffer = noise(self.large), bytearray(256 * 1024)
        with backend.open_writer("a/b") as writer:
            for position in range(0, len(content), len(buffer)):
                piece = content[position : position + len(buffer)]
                buffer[: len(piece)] = piece
                writer.write(memoryview(buffer)[: len(piece)])
                buffer[:] = bytes(len(buffer))
            writer.commit()
        assert_same(backend.get("a/b"), content)

    def test_any_buffer_is_taken(self, backend: StorageBackend) -> None:
        with backend.open_writer("a/b") as writer:
            writer.write(b"bytes ")
            writer.write(bytearray(b"bytearray "))
            writer.write(memoryview(b"memoryview "))
            writer.write(array.array("H", [0x6161, 0x6262]))
            writer.write(memoryview(b"every other ")[::1])
            writer.commit()
        assert backend.get("a/b") == b"bytes bytearray memoryview aabbevery other "

    def test_a_writer_may_pass_from_thread_to_thread(self, backend: StorageBackend) -> None:
        content = noise(8 * 300_000)
        writer = backend.open_writer("a/b")
        for number in range(8):
            piece = content[number * 300_000 : (number + 1) * 300_000]
            thread = threading.Thread(target=writer.write, args=(piece,))
            thread.start()
            thread.join()
        writer.commit()
        assert_same(backend.get("a/b"), content)

    def test_memory_does_not_grow_with_what_is_written(self, backend: StorageBackend) -> None:
        piece = noise(MIB)
        with memory_peak() as peak, backend.open_writer("a/b") as writer:
            for _ in range(64):
                writer.write(piece)
            writer.commit()
            assert peak() < self.memory_limit

    def test_writers_of_different_keys_do_not_disturb_each_other(self, backend: StorageBackend) -> None:
        def work(number: int) -> None:
            # Few folders, so that those that are emptied are those that are written to.
            key = f"shared/{number % 3}/{number}"
            backend.put_bytes(key, noise(1000, number))
            if number % 2:
                backend.delete(key)

        all_at_once(work, 60)
        assert sorted(self.keys(backend)) == sorted(f"shared/{number % 3}/{number}" for number in range(0, 60, 2))
        for number in range(0, 60, 2):
            assert backend.get(f"shared/{number % 3}/{number}") == noise(1000, number)

    def test_an_aborted_writer_does_not_disturb_another_of_its_key(self, backend: StorageBackend) -> None:
        first, second = backend.open_writer("a/b"), backend.open_writer("a/b")
        first.write(noise(self.large, 1))
        second.write(b"second")
        first.abort()
        second.commit()
        first.abort()
        assert backend.get("a/b") == b"second"

    @pytest.mark.parametrize("many_parts", [False, True])
    def test_a_taken_key_is_not_overwritten(self, backend: StorageBackend, many_parts: bool) -> None:
        self.needs(backend, Capability.ATOMIC_CREATE)
        backend.put_bytes("a/b", b"first")
        with backend.open_writer("a/b") as writer:
            writer.write(noise(self.large) if many_parts else b"later")
            with pytest.raises(ObjectExistsError):
                writer.commit()
        assert backend.get("a/b") == b"first"
        assert self.keys(backend) == ["a/b"]
        assert backend.clear_unfinished(timedelta(seconds=-60)) == 0

    def test_of_many_writers_of_a_key_one_wins(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.ATOMIC_CREATE)
        barrier = threading.Barrier(8)

        def work(number: int) -> bool:
            with backend.open_writer("a/b") as writer:
                writer.write(noise(5000, number))
                barrier.wait(30)
                try:
                    writer.commit()
                except ObjectExistsError:
                    return False
                return True

        won = all_at_once(work, 8)
        assert won.count(True) == 1
        assert_same(backend.get("a/b"), noise(5000, won.index(True)))

    def test_a_stream_that_breaks_leaves_nothing(self, backend: StorageBackend) -> None:
        class Broken:
            left = self.large

            def read(self, size: int, /) -> bytes:
                if self.left <= 0:
                    raise InterruptionError
                self.left -= size
                return bytes(size)

        with pytest.raises(InterruptionError):
            backend.put_stream("a/b", Broken())
        assert self.keys(backend) == []
        assert backend.clear_unfinished(timedelta(seconds=-60)) == 0

    # -- delete --------------------------------------------------------------------------------------------------------

    def test_a_deleted_object_is_gone(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"abc")
        backend.delete("a/b")
        assert not backend.exists("a/b")
        assert self.keys(backend) == []

    def test_deleting_what_is_absent_is_no_error(self, backend: StorageBackend) -> None:
        backend.delete("a/b")
        backend.put_bytes("a/b", b"abc")
        backend.delete("a/b")
        backend.delete("a/b")
        backend.delete("a/c")

    def test_deleting_touches_no_other_object(self, backend: StorageBackend) -> None:
        kept = ["a/b/c", "a/b.txt", "a/bc", "a/c/d"]
        for key in (*kept, "a/b/x"):
            backend.put_bytes(key, key.encode())
        backend.delete("a/b/x")
        backend.delete("a/b")
        backend.delete("a/c")
        assert sorted(self.keys(backend)) == sorted(kept)
        assert [backend.get(key) for key in kept] == [key.encode() for key in kept]

    def test_deleting_many_deletes_each_and_no_other(self, backend: StorageBackend) -> None:
        going, kept = ["a/b/x", "b&c/<d>", " e", "f ", "f  g", "é", "a+b%20c"], ["a/b/c", "a/b.txt", "e", "f"]
        for key in (*going, *kept):
            backend.put_bytes(key, key.encode())
        assert backend.delete_many([*going, "a/b", "never/was"]) == {}
        assert sorted(self.keys(backend)) == sorted(kept)
        assert [backend.get(key) for key in kept] == [key.encode() for key in kept]

    def test_deleting_none_or_what_is_absent_is_no_error(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"abc")
        assert backend.delete_many([]) == {}
        assert backend.delete_many(["a/c"]) == {}
        assert backend.delete_many(["a/c", "a/d"]) == {}
        assert self.keys(backend) == ["a/b"]

    def test_more_can_be_deleted_than_a_request_names(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.BATCH_DELETE)
        backend.put_bytes("a/0000", b"first")
        backend.put_bytes(f"a/{self.many:04}", b"last")
        assert backend.delete_many([f"a/{number:04}" for number in range(self.many + 1)]) == {}
        assert self.keys(backend) == []

    # -- what dead writers left ----------------------------------------------------------------------------------------

    def test_clearing_touches_neither_objects_nor_a_writer_at_work(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"abc")
        with backend.open_writer("a/c") as writer:
            writer.write(noise(self.large))
            assert backend.clear_unfinished(timedelta(days=1)) == 0
            writer.commit()
        assert self.keys(backend) == ["a/b", "a/c"]
        assert_same(backend.get("a/c"), noise(self.large))

    def test_clearing_removes_what_a_dead_writer_left(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"abc")
        dead = backend.open_writer("a/c")
        dead.write(noise(self.large))
        backend.clear_unfinished(timedelta(seconds=-60))
        assert backend.clear_unfinished(timedelta(seconds=-60)) == 0
        assert self.keys(backend) == ["a/b"]
        try:
            dead.commit()
        except StorageError:
            assert not backend.exists("a/c")
        else:
            assert_same(backend.get("a/c"), noise(self.large))
        dead.abort()
        assert backend.get("a/b") == b"abc"
