"""What goes wrong in a backend with seven methods, seen from above the adapter."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from granite_core import (
    AccessDeniedError,
    AsyncStorageManager,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    ContentTooLargeError,
    MemoryStorageBackend,
    ObjectNotFoundError,
    StorageError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    WriteOptions,
)
from granite_core.backends.adapter import AdaptedStorageBackend, adapted
from tests.support.seven_methods import Body, DictBackend, FolderBackend

MB = 1024 * 1024


def manage(inner: Any, **options: Any) -> StorageManager:
    return StorageManager({"main": inner}, [StoragePolicy("documents", "main", key_prefix="docs", **options)])


@pytest.fixture
def folder(tmp_path: Path) -> FolderBackend:
    return FolderBackend(tmp_path)


class TestThroughTheManager:
    def test_it_is_adapted_by_itself(self, folder: FolderBackend) -> None:
        manager = manage(folder)
        small = manager.put_bytes("documents", "user", 42, "cv", content=b"small", original_filename="a.txt")
        large = manager.put_stream("documents", stream=io.BytesIO(bytes(3 * MB)))
        assert (small.backend, manager.get(small), manager.open(large, offset=3 * MB - 2).read()) == (
            "main",
            b"small",
            bytes(2),
        )
        manager.verify(large)
        assert sorted(folder.iter_locations()) == sorted([small.location, large.location])
        copy = manager.copy(small)
        manager.delete(small)
        assert (manager.exists(small), manager.get(copy)) == (False, b"small")

    async def test_asynchronous_callers_are_served_alike(self, folder: FolderBackend) -> None:
        aio = AsyncStorageManager(manage(folder))
        ref = await aio.put_bytes("documents", content=b"12345")
        async with await aio.open(ref, offset=1, length=3) as reader:
            assert await reader.read() == b"234"

    def test_what_is_too_large_never_reaches_it(self, folder: FolderBackend) -> None:
        with pytest.raises(ContentTooLargeError):
            manage(folder, max_size=2 * MB).put_stream("documents", stream=io.BytesIO(bytes(3 * MB)))
        assert [*folder.iter_locations()] == []

    def test_a_test_may_put_one_in_the_place_of_another(self, folder: FolderBackend) -> None:
        manager = manage(MemoryStorageBackend())
        with manager.override(main=folder):
            ref = manager.put_bytes("documents", content=b"x")
        assert not manager.exists(ref)
        assert [*folder.iter_locations()] == [ref.location]

    def test_the_inner_backend_can_be_had_back(self, folder: FolderBackend) -> None:
        backend = manage(folder).get_backend_for_policy("documents")
        assert isinstance(backend, AdaptedStorageBackend)
        assert backend.inner is folder

    def test_metadata_that_the_policy_asks_for_is_handed_on(self) -> None:
        class Watched(DictBackend):
            seen: Any = None

            def put_bytes(self, *, extra: Any = None, **named: Any) -> StoredObjectRef:
                self.seen = extra
                return super().put_bytes(**named)

        inner = Watched()
        manage(inner, store=WriteOptions(metadata={"kind": "cv"})).put_bytes("documents", content=b"x")
        assert inner.seen == {"kind": "cv"}

    def test_what_has_less_than_the_seven_methods_is_refused(self) -> None:
        class Half:
            def get(self) -> None: ...
            def open(self) -> None: ...

        with pytest.raises(ConfigurationError, match=r"'main'.*Half lacks put_bytes, put_stream, delete"):
            manage(Half())


class TestFailures:
    @pytest.mark.parametrize("size", [10, 3 * MB])
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, ConnectionResetError, AccessDeniedError])
    def test_a_failing_write_leaves_nothing(self, tmp_path: Path, size: int, error: Any) -> None:
        class Breaks(FolderBackend):
            def put_stream(self, *, key: str, stream: BinaryIO, **described: Any) -> StoredObjectRef:
                super().put_stream(key=key, stream=io.BytesIO(stream.read(5)))
                raise error("broken")

        inner = Breaks(tmp_path)
        expected = {
            RuntimeError: BackendError,
            ConnectionResetError: BackendUnavailableError,
        }.get(error, error)
        with pytest.raises(expected) as caught:
            manage(inner).put_bytes("documents", content=bytes(size))
        assert type(caught.value) is expected
        assert [*inner.iter_locations()] == []

    def test_bytes_that_got_lost_are_missed(self, tmp_path: Path) -> None:
        class Loses(FolderBackend):
            def put_stream(self, *, stream: BinaryIO, size: Any = None, **named: Any) -> StoredObjectRef:
                return super().put_stream(stream=io.BytesIO(stream.read()[:-1]), **named)

        inner = Loses(tmp_path)
        with pytest.raises(BackendError, match="9 bytes were stored, 10 were sent"):
            manage(inner).put_bytes("documents", content=bytes(10))
        assert [*inner.iter_locations()] == []

    def test_a_backend_with_keys_of_its_own_is_refused(self, tmp_path: Path) -> None:
        class Renames(FolderBackend):
            def put_stream(self, *, key: str, **named: Any) -> StoredObjectRef:
                return super().put_stream(key=f"mine/{key}", **named)

        inner = Renames(tmp_path)
        manager = manage(inner)
        with pytest.raises(ConfigurationError, match="keys of its own"):
            manager.put_bytes("documents", content=b"x")
        with pytest.raises(ConfigurationError, match="keys of its own"):
            manager.get_backend("main").check()
        assert [*inner.iter_locations()] == []

    def test_a_sound_backend_passes_its_check(self, folder: FolderBackend) -> None:
        adapted("main", folder).check()
        assert [*folder.iter_locations()] == []

    def test_a_failure_is_told_apart_from_an_absence(self, tmp_path: Path) -> None:
        class Fails(FolderBackend):
            error: Exception = StorageError("cannot open")

            def open(self, ref: StoredObjectRef) -> BinaryIO:
                raise self.error

        inner = Fails(tmp_path)
        backend = adapted("main", inner)
        with pytest.raises(ObjectNotFoundError):
            backend.stat("a/b")
        inner.put_bytes(key="a/b", content=b"x")
        for error, expected in (
            (StorageError("cannot open"), BackendError),
            (TimeoutError(), BackendUnavailableError),
            (AccessDeniedError("no"), AccessDeniedError),
        ):
            inner.error = error
            with pytest.raises(StorageError) as caught:
                backend.open_reader("a/b")
            assert type(caught.value) is expected

    def test_who_cannot_be_asked_says_nothing_of_absence(self, tmp_path: Path) -> None:
        class Down(FolderBackend):
            def exists(self, ref: StoredObjectRef) -> bool:
                raise ConnectionError

        backend = adapted("main", Down(tmp_path))
        for ask in (backend.exists, backend.stat, backend.get):
            with pytest.raises(BackendUnavailableError):
                ask("a/b")

    def test_a_listing_that_breaks_does_not_end_in_silence(self, folder: FolderBackend) -> None:
        def broken(prefix: str | None = None) -> Iterator[str]:
            yield "a"
            raise ConnectionError

        folder.iter_locations = broken  # type: ignore[method-assign]
        with pytest.raises(BackendUnavailableError):
            [*adapted("main", folder).list_objects()]

    def test_a_body_that_breaks_off_is_an_error(self) -> None:
        class Cut(DictBackend):
            def open(self, ref: StoredObjectRef) -> BinaryIO:
                class Broken(Body):
                    def readinto(self, buffer: Any) -> int:
                        raise TimeoutError

                return Broken(b"")  # type: ignore[return-value]

        inner = Cut()
        inner.objects["a/b"] = b"x"
        with pytest.raises(BackendUnavailableError):
            adapted("main", inner).open_reader("a/b")


class TestIdentity:
    def test_it_is_the_backend_s_own_where_it_has_one(self, folder: FolderBackend) -> None:
        folder.identity = ("file", "/srv")  # type: ignore[attr-defined]
        assert adapted("main", folder).identity == ("file", "/srv")

    def test_else_two_keys_are_two_places_in_every_process(self, folder: FolderBackend) -> None:
        one, other = adapted("one", folder), adapted("other", folder)
        assert one.identity != other.identity
        assert one.identity == adapted("one", FolderBackend(Path("/elsewhere"))).identity
