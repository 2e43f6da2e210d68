"""Reading, ranges, ``stat``, and what is told of an absent object."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.errors import ObjectNotFoundError, StorageError
from granite_core.testing.conformance.support import MIB, BackendTests, all_at_once, assert_same, memory_peak, noise

__all__ = ["ReadingTests"]

CONTENT = noise(1000)
RANGES = [(0, None), (0, 1), (1, 0), (0, 0), (10, 20), (999, 1), (999, 5), (500, None), (0, 1000), (0, 5000), (1, 999)]


class ReadingTests(BackendTests):
    """``open_reader``, ``stat``."""

    @pytest.mark.parametrize("key", ["absent", "a/absent", "a/b/absent", "a", "a/", "a/b"])
    def test_an_absent_object_is_said_to_be_absent(self, backend: StorageBackend, key: str) -> None:
        backend.put_bytes("a/b/c", b"abc")
        key = key.rstrip("/")
        assert backend.exists(key) is False
        for verb in (backend.stat, backend.open_reader, backend.get, backend.open):
            with pytest.raises(ObjectNotFoundError) as caught:
                verb(key)
            assert caught.value.location == key

    def test_an_absent_object_is_said_to_be_absent_for_ranges_too(self, backend: StorageBackend) -> None:
        for offset, length in RANGES:
            with pytest.raises(ObjectNotFoundError):
                backend.open_reader("absent", offset=offset, length=length)

    @pytest.mark.parametrize(("offset", "length"), RANGES)
    def test_a_range_is_read_exactly(self, backend: StorageBackend, offset: int, length: int | None) -> None:
        backend.put_bytes("a/b", CONTENT)
        with backend.open_reader("a/b", offset=offset, length=length) as reader:
            assert reader.size == 1000
            assert reader.read() == CONTENT[offset:][:length]
            assert reader.read() == reader.read(1) == b""

    @pytest.mark.parametrize("offset", [1000, 1001, 10**9])
    @pytest.mark.parametrize("length", [None, 0, 10])
    def test_a_range_behind_the_end_is_empty(self, backend: StorageBackend, offset: int, length: int | None) -> None:
        backend.put_bytes("a/b", CONTENT)
        with backend.open_reader("a/b", offset=offset, length=length) as reader:
            assert reader.size == 1000
            assert reader.read(10) == reader.read() == b""

    @pytest.mark.parametrize(("offset", "length"), [(0, None), (0, 5), (0, 0), (3, None), (3, 3)])
    def test_an_empty_object_has_only_empty_ranges(
        self, backend: StorageBackend, offset: int, length: int | None
    ) -> None:
        backend.put_bytes("a/b", b"")
        with backend.open_reader("a/b", offset=offset, length=length) as reader:
            assert reader.size == 0
            assert reader.read(1) == reader.read() == b""

    def test_reading_in_pieces_ends_only_at_the_end(self, backend: StorageBackend) -> None:
        content = noise(1_000_003)
        backend.put_bytes("a/b", content)
        for piece_size in (1, 4096, 65_536, 700_000, 10**7):
            start = 0 if piece_size > 1 else 990_000
            with backend.open_reader("a/b", offset=start) as reader:
                pieces = []
                while piece := reader.read(piece_size):
                    assert len(piece) <= piece_size
                    pieces.append(piece)
                assert_same(b"".join(pieces), content[start:])

    def test_reading_nothing_takes_nothing(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", CONTENT)
        with backend.open_reader("a/b") as reader:
            assert reader.read(0) == b""
            assert reader.read(10) == CONTENT[:10]
            assert reader.read(0) == b""
            assert reader.read() == CONTENT[10:]

    def test_a_range_across_parts_is_read_exactly(self, backend: StorageBackend) -> None:
        content = noise(self.large)
        backend.put_bytes("a/b", content)
        for offset, length in [(8 * MIB - 10, 20), (5 * MIB - 1, 4 * MIB), (self.large - 7, 100), (MIB, None)]:
            with backend.open_reader("a/b", offset=offset, length=length) as reader:
                assert_same(reader.read(), content[offset:][:length])

    def test_closing_twice_and_half_way_is_no_error(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", noise(self.large))
        reader = backend.open_reader("a/b")
        reader.read(10)
        reader.close()
        reader.close()

    def test_what_is_at_hand_is_what_comes_next(self, backend: StorageBackend) -> None:
        content = noise(100_000)
        backend.put_bytes("a/b", content)
        read = b""
        with backend.open_reader("a/b", offset=10, length=90_000) as reader:
            while len(read) <= 90_000 and (data := reader.read_at_hand(7000) or reader.read(7000)):
                read += data
        assert_same(read, content[10:90_010])
        backend.open_reader("a/b").close()

    def test_a_reader_sees_one_version_or_fails(self, backend: StorageBackend) -> None:
        old, new = noise(self.large, 1), noise(self.large, 2)
        backend.put_bytes("a/b", old)
        with backend.open_reader("a/b") as reader:
            start = reader.read(1000)
            backend.delete("a/b")
            backend.put_bytes("a/b", new)
            try:
                rest = b"".join(iter(lambda: reader.read(MIB), b""))
            except StorageError:
                return
        assert_same(start + rest, old)

    def test_many_readers_at_once_each_get_their_bytes(self, backend: StorageBackend) -> None:
        content = noise(300_000)
        backend.put_bytes("a/b", content)

        def work(number: int) -> bool:
            with backend.open_reader("a/b", offset=number * 1000, length=100_000) as reader:
                return b"".join(iter(lambda: reader.read(9_999), b"")) == content[number * 1000 :][:100_000]

        assert all(all_at_once(work, 48))

    def test_memory_does_not_grow_with_what_is_read(self, backend: StorageBackend) -> None:
        with backend.open_writer("a/b") as writer:
            for _ in range(64):
                writer.write(noise(MIB))
            writer.commit()
        with memory_peak() as peak, backend.open_reader("a/b") as reader:
            left = 64 * MIB
            while data := reader.read(MIB):
                left -= len(data)
            assert left == 0
            assert peak() < self.memory_limit

    def test_stat_tells_size_and_time(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", CONTENT)
        stat = backend.stat("a/b")
        assert (stat.location, stat.size) == ("a/b", 1000)
        assert stat.modified.tzinfo is not None
        assert abs(stat.modified - datetime.now(UTC)) < timedelta(hours=1)
        assert stat.etag is None or stat.etag

    def test_an_etag_changes_with_the_content(self, backend: StorageBackend) -> None:
        backend.put_bytes("a/b", b"first")
        backend.put_bytes("a/c", b"later")
        first = backend.stat("a/b").etag
        if first is None:
            pytest.skip("the backend has no etags")
        assert backend.stat("a/b").etag == first
        assert backend.stat("a/c").etag != first
