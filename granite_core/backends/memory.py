"""Objects in this process's memory: for tests and demonstrations."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from granite_core.backends.base import (
    NO_OPTIONS,
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    StorageBackend,
    WriteOptions,
    location_of,
)
from granite_core.errors import BackendError, ObjectExistsError, ObjectNotFoundError
from granite_core.keys import is_reserved
from granite_core.refs import StoredObjectRef

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MemoryStorageBackend"]


class MemoryStorageBackend(StorageBackend):
    """Keeps objects in a dictionary. They are gone with the process, and shared with no other one."""

    backend_name = "memory"
    capabilities = frozenset({Capability.ATOMIC_CREATE, Capability.SERVER_SIDE_COPY})

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
