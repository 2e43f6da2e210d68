"""What is read is what was stored, or an error before the end."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granite_core import (
    AsyncStorageManager,
    ChecksumMismatchError,
    LocalStorageBackend,
    MemoryStorageBackend,
    ObjectNotFoundError,
    StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.testing import FaultyBackend

CONTENT = random.Random(7).randbytes(700_000)
SMALL = CONTENT[:1000]


def make_manager(backend: StorageBackend | None = None) -> tuple[StorageManager, FaultyBackend]:
    faulty = FaultyBackend(backend or MemoryStorageBackend())
    policies = [StoragePolicy("files", "main", verify_reads=True), StoragePolicy("plain", "main")]
    return StorageManager({"main": faulty}, policies), faulty


def spoil(backend: FaultyBackend, ref: StoredObjectRef, content: bytes) -> None:
    backend.inner.delete(ref.location)
    backend.inner.put_bytes(ref.location, content)


def changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


WRONG = {
    "first byte": changed(CONTENT, 0),
    "last byte": changed(CONTENT, -1 % len(CONTENT)),
    "cut": CONTENT[:-1],
    "longer": CONTENT + b"x",
    "empty": b"",
}


class TestSync:
    def test_what_was_stored_is_read(self) -> None:
        manager, backend = make_manager()
        ref = manager.put_bytes("files", content=CONTENT)
        assert manager.get(ref) == CONTENT
        with manager.open(ref) as file:
            assert file.read() == CONTENT
            assert file.read() == b""
        with manager.open(ref, offset=10, length=5) as file:
            assert file.read() == CONTENT[10:15]
        assert backend.open_readers == 0

    @pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
    def test_what_is_not_is_an_error_before_its_last_bytes(self, wrong: bytes) -> None:
        manager, backend = make_manager()
        ref = manager.put_bytes("files", content=CONTENT)
        spoil(backend, ref, wrong)
        with pytest.raises(ChecksumMismatchError) as caught:
            manager.get(ref)
        assert (caught.value.operation, caught.value.location) == ("read", ref.location)
        got = bytearray()
        with pytest.raises(ChecksumMismatchError), manager.open(ref) as file:
            while data := file.read(65_536):
                got += data
        assert len(got) < len(CONTENT)
        with pytest.raises(ChecksumMismatchError):
            manager.open(ref, offset=10, length=5)
        assert backend.open_readers == 0

    def test_a_policy_that_does_not_ask_for_it_is_not_asked(self) -> None:
        manager, backend = make_manager()
        ref = manager.put_bytes("plain", content=SMALL)
        spoil(backend, ref, changed(SMALL, 3))
        assert manager.get(ref) == changed(SMALL, 3)
        with pytest.raises(ChecksumMismatchError):
            manager.get(ref, verify=True)
        with pytest.raises(ChecksumMismatchError), manager.open(ref, verify=True) as file:
            file.read()

    def test_a_caller_may_do_without(self) -> None:
        manager, backend = make_manager()
        ref = manager.put_bytes("files", content=SMALL)
        spoil(backend, ref, changed(SMALL, 3))
        assert manager.get(ref, verify=False) == changed(SMALL, 3)
        assert manager.open(ref, verify=False).read() == changed(SMALL, 3)

    def test_a_library_that_begins_at_the_end_has_the_whole_read_before(self) -> None:
        manager, backend = make_manager()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a.bin", CONTENT)
            archive.writestr("b.txt", b"hello")
        ref = manager.put_bytes("files", content=packed.getvalue())
        with zipfile.ZipFile(manager.open(ref)) as archive:
            assert archive.read("b.txt") == b"hello"
        spoil(backend, ref, changed(packed.getvalue(), 1000))
        with pytest.raises(ChecksumMismatchError), manager.open(ref) as file:
            zipfile.ZipFile(file)

    def test_without_a_checksum_the_size_is_compared(self) -> None:
        manager, backend = make_manager()
        stored = manager.put_bytes("files", content=SMALL)
        ref = StoredObjectRef("files", "main", stored.location, len(SMALL))
        assert manager.get(ref) == SMALL
        spoil(backend, ref, SMALL[:-1])
        with pytest.raises(ChecksumMismatchError):
            manager.get(ref)

    def test_an_absent_object_is_absent(self) -> None:
        manager, _ = make_manager()
        ref = manager.put_bytes("files", content=SMALL)
        manager.delete(ref)
        for read in (manager.get, manager.open, lambda ref: manager.open(ref, offset=1)):
            with pytest.raises(ObjectNotFoundError):
                read(ref)

    @settings(max_examples=60)
    @given(
        content=st.binary(max_size=300),
        steps=st.lists(st.tuples(st.integers(0, 320), st.integers(0, 120)), max_size=8),
        flip=st.integers(0, 400),
    )
    def test_any_way_of_reading_gives_the_content_or_an_error(
        self, content: bytes, steps: list[tuple[int, int]], flip: int
    ) -> None:
        manager, backend = make_manager()
        ref = manager.put_bytes("files", content=content)
        is_spoilt = flip < len(content)
        if is_spoilt:
            spoil(backend, ref, changed(content, flip))
        # Unbuffered: what is read is what was asked for.
        buffered = manager.open(ref)
        file = buffered.raw  # type: ignore[attr-defined]
        expected = io.BytesIO(content)
        try:
            for position, size in steps:
                file.seek(position)
                expected.seek(position)
                got = file.read(size)
                if not is_spoilt:
                    assert expected.read(size).startswith(got)
                    assert got or position >= len(content) or not size
            file.seek(0)
            while file.read(100):
                pass
        except ChecksumMismatchError:
            assert is_spoilt
        else:
            assert not is_spoilt
        buffered.close()
        assert backend.open_readers == 0


class TestAsync:
    @pytest.fixture(params=["memory", "disk"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
        return MemoryStorageBackend() if request.param == "memory" else LocalStorageBackend(tmp_path)

    @pytest.mark.parametrize("content", [CONTENT, SMALL, b""])
    async def test_what_was_stored_is_read(self, store: StorageBackend, content: bytes) -> None:
        manager, backend = make_manager(store)
        files = AsyncStorageManager(manager)
        ref = await files.put_bytes("files", content=content)
        assert await files.get(ref) == content
        got = bytearray()
        async with await files.open(ref, length=len(content)) as reader:
            while data := await reader.read(65_536):
                got += data
        assert got == content
        async with await files.open(ref, offset=3, length=5) as reader:
            assert await reader.read() == content[3:8]
        assert backend.open_readers == 0

    @pytest.mark.parametrize("content", [CONTENT, SMALL])
    @pytest.mark.parametrize("at", [0, 500, -1])
    async def test_what_is_not_is_an_error_before_its_last_bytes(
        self, store: StorageBackend, content: bytes, at: int
    ) -> None:
        manager, backend = make_manager(store)
        files = AsyncStorageManager(manager)
        ref = await files.put_bytes("files", content=content)
        spoil(backend, ref, changed(content, at % len(content)))
        with pytest.raises(ChecksumMismatchError):
            await files.get(ref)
        got = bytearray()
        with pytest.raises(ChecksumMismatchError):
            async with await files.open(ref) as reader:
                while data := await reader.read(65_536):
                    got += data
        assert len(got) < len(content)
        with pytest.raises(ChecksumMismatchError):
            await files.open(ref, offset=3, length=5)
        assert backend.open_readers == 0


def test_a_backend_that_ends_early_is_noticed() -> None:
    class Short(MemoryStorageBackend):
        def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> Any:
            reader = super().open_reader(location, offset=offset, length=500)
            reader.size = len(SMALL)
            return reader

    manager, _ = make_manager(Short())
    ref = manager.put_bytes("files", content=SMALL)
    with pytest.raises(ChecksumMismatchError):
        manager.get(ref)
    with pytest.raises(ChecksumMismatchError), manager.open(ref) as file:
        file.read()
