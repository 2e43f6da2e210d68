"""Objects in this process's memory: for tests and demonstrations."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from granite_core.backends.base import (
    NO_OPTIONS,
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    ResumableWriter,
    StorageBackend,
    WriteOptions,
    location_of,
)
from granite_core.errors import BackendError, ObjectExistsError, ObjectNotFoundError, UnfinishableError
from granite_core.keys import DIRECT, is_reserved
from granite_core.refs import StoredObjectRef

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MemoryStorageBackend"]


class MemoryStorageBackend(StorageBackend):
    """Keeps objects in a dictionary. They are gone with the process, and shared with no other one."""

    backend_name = "memory"
    capabilities = frozenset({Capability.ATOMIC_CREATE, Capability.SERVER_SIDE_COPY, Capability.RESUMABLE_WRITES})

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unfinished: dict[str, _Unfinished] = {}
        self._objects: dict[bytes, tuple[bytes, ObjectStat]] = {}
        self._keys: list[bytes] = []  # sorted: UTF-8 order is what a listing promises
        self._identity = ("memory", uuid4().hex)

    @property
    def identity(self) -> tuple[str, ...]:
        """A name of its own for each instance."""
        return self._identity

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return a writer that collects bytes until its commit."""
        return _MemoryWriter(self, location)

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or a range of it."""
        content, _ = self._find(location)
        return _MemoryReader(content, offset, length)

    def stat(self, location: str) -> ObjectStat:
        """Return size and time of an object."""
        return self._find(location)[1]

    def delete(self, location: str | StoredObjectRef) -> None:
        """Forget an object, by its key or ref."""
        key = location_of(location).encode()
        with self._lock:
            if self._objects.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """Yield objects in byte order of their keys."""
        first, last = prefix.encode(), (start_after or "").encode()
        while True:
            with self._lock:
                at = max(bisect_left(self._keys, first), bisect_right(self._keys, last))
                page = [self._objects[key][1] for key in self._keys[at : at + 1000] if key.startswith(first)]
            yield from (each for each in page if not is_reserved(each.location))
            if len(page) < 1000:
                return
            last = page[-1].location.encode()

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        """Store the same bytes under another key."""
        self._store(target, self._find(source)[0])

    def resume_writer(
        self,
        location: str,
        *,
        offset: int = 0,
        state: str | None = None,
        content_type: str | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ResumableWriter:
        """Go on with what an earlier go has collected."""
        with self._lock:
            mine = self._unfinished.setdefault(location, _Unfinished())
            if len(mine.content) < offset and not self._is_whole(location, offset):
                raise UnfinishableError("what was written is gone", backend="memory", location=location)
            del mine.content[offset:]
            mine.go += 1  # whoever wrote before writes no more
            return _MemoryResumableWriter(self, location, mine, offset)

    def discard_unfinished(self, location: str, state: str | None) -> None:
        """Forget what was collected."""
        with self._lock:
            self._unfinished.pop(location, None)

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """Forget what was collected for keys that nobody writes, or for uploads that nobody remembers."""
        before = datetime.now(UTC) - older_than
        with self._lock:
            old = [key for key, each in self._unfinished.items() if each.touched < before and key not in keep]
            for key in old:
                del self._unfinished[key]
            stats = [each for key, (_, each) in self._objects.items() if key.startswith(DIRECT.encode())]
            late = [each.location for each in stats if each.modified < before and each.location not in keep]
        for key in late:
            self.delete(key)
        return len(old) + len(late)

    def _is_whole(self, location: str, size: int) -> bool:
        return location.encode() in self._objects and len(self._objects[location.encode()][0]) == size

    def _find(self, location: str) -> tuple[bytes, ObjectStat]:
        try:
            return self._objects[location.encode()]
        except KeyError:
            raise ObjectNotFoundError("no such object", backend="memory", location=location) from None

    def _store(self, location: str, content: bytes) -> None:
        key = location.encode()
        stat = ObjectStat(location, len(content), datetime.now(UTC), hashlib.sha256(content).hexdigest())
        with self._lock:
            if key in self._objects:
                raise ObjectExistsError("the key is taken", operation="commit", backend="memory", location=location)
            self._objects[key] = (content, stat)
            insort(self._keys, key)


class _MemoryWriter(ObjectWriter):
    def __init__(self, backend: MemoryStorageBackend, location: str) -> None:
        self._backend = backend
        self._location = location
        self._buffer: bytearray | None = bytearray()

    def write(self, data: Buffer, /) -> None:
        if self._buffer is None:
            raise BackendError("the writer is closed", operation="write", backend="memory", location=self._location)
        self._buffer += memoryview(data).cast("B")

    def commit(self) -> None:
        if self._buffer is None:
            raise BackendError("the writer is closed", operation="commit", backend="memory", location=self._location)
        content, self._buffer = bytes(self._buffer), None
        self._backend._store(self._location, content)

    def abort(self) -> None:
        self._buffer = None


class _Unfinished(msgspec.Struct):
    content: bytearray = msgspec.field(default_factory=bytearray)
    touched: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    go: int = 0


class _MemoryResumableWriter(ResumableWriter):
    def __init__(self, backend: MemoryStorageBackend, location: str, mine: _Unfinished, offset: int) -> None:
        self.offset = offset
        self._backend = backend
        self._location = location
        self._mine = mine
        self._go = mine.go
        self._closed = False

    @property
    def state(self) -> str | None:
        return None

    def write(self, data: Buffer, /) -> None:
        view = memoryview(data).cast("B")
        with self._backend._lock:
            self._check_open("write")
            self._mine.content += view
            self._mine.touched = datetime.now(UTC)
        self.offset += len(view)

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        self._check_open("checkpoint")
        return "{}"

    def commit(self) -> None:
        self._check_open("commit")
        if not self._backend._is_whole(self._location, self.offset):
            self._backend._store(self._location, bytes(self._mine.content))
        self._closed = True
        self.stored_size = self._backend.stat(self._location).size
        self._backend.discard_unfinished(self._location, None)

    def close(self) -> None:
        self._closed = True

    def _check_open(self, operation: str) -> None:
        if self._closed or self._go != self._mine.go:
            raise BackendError("the writer is closed", operation=operation, backend="memory", location=self._location)


class _MemoryReader(ObjectReader):
    def __init__(self, content: bytes, offset: int, length: int | None) -> None:
        self.size = len(content)
        self._content = content
        self._position = min(offset, self.size)
        self._end = self.size if length is None else min(self.size, offset + length)

    def read(self, size: int = -1, /) -> bytes:
        end = self._end if size < 0 else min(self._end, self._position + size)
        data = self._content[self._position : end]
        self._position = max(self._position, end)
        return data

    def close(self) -> None:
        self._content = b""
        self._position = self._end = 0
