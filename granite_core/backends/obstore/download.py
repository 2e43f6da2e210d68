"""Reading an object, and going on where a connection broke."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from granite_core.backends.base import ObjectReader
from granite_core.backends.obstore.library import failure, http_status, library, obstore_errors
from granite_core.errors import BackendError, BackendUnavailableError

if TYPE_CHECKING:
    from granite_core.backends.obstore.backend import ObstoreStorageBackend

__all__ = ["ObstoreReader"]

CHUNK_BYTES: Final = 128 * 1024
"""What a reader whose client stands still holds, beside what the connection does."""
RESUMES: Final = 5
ENOUGH_PROGRESS: Final = 1024 * 1024
"""Bytes after which a connection counts as a good one, and the resumes are counted anew."""
PAUSE_SECONDS: Final = 0.1

_NOTHING: Final = memoryview(b"")


class ObstoreReader(ObjectReader):
    """One GET, and another from where it stands for each time that the body is cut.

    Args:
        backend: Whose object.
        location: Which.
        offset: First byte wanted.
        length: How many; None for all.
    """

    def __init__(self, backend: ObstoreStorageBackend, location: str, offset: int, length: int | None) -> None:
        self._backend = backend
        self._location = location
        self._key = backend._key(location)
        self._body: Iterator[Any] = iter(())
        self._chunk = _NOTHING
        self._etag: str | None = None
        self._resumes = 0
        self._progress = 0
        self._position = offset
        self._end = offset
        result = self._open(offset, length) if length != 0 else None
        if result is None:
            self.size = backend.stat(location).size
            return
        backend._check_meta(result.meta, "open", location)
        self.size = int(result.meta["size"])
        self._etag = result.meta["e_tag"]
        self._end = self.size if length is None else min(self.size, offset + length)
        self._body = self._pieces(result)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that is left for -1."""
        if size >= 0:
            return bytes(self._take(size))
        pieces = []
        while piece := self._take(CHUNK_BYTES):
            pieces.append(piece)
        return b"".join(pieces)

    def readinto(self, buffer: memoryview, /) -> int:
        """Put the next bytes into a buffer: the only copy that is made here."""
        piece = self._take(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Give up the connection where bytes are left in it."""
        self._end = self._position
        self._body, self._chunk = iter(()), _NOTHING

    def _take(self, size: int) -> memoryview:
        """Return the next bytes, at most as many; none at the end of the range."""
        size = min(size, self._end - self._position)
        while size > 0 and not self._chunk:
            try:
                self._chunk = memoryview(next(self._body))
            except StopIteration:
                self._resume(None)
            except obstore_errors() as error:
                self._resume(error)
        piece = self._chunk[: max(0, size)]
        self._chunk = self._chunk[len(piece) :]
        self._position += len(piece)
        self._progress += len(piece)
        return piece

    def _pieces(self, result: Any) -> Iterator[Any]:
        if self._backend._keeps_buffers or self._end - self._position <= CHUNK_BYTES:
            yield result.bytes()
        else:
            yield from result.stream(min_chunk_size=CHUNK_BYTES)

    def _open(self, offset: int, length: int | None) -> Any:
        """Send the first request; None where the range begins behind the end."""
        options: dict[str, Any] = {}
        if length is not None:
            options["range"] = (offset, offset + length)
        elif offset:
            options["range"] = {"offset": offset}
        try:
            return library().get(self._backend._store(), self._key, options=options or None)
        except obstore_errors() as error:
            found = failure(error, "open", self._location, key=self._key)
            status = http_status(error, self._key)
            # Stores that are not asked by HTTP have other words for 416.
            no_such_range = status == 416 or (not status and type(error).__name__ == "GenericError")
            if options and no_such_range and offset >= self._backend.stat(self._location).size:
                return None
            raise self._backend._told_apart(found) from error

    def _resume(self, cause: BaseException | None) -> None:
        if self._progress >= ENOUGH_PROGRESS:
            self._resumes = 0
        self._resumes += 1
        self._progress = 0
        if self._resumes > RESUMES or not self._etag:
            raise BackendUnavailableError(
                f"read: the connection broke {self._resumes} times",
                operation="read",
                backend="obstore",
                location=self._location,
            ) from cause
        time.sleep(PAUSE_SECONDS * (2 ** (self._resumes - 1) - 1))  # the first time at once
        asked = {"range": (self._position, self._end), "if_match": self._etag}
        try:
            result = library().get(self._backend._store(), self._key, options=asked)
        except obstore_errors() as error:
            if type(error).__name__ == "PreconditionError" or http_status(error, self._key) == 416:
                raise self._changed() from error
            found = failure(error, "read", self._location, key=self._key)
            raise self._backend._told_apart(found) from error
        if result.meta["e_tag"] != self._etag or result.range[0] != self._position:
            raise self._changed()
        self._body = self._pieces(result)

    def _changed(self) -> BackendError:
        return BackendError(
            "read: the object was changed", operation="read", backend="obstore", location=self._location
        )
