"""Backends with granite-storage's seven methods, as its users write them: no inheritance, no more than asked for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from granite_core import StorageError, StoredObjectRef


class FolderBackend:
    """Files below a folder, written in place. A prefix is a folder; the order is the disk's."""

    backend_name = "folder"

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_bytes(self, *, key: str, content: bytes, **described: Any) -> StoredObjectRef:
        return self.put_stream(key=key, stream=io.BytesIO(content), **described)

    def put_stream(
        self,
        *,
        key: str,
        stream: BinaryIO,
        size: int | None = None,
        checksum: str | None = None,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> StoredObjectRef:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, length = hashlib.sha256(), 0
        with path.open("wb") as file:
            while data := stream.read(65536):
                file.write(data)
                digest.update(data)
                length += len(data)
        found = checksum or f"sha256:{digest.hexdigest()}"
        return StoredObjectRef(
            "", self.backend_name, key, size or length, found, content_type, original_filename, None, extra
        )

    def get(self, ref: StoredObjectRef) -> bytes:
        with self.open(ref) as file:
            return file.read()

    def open(self, ref: StoredObjectRef) -> BinaryIO:
        if not self.exists(ref):
            raise StorageError(f"not found: {ref.location}")
        return (self.root / ref.location).open("rb")

    def delete(self, ref: StoredObjectRef) -> None:
        if self.exists(ref):
            (self.root / ref.location).unlink()

    def exists(self, ref: StoredObjectRef) -> bool:
        return (self.root / ref.location).is_file()

    def iter_locations(self, prefix: str | None = None) -> Iterator[str]:
        for path in (self.root / (prefix or "")).rglob("*"):
            if path.is_file():
                yield path.relative_to(self.root).as_posix()


class Body(io.RawIOBase):
    """An answer's body: read from front to back, and not sought in."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


class DictBackend:
    """Objects in a dictionary, as a remote store gives them. A prefix is a string."""

    backend_name = "dict"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_bytes(self, *, key: str, content: bytes, content_type: Any = None, **described: Any) -> StoredObjectRef:
        self.objects[key] = content
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return StoredObjectRef("", self.backend_name, key, len(content), checksum, content_type)

    def put_stream(self, *, key: str, stream: BinaryIO, content_type: Any = None, **described: Any) -> StoredObjectRef:
        return self.put_bytes(key=key, content=stream.read(), content_type=content_type)

    def get(self, ref: StoredObjectRef) -> bytes:
        return self.objects[ref.location]

    def open(self, ref: StoredObjectRef) -> BinaryIO:
        return Body(self.objects[ref.location])  # type: ignore[return-value]  # as its users' stubs say too

    def delete(self, ref: StoredObjectRef) -> None:
        self.objects.pop(ref.location, None)

    def exists(self, ref: StoredObjectRef) -> bool:
        return ref.location in self.objects

    def iter_locations(self, prefix: str | None = None) -> Iterator[str]:
        yield from [each for each in [*self.objects] if each.startswith(prefix or "")]
