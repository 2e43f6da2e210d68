"""Objects in a dictionary, or whatever else has ``get``, ``pop`` and an atomic ``setdefault``: 43 lines of code."""

import io
from datetime import UTC, datetime

from granite_core import (
    BackendError,
    Capability,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    StorageBackend,
)
from granite_core.keys import is_reserved


class SmallBackend(StorageBackend):
    capabilities = frozenset({Capability.ATOMIC_CREATE})
    identity = ("small", "1")  # where the bytes are: the same for everyone who reaches them

    def __init__(self):
        self.objects = {}

    def find(self, location):
        if (found := self.objects.get(location)) is None:
            raise ObjectNotFoundError("no such object", location=location)
        return found

    def open_writer(self, location, **described):
        return SmallWriter(self, location)

    def open_reader(self, location, *, offset=0, length=None):
        return SmallReader(self.find(location)[0], offset, length)

    def stat(self, location):
        content, modified = self.find(location)
        return ObjectStat(location, len(content), modified)

    def delete(self, location):
        self.objects.pop(location, None)

    def list_objects(self, *, prefix="", start_after=None):
        for key in sorted([*self.objects], key=str.encode):
            if key.startswith(prefix) and key.encode() > (start_after or "").encode() and not is_reserved(key):
                yield self.stat(key)


class SmallWriter(ObjectWriter):
    def __init__(self, backend, location):
        self.backend, self.location, self.buffer = backend, location, bytearray()

    def write(self, data, /):
        if self.buffer is None:
            raise BackendError("the writer is closed", location=self.location)
        self.buffer += memoryview(data).cast("B")  # a copy: the caller uses its buffer again

    def commit(self):
        self.write(b"")
        mine, self.buffer = (bytes(self.buffer), datetime.now(UTC)), None
        if self.backend.objects.setdefault(self.location, mine) is not mine:
            raise ObjectExistsError("the key is taken", location=self.location)

    def abort(self):
        self.buffer = None


class SmallReader(ObjectReader):
    def __init__(self, content, offset, length):
        self.size, self.rest = len(content), io.BytesIO(content[offset:][:length])

    def read(self, size=-1, /):
        return self.rest.read(size)

    def close(self):
        self.rest = io.BytesIO()
