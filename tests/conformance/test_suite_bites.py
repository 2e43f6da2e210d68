"""Backends that break the contract in one way each, and the test of the suite that says so."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from granite_core.backends.base import ObjectReader, ObjectStat, ObjectWriter, StorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.errors import AccessDeniedError, BackendError, ObjectNotFoundError, StorageError
from granite_core.refs import StoredObjectRef
from granite_core.testing import BackendConformance

_CAUGHT = (AssertionError, StorageError, ValueError, pytest.fail.Exception)


class Writer(ObjectWriter):
    """A writer to break: passes everything on."""

    def __init__(self, backend: Broken, location: str) -> None:
        self.backend = backend
        self.location = location
        self.inner = super(Broken, backend).open_writer(location)

    def write(self, data: Any, /) -> None:
        self.inner.write(data)

    def commit(self) -> None:
        self.inner.commit()

    def abort(self) -> None:
        self.inner.abort()


class Broken(MemoryStorageBackend):
    writer: type[Writer] = Writer

    def open_writer(self, location: str, **_: Any) -> ObjectWriter:
        return self.writer(self, location)

    def overwrite(self, location: str, content: bytes) -> None:
        MemoryStorageBackend.delete(self, location)
        self._store(location, content)


class IsVisibleWhileItIsWritten(Broken):
    class writer(Writer):
        content = b""

        def write(self, data: Any, /) -> None:
            self.content += bytes(data)
            self.backend.overwrite(self.location, self.content)

        def commit(self) -> None: ...


class KeepsWhatWasAborted(Broken):
    class writer(Writer):
        def abort(self) -> None:
            if self.inner._buffer:
                self.inner.commit()


class UndoesACommitByAnAbort(Broken):
    class writer(Writer):
        def abort(self) -> None:
            self.backend.delete(self.location)


class OverwritesATakenKey(Broken):
    class writer(Writer):
        def commit(self) -> None:
            self.backend.delete(self.location)
            self.inner.commit()


class KeepsTheCallersBuffer(Broken):
    class writer(Writer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.kept: list[Any] = []

        def write(self, data: Any, /) -> None:
            self.kept.append(data)

        def commit(self) -> None:
            for data in self.kept:
                self.inner.write(data)
            self.inner.commit()


class CutsLargeObjects(Broken):
    class writer(Writer):
        left = 8 * 1024 * 1024

        def write(self, data: Any, /) -> None:
            piece = memoryview(data).cast("B")[: self.left]
            self.left -= len(piece)
            self.inner.write(piece)


class HasNoEmptyObjects(Broken):
    class writer(Writer):
        def commit(self) -> None:
            if self.inner._buffer:
                self.inner.commit()


class TakesAPrefixForAFolder(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        folder = prefix and prefix.rstrip("/") + "/"
        return super().list_objects(prefix=folder, start_after=start_after)


class SortsByFolders(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        yield from sorted(super().list_objects(**arguments), key=lambda each: each.location.split("/"))


class SortsAsUTF16(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        yield from sorted(super().list_objects(**arguments), key=lambda each: each.location.encode("utf-16-be"))


class RepeatsTheKeyItStartsAfter(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        return (each for each in super().list_objects(prefix=prefix) if each.location >= (start_after or ""))


class ListsOnePage(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        return (each for _, each in zip(range(1000), super().list_objects(**arguments), strict=False))


class ListsWhatIsReserved(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        for key in list(self._keys):
            if key.decode().startswith(prefix):
                yield self._objects[key][1]


class ForgetsTheTimeZone(Broken):
    def stat(self, location: str) -> ObjectStat:
        found = super().stat(location)
        return ObjectStat(location, found.size, found.modified.replace(tzinfo=None))


class TakesAbsentForForbidden(Broken):
    def stat(self, location: str) -> ObjectStat:
        try:
            return super().stat(location)
        except ObjectNotFoundError:
            raise AccessDeniedError("forbidden", location=location) from None


class OpensAbsentObjects(Broken):
    def open_reader(self, location: str, **arguments: Any) -> ObjectReader:
        if not self.exists(location):
            MemoryStorageBackend.put_bytes(self, location, b"")
        return super().open_reader(location, **arguments)


class RefusesARangeBehindTheEnd(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        if offset >= self.stat(location).size > 0:
            raise BackendError("InvalidRange")
        return super().open_reader(location, offset=offset, length=length)


class ReadsOneByteTooMany(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        return super().open_reader(location, offset=offset, length=length and length + 1)


class MixesVersions(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        reader = super().open_reader(location, offset=offset, length=length)
        read = reader.read

        def live(size: int = -1, /) -> bytes:
            reader._content = self._find(location)[0]
            return read(size)

        reader.read = live  # type: ignore[method-assign]
        return reader


class ComplainsOfASecondDelete(Broken):
    def delete(self, location: str) -> None:
        self.stat(location)
        super().delete(location)


class DeletesWholeFolders(Broken):
    def delete(self, location: str) -> None:
        for each in list(self.list_objects(prefix=location)):
            super().delete(each.location)


class ClosesTheCallersStream(Broken):
    def put_stream(self, key: str, stream: Any, **arguments: Any) -> StoredObjectRef:
        ref = super().put_stream(key, stream, **arguments)
        stream.close()
        return ref


class ReadsTheStreamFromItsBeginning(Broken):
    def put_stream(self, key: str, stream: Any, **arguments: Any) -> StoredObjectRef:
        if isinstance(stream, io.BytesIO):
            stream.seek(0)
        return super().put_stream(key, stream, **arguments)


class BelievesWhatIsAnnounced(Broken):
    def put_stream(
        self, key: str, stream: Any, *, size: Any = None, checksum: Any = None, **named: Any
    ) -> StoredObjectRef:
        return super().put_stream(key, stream, **named)


class FoldsCase(Broken):
    def _store(self, location: str, content: bytes) -> None:
        super()._store(location.lower(), content)

    def _find(self, location: str) -> tuple[bytes, ObjectStat]:
        return super()._find(location.lower())


class LeavesAHalfCopy(Broken):
    def copy(self, source: str, target: str) -> None:
        MemoryStorageBackend.put_bytes(self, target, b"")
        content = self.get(source)
        self.overwrite(target, content)


CASES: list[tuple[type[StorageBackend], str, dict[str, Any]]] = [
    (IsVisibleWhileItIsWritten, "test_nothing_is_visible_before_commit", {}),
    (KeepsWhatWasAborted, "test_nothing_remains_after_abort", {"many_parts": False}),
    (UndoesACommitByAnAbort, "test_aborting_after_commit_changes_nothing", {}),
    (OverwritesATakenKey, "test_a_taken_key_is_not_overwritten", {"many_parts": False}),
    (OverwritesATakenKey, "test_of_many_writers_of_a_key_one_wins", {}),
    (KeepsTheCallersBuffer, "test_the_caller_may_reuse_its_buffer", {}),
    (CutsLargeObjects, "test_an_object_of_many_parts_comes_back_exactly", {}),
    (HasNoEmptyObjects, "test_an_object_may_be_empty", {}),
    (MemoryStorageBackend, "test_memory_does_not_grow_with_what_is_written", {}),
    (TakesAPrefixForAFolder, "test_a_prefix_is_a_string_and_no_folder", {}),
    (SortsByFolders, "test_objects_come_in_byte_order_of_their_keys", {}),
    (SortsAsUTF16, "test_objects_come_in_byte_order_of_their_keys", {}),
    (RepeatsTheKeyItStartsAfter, "test_a_listing_can_be_resumed_after_any_key", {}),
    (ListsOnePage, "test_more_objects_than_a_page_holds_are_each_listed_once", {}),
    (ListsWhatIsReserved, "test_reserved_keys_can_be_used_and_are_not_listed", {}),
    (ForgetsTheTimeZone, "test_stat_tells_size_and_time", {}),
    (TakesAbsentForForbidden, "test_an_absent_object_is_said_to_be_absent", {"key": "absent"}),
    (OpensAbsentObjects, "test_an_absent_object_is_said_to_be_absent", {"key": "absent"}),
    (RefusesARangeBehindTheEnd, "test_a_range_behind_the_end_is_empty", {"offset": 1000, "length": None}),
    (ReadsOneByteTooMany, "test_a_range_is_read_exactly", {"offset": 10, "length": 20}),
    (MixesVersions, "test_a_reader_sees_one_version_or_fails", {}),
    (ComplainsOfASecondDelete, "test_deleting_what_is_absent_is_no_error", {}),
    (DeletesWholeFolders, "test_deleting_touches_no_other_object", {}),
    (ClosesTheCallersStream, "test_a_stream_is_read_from_where_it_stands_and_stays_open", {}),
    (ReadsTheStreamFromItsBeginning, "test_a_stream_is_read_from_where_it_stands_and_stays_open", {}),
    (BelievesWhatIsAnnounced, "test_what_is_announced_is_not_believed", {"announced": {"size": 4}}),
    (FoldsCase, "test_keys_that_look_alike_are_different_objects", {}),
    (LeavesAHalfCopy, "test_copying_what_is_absent_leaves_nothing", {}),
]


@pytest.mark.parametrize(
    ("broken", "test", "arguments"), CASES, ids=[f"{broken.__name__}-{test[5:]}" for broken, test, _ in CASES]
)
def test_the_suite_catches_a_backend_that(broken: type[StorageBackend], test: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(_CAUGHT):
        getattr(BackendConformance(), test)(broken(), **arguments)


@pytest.mark.parametrize(("broken", "test", "arguments"), CASES[:8] + CASES[9:])
def test_what_caught_it_passes_a_sound_backend(
    broken: type[StorageBackend], test: str, arguments: dict[str, Any]
) -> None:
    getattr(BackendConformance(), test)(Broken(), **arguments)
