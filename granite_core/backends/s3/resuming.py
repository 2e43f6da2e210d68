"""Writing an object in several goes: a multipart upload whose parts are recorded, and pieces for what is no part yet.

A part has at least 5 MiB (S3 user guide, "Multipart upload limits"). What is less waits in small objects of its own
under reserved keys, and is read back when there is enough for a part, or when a go has brought as much again: however
small the goes are, what is read is a few times what comes. The completion names the ETag of each part, so a go that
wakes up late can put no byte of its own into the object.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any, Final

from granite_core._pool import submit
from granite_core.backends._bucket import TOKEN
from granite_core.backends._budget import buffer_budget
from granite_core.backends._parts import MAX_PARTS, part_length
from granite_core.backends.base import WriteOptions
from granite_core.backends.pieces import Pieces
from granite_core.backends.resumable import ResumableWriter
from granite_core.backends.s3.answers import pages
from granite_core.backends.s3.buffers import PartBuffer
from granite_core.backends.s3.client import boto_errors, error_code, failure
from granite_core.backends.s3.upload import was_ours
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ObjectExistsError,
    StorageError,
    UnfinishableError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from granite_core.backends.s3.backend import S3StorageBackend

__all__ = ["S3ResumableWriter", "abort_uploads", "discard_upload"]

COPY_BYTES: Final = 1024 * 1024
_LOST: Final = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall", "EntityTooLarge"})
"""What a completion answers that no other will ever be different from (S3 API, "CompleteMultipartUpload")."""


class S3ResumableWriter(ResumableWriter):
    """One go at an object. Holds at most two parts: one that is filled, one that is sent.

    Args:
        backend: Where it is.
        location: The object's key.
        offset: How many bytes of it the state stands for.
        state: What was kept; None to begin.
        content_type: Its media type, where known.
        options: What is asked of the store.

    Raises:
        BackendError: The state is of another offset.
    """

    def __init__(
        self,
        backend: S3StorageBackend,
        location: str,
        offset: int,
        state: str | None,
        content_type: str | None,
        options: WriteOptions,
    ) -> None:
        known = json.loads(state) if state else {}
        self.offset = offset
        self._backend = backend
        self._location = location
        self._content_type = content_type
        self._options = options
        self._begins = not known
        self._token: str = known.get("token") or secrets.token_hex(16)
        self._base: int = known.get("base") or backend.part_size
        self._upload_id: str | None = known.get("upload")
        self._parts: list[tuple[str, str]] = [(etag, crc) for etag, crc in known.get("parts", ())]
        self._is_last: bool = known.get("last", False)
        self._pieces = Pieces.load(backend, location, known.get("pieces"))
        self._in_pieces = self._pieces.length
        self._buffer: PartBuffer | None = None
        self._buffer_from = 0
        """Where in the part the buffer begins; what comes before waits in pieces."""
        self._sending: Future[tuple[str, str]] | None = None
        self._checkpoints = 0
        self._told_upload = self._upload_id
        self._unkept_upload: str | None = None
        """The upload that this go began, where only the state of its last checkpoint names it."""
        self._leftovers: tuple[str, ...] = ()
        self._closed = self._withdrawn = False
        self._sent = sum(part_length(number, base=self._base) for number in range(1, len(self._parts) + 1))
        """How many bytes are in parts, while the last is not among them."""
        if not self._is_last and self._sent + self._in_pieces != offset:
            raise BackendError("the state is of another offset", operation="resume", backend="s3", location=location)
        self._pieces.tidy()

    @property
    def state(self) -> str | None:
        """The parts, the pieces, and the name of the next piece."""
        return self._dump(ends=False)

    def write(self, data: Buffer, /) -> None:
        """Take bytes; send a part when it is full."""
        self._check_open("write")
        view = memoryview(data).cast("B")
        try:
            while view:
                buffer = self._current_buffer()
                room = part_length(self._next_number, base=self._base) - self._buffer_from - buffer.length
                if not room:
                    self._send_part()
                    continue
                if self._buffer_from and buffer.length >= self._buffer_from:
                    self._read_back(0)
                    continue
                taken = view[:room]
                if self._sending is not None and not buffer.fits(len(taken)):
                    self._join()  # memory comes back sooner than a disk takes it
                buffer.append(taken)
                self.offset += len(taken)
                view = view[room:]
        except boto_errors() as error:
            self.close()
            raise failure(error, "write", self._location) from error
        except BaseException:
            self.close()
            raise

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        """Send what is a part, and put the rest into a piece; the last part may be short."""
        self._check_open("checkpoint")
        try:
            self._pieces.begin_checkpoint(again=bool(self._checkpoints))
            self._join()
            if last and not self._is_last:
                if self.offset:
                    self._current_buffer()
                    self._send_part(last=True)
                    self._join()
                self._is_last = True
            elif self._buffer is not None and self._buffer_from + self._buffer.length > self._in_pieces:
                self._put_piece()
        except boto_errors() as error:
            self.close()
            raise failure(error, "checkpoint", self._location) from error
        except BaseException:
            self.close()
            raise
        self._checkpoints += 1
        self._pieces.end_checkpoint()
        self._unkept_upload = None if self._upload_id == self._told_upload else self._upload_id
        self._told_upload = self._upload_id
        return self._dump(ends=ends or last)

    def commit(self) -> None:
        """Complete the upload."""
        self._check_open("commit")
        try:
            if self._upload_id is not None:
                self._complete(self._upload_id)
            else:
                self._put_empty()
        except boto_errors() as error:
            raise failure(error, "commit", self._location) from error
        finally:
            self.close()
        self._leftovers = self._pieces.remove_all()
        self._abort_others()

    @property
    def leftovers(self) -> Sequence[str]:
        """The pieces that could not be removed, and those that a go which sleeps may still write."""
        return self._leftovers

    def withdraw(self, *, refused: bool = False) -> None:
        """Remove the pieces of this go that nobody goes on from, and abort the upload where this go began it."""
        if self._withdrawn:
            return
        self._withdrawn = True
        self.close()
        self._pieces.withdraw(refused=refused)
        for upload_id in {self._upload_id if self._upload_id != self._told_upload else None, self._unkept_upload}:
            if upload_id is not None and (refused or upload_id != self._told_upload):
                with suppress(*boto_errors()):
                    _abort(self._backend, self._backend._object(self._location), upload_id)

    def close(self) -> None:
        """Wait for the part that is under way, and free memory."""
        self._closed = True
        with suppress(Exception):
            self._join()
        if self._buffer is not None:
            self._buffer.free()
            self._buffer = None

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _next_number(self) -> int:
        return len(self._parts) + 1 + (self._sending is not None)

    def _current_buffer(self) -> PartBuffer:
        """What is being filled: the end of a part, where a beginning of it waits in pieces."""
        if self._buffer is None:
            self._buffer = self._new_buffer(self._next_number, self._in_pieces)
            self._buffer_from = self._in_pieces
        return self._buffer

    def _new_buffer(self, number: int, begins: int, expected: int | None = None) -> PartBuffer:
        """A buffer for what is left of a part from a position on."""
        return PartBuffer(buffer_budget, expected, at_most=part_length(number, base=self._base) - begins)

    def _read_back(self, begin: int) -> PartBuffer:
        """Have the buffer begin earlier in the part, with what pieces hold that were there when it was begun."""
        end, held = self._current_buffer(), self._pieces.held
        starts = list(accumulate((each.size for each in held), initial=0))
        if begin not in starts or self._buffer_from not in starts or begin > self._buffer_from:
            raise self._confused(f"no pieces from {begin} to {self._buffer_from}: they begin at {starts}")
        first, last = starts.index(begin), starts.index(self._buffer_from)
        before = self._buffer_from - begin
        self._buffer = self._new_buffer(self._next_number, begin, before + end.length)
        try:
            for data in self._pieces.read(first, last):
                self._buffer.append(memoryview(data))
            body = end.body
            while data := body.read(COPY_BYTES):
                self._buffer.append(memoryview(data))
        finally:
            end.free()
        self._buffer_from = begin
        return self._buffer

    def _send_part(self, *, last: bool = False) -> None:
        """Send what was written since the last part, and go on without waiting for it. Only the last may be short."""
        self._join()
        number, full = self._next_number, self._buffer
        if full is not None and self._buffer_from:
            full = self._read_back(0)
        if full is None or not full.length:
            return
        wanted = self.offset - self._sent if last else part_length(number, base=self._base)
        if full.length != wanted:
            raise self._confused(f"part {number} would have {full.length} bytes for {wanted}")
        if number > MAX_PARTS:
            raise BackendError("the object is too large", operation="write", backend="s3", location=self._location)
        if self._upload_id is None:
            head = self._backend._object_head(self._content_type, self._options, {TOKEN: self._token})
            self._upload_id = self._backend._ask(
                "create_multipart_upload",
                **self._backend._object(self._location),
                **head,
                ChecksumAlgorithm="CRC32",
            )["UploadId"]
        self._buffer, self._buffer_from = self._new_buffer(number + 1, 0), 0
        self._pieces.drop()
        self._in_pieces = 0
        self._sent += full.length
        try:
            self._sending = submit(self._backend._pool(), partial(self._upload_part, number, full))
        except BaseException:
            full.free()
            raise

    def _upload_part(self, number: int, buffer: PartBuffer) -> tuple[str, str]:
        try:
            answer = self._backend._ask(
                "upload_part",
                **self._backend._object(self._location, part=True),
                UploadId=self._upload_id,
                PartNumber=number,
                Body=buffer.payload,
                ChecksumCRC32=buffer.crc32,
            )
            return answer["ETag"].strip('"'), buffer.crc32
        except boto_errors() as error:
            if error_code(error) != "NoSuchUpload":
                raise
            raise self._unfinishable("write") from error
        finally:
            buffer.free()

    def _join(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            self._parts.append(sending.result())

    # -- what is no part yet -------------------------------------------------------------------------------------------

    def _put_piece(self) -> None:
        """Store what came since the last piece: straight from the buffer, so that memory does not double."""
        pieces, buffer = self._pieces, self._current_buffer()
        begin, folded = self._in_pieces, pieces.due
        if folded:
            begin -= sum(each.size for each in pieces.held[-folded:])
            if begin < self._buffer_from:
                buffer = self._read_back(begin)
        end = self._buffer_from + buffer.length
        rest = _Rest(buffer.body, begin - self._buffer_from, buffer.length)
        key = pieces.next_key
        self._backend._ask(
            "put_object",
            **self._backend._object(key),
            **self._backend._object_head(None, WriteOptions(), {}),
            Body=rest,
            ChecksumCRC32=rest.crc32(),
        )
        buffer.body.seek(0, io.SEEK_END)
        pieces.added(end - begin, folded=folded)
        self._in_pieces = end

    # -- becoming visible ----------------------------------------------------------------------------------------------

    def _complete(self, upload_id: str) -> None:
        parts = [
            {"PartNumber": number, "ETag": f'"{etag}"', "ChecksumCRC32": crc}
            for number, (etag, crc) in enumerate(self._parts, 1)
        ]
        try:
            self._backend._ask(
                "complete_multipart_upload",
                **self._backend._object(self._location),
                **self._backend._create_only(),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except boto_errors() as error:
            self._look_whether_ours(error)

    def _put_empty(self) -> None:
        try:
            self._backend._ask(
                "put_object",
                **self._backend._object(self._location),
                **self._backend._object_head(self._content_type, self._options, {TOKEN: self._token}),
                **self._backend._create_only(),
                Body=b"",
            )
        except boto_errors() as error:
            self._look_whether_ours(error)

    def _abort_others(self) -> None:
        """Abort what goes began of which nothing was kept, where the bucket may be asked for it; else it waits."""
        place = self._backend._object(self._location)
        with suppress(StorageError, *boto_errors()):
            for upload_id in _uploads_of(self._backend, place, None):
                _abort(self._backend, place, upload_id)

    def _look_whether_ours(self, error: Exception) -> None:
        """Learn what an error of a commit means; return where our object is there."""
        lost = error_code(error) in _LOST
        try:
            ours = was_ours(self._backend, self._location, self._token, error)
        except StorageError as said:
            if lost and not said.retryable and not isinstance(said, ObjectExistsError):
                raise self._unfinishable("commit") from error
            raise
        if not ours and lost:
            raise self._unfinishable("commit") from error
        if not ours:
            raise BackendUnavailableError(
                "commit: it must be tried again", operation="commit", backend="s3", location=self._location
            ) from error

    def _unfinishable(self, operation: str) -> UnfinishableError:
        return UnfinishableError("what was written is gone", operation=operation, backend="s3", location=self._location)

    def _confused(self, found: str) -> BackendError:
        """What is to be raised before anything wrong is stored."""
        return BackendError(found, operation="write", backend="s3", location=self._location)

    def _dump(self, *, ends: bool) -> str:
        found = {
            "token": self._token,
            "base": self._base,
            "upload": self._upload_id,
            "parts": self._parts,
            "last": self._is_last,
            "pieces": self._pieces.dump(ends=ends),
        }
        return json.dumps({name: value for name, value in found.items() if value}, separators=(",", ":"))

    def _check_open(self, operation: str) -> None:
        if self._closed:
            raise BackendError("the writer is closed", operation=operation, backend="s3", location=self._location)


def discard_upload(backend: S3StorageBackend, location: str, state: str | None) -> None:
    """Abort every multipart upload of a key, and remove the pieces.

    Args:
        backend: Where they are.
        location: The object's key.
        state: What was kept last.

    Raises:
        BackendError: Something may still be there.
    """
    known = json.loads(state) if state else {}
    abort_uploads(backend, location, known.get("upload"))
    if known:
        Pieces.load(backend, location, known.get("pieces")).discard()


def abort_uploads(backend: S3StorageBackend, location: str, known: str | None) -> None:
    """Abort every multipart upload of a key; where they may not be listed, the one that is known.

    Raises:
        BackendError: Something may still be there.
    """
    place = backend._object(location)
    try:
        for upload_id in _uploads_of(backend, place, known):
            _abort(backend, place, upload_id)
    except boto_errors() as error:
        raise failure(error, "discard", location) from error


def _uploads_of(backend: S3StorageBackend, place: dict[str, Any], known: str | None) -> list[str]:
    """The uploads of a key: one may have begun in a go that died before its state was kept."""
    arguments = {name: value for name, value in place.items() if name != "Key"}
    try:
        return [
            upload["UploadId"]
            for page in pages(backend.client, "list_multipart_uploads", **arguments, Prefix=place["Key"])
            for upload in page.get("Uploads", ())
            if upload["Key"] == place["Key"]
        ]
    except boto_errors() as error:
        if known is None or not isinstance(failure(error, "discard", ""), AccessDeniedError):
            raise
        return [known]


def _abort(backend: S3StorageBackend, place: dict[str, Any], upload_id: str) -> None:
    try:
        backend._ask("abort_multipart_upload", **place, UploadId=upload_id)
    except boto_errors() as error:
        if error_code(error) != "NoSuchUpload":
            raise


class _Rest(io.RawIOBase):
    """A part's bytes from a position on, as a body that can be sent again."""

    def __init__(self, body: IO[bytes], start: int, end: int) -> None:
        self._body = body
        self._start = start
        self._length = end - start
        self._position = 0

    def crc32(self) -> str:
        crc = 0
        while data := self.read(64 * 1024):
            crc = zlib.crc32(data, crc)
        self.seek(0)
        return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._length - self._position)
        if wanted <= 0:
            return 0
        self._body.seek(self._start + self._position)
        data = self._body.read(wanted)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
