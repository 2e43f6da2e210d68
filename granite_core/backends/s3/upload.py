"""Writing an object: one PUT, or a multipart upload whose parts are sent while the next one is filled."""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from granite_core._pool import submit
from granite_core.backends._bucket import TOKEN
from granite_core.backends._budget import buffer_budget
from granite_core.backends._pages import HUGE_BYTES
from granite_core.backends._parts import MAX_PARTS, part_length
from granite_core.backends.base import ObjectWriter, WriteOptions
from granite_core.backends.s3.buffers import PartBuffer
from granite_core.backends.s3.client import boto_errors, error_code, failure
from granite_core.errors import (
    BackendError,
    BackendUnavailableError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from granite_core.backends.s3.backend import S3StorageBackend

__all__ = ["S3Writer", "was_ours"]

PUT_ATTEMPTS: Final = 3
_CONFLICT: Final = "ConditionalRequestConflict"
_REFUSED: Final = frozenset({"PreconditionFailed", "412", _CONFLICT, "OperationAborted", "NoSuchUpload"})


class S3Writer(ObjectWriter):
    """Holds at most two parts: one that is filled, one that is sent.

    Every object carries a random token. When a store refuses our commit because the key is taken, or the upload gone,
    the token tells whether it was ourselves, in a try whose answer was lost (S3 API, "CompleteMultipartUpload" and
    "PutObject": 412, 409, NoSuchUpload).
    """

    def __init__(
        self,
        backend: S3StorageBackend,
        location: str,
        content_type: str | None,
        size: int | None,
        options: WriteOptions,
    ) -> None:
        self._backend = backend
        self._location = location
        self._size = size
        self._token = secrets.token_hex(16)
        self._head = backend._object_head(content_type, options, {TOKEN: self._token})
        self._limit = part_length(1, base=backend.part_size, size=size)
        self._buffer = PartBuffer(buffer_budget, None if size is None else min(size, self._limit))
        self._upload_id: str | None = None
        self._sent: list[dict[str, Any]] = []
        self._sending: Future[dict[str, Any]] | None = None
        self._closed = False

    def write(self, data: Buffer, /) -> None:
        """Take bytes; send the part before when this one is full."""
        self._check_open("write")
        view = memoryview(data).cast("B")
        try:
            while view:
                room = self._limit - self._buffer.length
                if not room:
                    self.send_part()
                    continue
                if self._sending is not None and not self._buffer.fits(len(view[:room])):
                    self._join()  # memory comes back sooner than a disk takes it
                self._buffer.append(view[:room])
                view = view[room:]
        except boto_errors() as error:
            self.abort()
            raise failure(error, "write", self._location) from error
        except BaseException:
            self.abort()
            raise

    def commit(self) -> None:
        """Send what is left, and make the object visible."""
        self._check_open("commit")
        try:
            if self._upload_id is None:
                self._put()
            else:
                if self._buffer.length:
                    self.send_part()
                self._join()
                self._complete(self._upload_id)
        except boto_errors() as error:
            self.abort()
            raise failure(error, "commit", self._location) from error
        except BaseException:
            self.abort()
            raise
        self._closed = True
        self._buffer.free()

    def abort(self) -> None:
        """Give up: wait for the part that is under way, or it would outlive the upload, then remove the upload."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            self._join()
        self._buffer.free()
        if self._upload_id is not None:
            with suppress(Exception):  # the reconcile clears what could not be removed
                self._backend._ask(
                    "abort_multipart_upload", **self._backend._object(self._location), UploadId=self._upload_id
                )

    def send_part(self) -> None:
        """Send what was written since the last part, and go on without waiting for it."""
        self._join()
        number = len(self._sent) + 1
        if number > MAX_PARTS:
            raise BackendError("the object is too large", operation="write", backend="s3", location=self._location)
        if self._upload_id is None:
            self._upload_id = self._backend._ask(
                "create_multipart_upload",
                **self._backend._object(self._location),
                **self._head,
                ChecksumAlgorithm="CRC32",
            )["UploadId"]
        full, self._buffer = self._buffer, PartBuffer(buffer_budget, HUGE_BYTES)
        self._limit = part_length(number + 1, base=self._backend.part_size, size=self._size)
        try:
            self._sending = submit(self._backend._pool(), partial(self._upload_part, number, full))
        except BaseException:
            full.free()
            raise

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _upload_part(self, number: int, buffer: PartBuffer) -> dict[str, Any]:
        try:
            answer = self._backend._ask(
                "upload_part",
                **self._backend._object(self._location, part=True),
                UploadId=self._upload_id,
                PartNumber=number,
                Body=buffer.payload,
                ChecksumCRC32=buffer.crc32,
            )
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": buffer.crc32}
        finally:
            buffer.free()

    def _join(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            self._sent.append(sending.result())

    # -- becoming visible ----------------------------------------------------------------------------------------------

    def _put(self) -> None:
        for _ in range(PUT_ATTEMPTS):
            try:
                self._backend._ask(
                    "put_object",
                    **self._backend._object(self._location),
                    **self._head,
                    **self._backend._create_only(),
                    Body=self._buffer.payload,
                    ChecksumCRC32=self._buffer.crc32,
                )
            except boto_errors() as error:
                if not self._was_ours(error):
                    continue
            return
        raise BackendUnavailableError(
            "commit: another writer of the key gets in the way",
            operation="commit",
            backend="s3",
            location=self._location,
        )

    def _complete(self, upload_id: str) -> None:
        try:
            self._backend._ask(
                "complete_multipart_upload",
                **self._backend._object(self._location),
                **self._backend._create_only(),
                UploadId=upload_id,
                MultipartUpload={"Parts": self._sent},
            )
        except boto_errors() as error:
            if not self._was_ours(error):
                raise BackendUnavailableError(
                    "commit: the upload must begin anew", operation="commit", backend="s3", location=self._location
                ) from error

    def _was_ours(self, error: Exception) -> bool:
        return was_ours(self._backend, self._location, self._token, error)

    def _check_open(self, operation: str) -> None:
        if self._closed:
            raise BackendError("the writer is closed", operation=operation, backend="s3", location=self._location)


def was_ours(backend: S3StorageBackend, location: str, token: str, error: Exception) -> bool:
    """Learn what an error of a commit means: True if our object is there, False if the commit may be repeated.

    Args:
        backend: Where it is.
        location: The object's key.
        token: What our object carries.
        error: What boto3 raised.

    Raises:
        ObjectExistsError: Another object is there.
        StorageError: What the error said; our object is not there, or it could not be learned.
    """
    said = failure(error, "commit", location)
    refused = error_code(error) in _REFUSED
    if not refused and not isinstance(said, BackendUnavailableError):
        raise said from error
    try:
        found: str | None = backend._head(location).get("Metadata", {}).get(TOKEN, "")
    except ObjectNotFoundError:
        found = None
    except StorageError as unknown:
        raise (unknown if unknown.retryable else said) from error
    if found == token:
        return True
    if found is not None and backend.atomic_create:
        raise ObjectExistsError("the key is taken", operation="commit", backend="s3", location=location) from error
    if found is None and error_code(error) == _CONFLICT:
        return False
    raise said from error
