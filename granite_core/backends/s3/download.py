"""Reading an object, and going on where a connection broke."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from granite_core.backends.base import ObjectReader
from granite_core.backends.s3.client import boto_errors, error_code, failure, http_status
from granite_core.errors import BackendError, BackendUnavailableError

if TYPE_CHECKING:
    from granite_core.backends.s3.backend import S3StorageBackend

__all__ = ["S3Reader"]

CHUNK_BYTES: Final = 1024 * 1024
RESUMES: Final = 5
ENOUGH_PROGRESS: Final = 1024 * 1024
"""Bytes after which a connection counts as a good one, and the resumes are counted anew."""
PAUSE_SECONDS: Final = 0.1


class S3Reader(ObjectReader):
    """One GET, and another from where it stands for each time that the body is cut.

    Args:
        backend: Whose object.
        location: Which.
        offset: First byte wanted.
        length: How many; None for all.
    """

    def __init__(self, backend: S3StorageBackend, location: str, offset: int, length: int | None) -> None:
        self._backend = backend
        self._location = location
        self._body: Any = None
        self._etag: str | None = None
        self._resumes = 0
        self._progress = 0
        self._position = offset
        self._end = offset
        if length == 0:
            self.size = backend.stat(location).size
            return
        asked = None
        if offset or length is not None:
            asked = f"bytes={offset}-" if length is None else f"bytes={offset}-{offset + length - 1}"
        response = self._get(asked)
        if response is None:  # the range begins behind the end
            self.size = backend.stat(location).size
            return
        self._body = response["Body"]
        self._etag = response["ETag"]
        self.size = _whole_size(response) if asked else int(response["ContentLength"])
        self._end = self.size if length is None else min(self.size, offset + length)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that is left for -1."""
        if size >= 0:
            return self._read_some(min(size, self._end - self._position))
        pieces = []
        while piece := self._read_some(min(CHUNK_BYTES, self._end - self._position)):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back, or up where bytes are left in it."""
        body, self._body = self._body, None
        self._end = self._position
        if body is not None:
            with suppress(Exception):
                body.close()

    def _read_some(self, size: int) -> bytes:
        while size > 0:
            try:
                data: bytes = self._body.read(size)
            except boto_errors() as error:
                self._resume(error)
                continue
            if data:
                self._position += len(data)
                self._progress += len(data)
                return data
            self._resume(None)
        return b""

    def _resume(self, cause: BaseException | None) -> None:
        with suppress(Exception):
            self._body.close()
        if self._progress >= ENOUGH_PROGRESS:
            self._resumes = 0
        self._resumes += 1
        self._progress = 0
        if self._resumes > RESUMES:
            raise self._unavailable(f"the connection broke {self._resumes} times") from cause
        time.sleep(PAUSE_SECONDS * (2 ** (self._resumes - 1) - 1))  # the first time at once
        response = self._get(f"bytes={self._position}-{self._end - 1}", if_match=self._etag)
        if response is None or response.get("ETag") != self._etag:
            raise BackendError("read: the object was changed", operation="read", backend="s3", location=self._location)
        self._body = response["Body"]
        if _whole_size(response) != self.size:
            raise self._unavailable("the answers do not fit together")  # half a head may say half a length

    def _unavailable(self, why: str) -> BackendUnavailableError:
        return BackendUnavailableError(f"read: {why}", operation="read", backend="s3", location=self._location)

    def _get(self, asked: str | None, if_match: str | None = None) -> Any:
        """Send the request; None if there is nothing in that range of that object."""
        arguments = self._backend._object(self._location, reading=True)
        if asked:
            arguments["Range"] = asked
        if if_match:
            arguments["IfMatch"] = if_match
        operation = "read" if if_match else "open"
        try:
            return self._backend._ask("get_object", **arguments)
        except boto_errors() as error:
            if error_code(error) == "InvalidRange" or http_status(error) in (412, 416):
                return None
            raise failure(error, operation, self._location) from error


def _whole_size(response: Any) -> int:
    """Return the size of the whole object from the answer to a ranged request."""
    content_range = response.get("ContentRange")
    if not content_range:
        response["Body"].close()
        raise BackendError("read: the store ignores Range", operation="read", backend="s3")
    return int(content_range.rpartition("/")[2])
