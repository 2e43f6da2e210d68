"""An object on its way in: the intake in front of a backend's writer, and the validators behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final

from granite_core._digest import OVERLAP_BYTES
from granite_core._pending import PendingFile, ask_before, check_colour
from granite_core.backends.base import Capability, ObjectReader, ObjectWriter, ReadableStream, StorageBackend
from granite_core.claims import Claim, Quotas
from granite_core.errors import ChecksumMismatchError, ContentRejectedError, StorageError
from granite_core.events import EventHub
from granite_core.hooks import Announcement, BeforeUpload
from granite_core.intake import Intake
from granite_core.media import DEFAULT_TYPE, SNIFF_BYTES, judge_content
from granite_core.policies import StoragePolicy
from granite_core.publishing import options_for
from granite_core.quotas import Counted
from granite_core.refs import StagedFile, StoredObjectRef, timestamp

if TYPE_CHECKING:
    from typing import Any, Self

    from typing_extensions import Buffer

__all__ = ["StagedWrite"]

READ_BYTES: Final = OVERLAP_BYTES


class StagedWrite:
    """An object on its way in. Made by ``StorageManager.stage``; used by one thread at a time.

    As a context manager it aborts unless it was committed.
    """

    def __init__(
        self,
        policy: StoragePolicy,
        backend: StorageBackend,
        location: str,
        *,
        now: Callable[[], datetime],
        discard: Callable[[StoredObjectRef], None],
        events: EventHub,
        filename: str | None = None,
        claimed_type: str | None = None,
        field: str | None = None,
        expected_size: int | None = None,
        checksum: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, object] | None = None,
        quotas: Quotas | None = None,
        attach_within: timedelta = timedelta(0),
    ) -> None:
        self.backend: Final = backend
        """The backend that is written to."""
        self._policy = policy
        self._location = location
        self._now = now
        self._discard = discard
        self._events = events
        self._began = time.perf_counter()
        self._filename = filename
        self._expected_size = expected_size
        self._expected_checksum = checksum
        self._extra = _plain(extra)
        self._field = field
        self._intake = Intake(policy, field=field, filename=filename, claimed_type=claimed_type)
        self._writer: ObjectWriter | None = None
        self._copied: StoredObjectRef | None = None
        self._copied_at: datetime | None = None
        self._claimed = claimed_type
        self._foreign: ObjectReader | None = None
        self._foreign_type: str | None = None
        self._is_copied = False
        self._done = False
        self._context = dict(context) if context else {}
        self._to_ask = policy.before_upload
        self.claim: Claim | None = None
        """What it is counted with, where its policy has quotas."""
        self._attach_within = attach_within
        if quotas is not None and policy.quotas:
            counted = Counted(location, policy.backend_key, policy.storage_key)
            self.claim = quotas.claim(policy.quotas, self.announced, counted)
        self._begun = False

    @cached_property
    def announced(self) -> Announcement:
        """What the policy's hooks are told before the first byte."""
        return Announcement(
            storage_key=self._policy.storage_key,
            field=self._field or self._policy.storage_key,
            filename=self._filename,
            content_type=self._claimed,
            size=self._expected_size,
            context=self._context,
        )

    def hooks_to_ask(self) -> Sequence[BeforeUpload]:
        """Return the policy's hooks that have to allow this before its first byte; once, and then none."""
        hooks, self._to_ask = self._to_ask, ()
        return hooks

    @property
    def has_begun(self) -> bool:
        """Whether it was asked already whether this may be stored."""
        return self._begun

    def mark_begun(self) -> None:
        """Say that the hooks have allowed it, and that it is counted."""
        self._begun = True

    def begin(self) -> None:
        """Ask the policy's hooks whether this may be stored, and reserve the room that it needs.

        What is written does so by itself; this does it before.

        Raises:
            ContentRejectedError: A hook refuses it, or there is no room.
            ConfigurationError: A hook is asynchronous, and this thread runs an event loop.
        """
        if self._begun:
            return
        self._begun = True
        if not self._to_ask and self.claim is None:
            return
        try:
            if self.hooks_to_ask():
                ask_before(self._policy, self.announced)
            if self.claim is not None:
                self.claim.begin()
        except BaseException as error:
            self.fail(error)
            raise

    @property
    def size(self) -> int:
        """Bytes admitted so far."""
        return self._intake.size

    def write(self, data: Buffer) -> None:
        """Take the next bytes.

        Raises:
            ContentTooLargeError: The limit is passed; nothing remains.
            ContentTypeNotAllowedError: The bytes show a type that is not accepted; nothing remains.
            BackendError: They cannot be stored; nothing remains.
        """
        if self.admit(data):
            self.drain()

    def admit(self, data: Buffer) -> bool:
        """Take the next bytes into the buffer, without blocking. True when ``drain`` is due.

        Raises:
            ContentTooLargeError: The limit is passed. Call ``abort``.
        """
        if self._done:
            raise StorageError("this write has ended already", operation="write")
        if not self._begun:
            self.begin()
        try:
            return self._intake.admit(data)
        except ContentRejectedError as error:
            self._events.refused(error, self._policy.storage_key)
            raise

    def hand_over(self) -> list[bytes]:
        """Begin a new buffer; one thread may ``drain`` the former one while another goes on to ``admit``."""
        return self._intake.hand_over()

    def take_back(self, pieces: list[bytes]) -> None:
        """Put a buffer back that was handed over, and that no thread could be had for."""
        self._intake.take_back(pieces)

    @property
    def is_open(self) -> bool:
        """Whether a first buffer was judged, and reached the backend."""
        return self._writer is not None

    def drain(self, pieces: list[bytes] | None = None) -> None:
        """Hash the buffer and hand it to the backend. Blocks.

        Args:
            pieces: What ``hand_over`` gave, where that was called.

        Raises:
            ContentTypeNotAllowedError: The bytes show a type that is not accepted; nothing remains.
            BackendError: They cannot be stored; nothing remains.
        """
        try:
            if self.claim is not None:
                self.claim.cover(self._intake.size)
            data = self._intake.take(pieces)
            if self._writer is None:
                self._writer = self.backend.open_writer(
                    self._location,
                    content_type=self._intake.content_type,
                    size=self._expected_size if len(data) == self._expected_size else None,
                    options=options_for(self._policy, self._intake.content_type, self._filename),
                )
            if data:
                self._writer.write(data)
        except BaseException as error:
            self.fail(error)
            raise

    def write_from(self, stream: ReadableStream, *, on_written: Callable[[int], object] | None = None) -> None:
        """Take a stream from where it stands to its end. It is not closed, and no more than a buffer of it is held.

        Args:
            stream: What to take.
            on_written: Called after each piece with the number of bytes so far; may raise to end it.

        Raises:
            TypeError: It is a stream of text.
            ContentRejectedError: The policy refuses it; reading stops as soon as that is known, and nothing remains.
            BackendError: It cannot be stored; nothing remains.
        """
        while self.write_piece(stream):
            if on_written is not None:
                on_written(self.size)

    def write_piece(self, stream: ReadableStream) -> bool:
        """Take the next piece of a stream, a megabyte at most; False at its end. Raises what ``write_from`` does."""
        self.begin()
        data = stream.read(READ_BYTES)
        if isinstance(data, str):
            raise TypeError("the stream must be binary: open the file with mode 'rb'")
        if data:
            self.write(data)
        return bool(data)

    def copy_from(
        self, backend: StorageBackend, ref: StoredObjectRef, *, on_written: Callable[[int], object] | None = None
    ) -> None:
        """Take the content of a stored object: the store makes the copy by itself where it can.

        Args:
            backend: Where the object is.
            ref: What it is.
            on_written: Called after each piece that passes through here, with the number of bytes so far.

        Raises:
            ObjectNotFoundError: The object is gone.
            ContentRejectedError: The policy refuses it; nothing remains.
            BackendError: It cannot be read or stored; nothing remains.
        """
        self.begin()
        if not self.copies_by_itself(backend):
            with backend.open_reader(ref.location) as reader:
                self.write_from(reader, on_written=on_written)
            return
        try:
            self._policy.check_size(ref.size, field=self._field)
            self._policy.check_type(ref.content_type or DEFAULT_TYPE, field=self._field)
        except ContentRejectedError as error:
            self.fail(error)
            raise
        self._copied_at = self._now()
        options = options_for(self._policy, ref.content_type, self._filename)
        backend.copy(ref.location, self._location, options=options)
        self._copied, self._is_copied = ref, True

    def copy_foreign(self, location: str) -> None:
        """Have the store copy what somebody else wrote to it; ``judge_piece`` then looks at the copy.

        The original may change at any time, so nothing that was seen of it is believed of the copy.

        Args:
            location: Its key, in the backend that is written to.

        Raises:
            ObjectNotFoundError: It is not there.
            ContentRejectedError: The policy refuses it; nothing remains.
            BackendError: It cannot be read or copied; nothing remains.
        """
        self.begin()
        try:
            with self.backend.open_reader(location, length=SNIFF_BYTES) as reader:
                self._policy.check_size(reader.size, field=self._field)
                head = b"".join(iter(lambda: reader.read(SNIFF_BYTES), b""))
            judged = judge_content(head, self._filename, self._claimed)
            self._policy.check_content(judged, field=self._field)
            self._foreign_type = judged.content_type
            options = options_for(self._policy, judged.content_type, self._filename)
            self._copied_at = self._now()
            self.backend.copy(location, self._location, options=replace(options, content_type=judged.content_type))
            self._is_copied = True
            self._foreign = self.backend.open_reader(self._location)
        except BaseException as error:
            self.fail(error)
            raise

    def judge_piece(self) -> bool:
        """Read the next piece of the copy that ``copy_foreign`` made, a megabyte at most; False at its end. Blocks.

        Raises:
            ContentRejectedError: The policy refuses it; nothing remains.
            BackendError: It cannot be read; nothing remains.
        """
        if self._foreign is None:
            raise StorageError("nothing was copied", operation="copy")
        try:
            data = self._foreign.read(READ_BYTES)
            if data and self._intake.admit(data):
                self._intake.take()
        except BaseException as error:
            self.fail(error)
            raise
        return bool(data)

    def copies_by_itself(self, backend: StorageBackend) -> bool:
        """Tell whether the store copies an object of a backend, with no bytes coming through here."""
        return backend is self.backend and Capability.SERVER_SIDE_COPY in backend.capabilities

    def commit(self) -> StagedFile:
        """Make the object durable, have the policy's validators look at it, and return its ref.

        Raises:
            ChecksumMismatchError: Announced size or checksum differ; nothing remains.
            ValidationFailedError: A validator refuses it; nothing remains.
            StorageError: It cannot be stored; nothing remains.
        """
        if not self._policy.validators:
            return self._make_durable()
        try:
            check_colour(self._policy)
        except BaseException:
            self.abort()
            raise
        return self.store().accept()

    def store(self) -> PendingFile:
        """Make the object durable. Nobody may have its ref before the validators have seen it.

        Raises:
            ChecksumMismatchError: Announced size or checksum differ; nothing remains.
            StorageError: It cannot be stored; nothing remains.
        """
        return PendingFile(self._make_durable(), self._policy, self.backend, self._field, self._events)

    def _make_durable(self) -> StagedFile:
        if self._done:
            raise StorageError("this write has ended already", operation="commit")
        if not self._begun:
            self.begin()
        try:
            if self._foreign is not None and self._copied_at is not None:
                staged = self._foreign_receipt(self._copied_at)
            elif self._copied is not None and self._copied_at is not None:
                staged = self._copied_receipt(self._copied, self._copied_at)
            else:
                staged = self._written_receipt()
        except BaseException as error:
            self.fail(error)
            raise
        self._done = True
        self._events.stored(staged, time.perf_counter() - self._began, copied=self._is_copied)
        return staged

    def _written_receipt(self) -> StagedFile:
        if self.claim is not None:
            self.claim.settle(self._intake.size, within=self._attach_within)
        self.drain()
        checksum = self._intake.checksum(expected_size=self._expected_size, expected=self._expected_checksum)
        # Read before the object becomes visible: its age must never be taken for less than it is.
        created_at = self._now()
        if self._writer is None:
            raise StorageError("nothing was opened", operation="commit")
        self._writer.commit()
        return self._receipt(self._intake.size, checksum, self._intake.content_type, created_at)

    def _copied_receipt(self, ref: StoredObjectRef, copied_at: datetime) -> StagedFile:
        size = self.backend.stat(self._location).size
        if size != ref.size:
            raise ChecksumMismatchError(
                f"the copied object has {size} bytes, its ref says {ref.size}",
                operation="copy",
                limit=ref.size,
                value=size,
            )
        if self.claim is not None:
            self.claim.settle(size, within=self._attach_within)
        return self._receipt(ref.size, ref.checksum, ref.content_type, copied_at)

    def _foreign_receipt(self, copied_at: datetime) -> StagedFile:
        if self._foreign is not None:
            self._foreign.close()
        self._intake.take()
        checksum = self._intake.checksum(expected_size=self._expected_size, expected=self._expected_checksum)
        if self._intake.content_type != self._foreign_type:
            # It was another content that was looked at before the copy: somebody wrote meanwhile.
            raise ChecksumMismatchError(
                "what was uploaded changed while it was copied",
                operation="put",
                field=self._field or self._policy.storage_key,
                limit=self._foreign_type,
                value=self._intake.content_type,
            )
        if self.claim is not None:
            self.claim.settle(self._intake.size, within=self._attach_within)
        return self._receipt(self._intake.size, checksum, self._intake.content_type, copied_at)

    def _receipt(self, size: int, checksum: str, content_type: str | None, created_at: datetime) -> StagedFile:
        return StagedFile(
            self._policy.storage_key,
            self._policy.backend_key,
            self._location,
            size,
            checksum,
            content_type,
            self._filename,
            timestamp(created_at),
            self._extra,
            discard=self._discard,
            reservation=self.claim if self.claim is not None and self.claim.is_joined else None,
        )

    def fail(self, error: BaseException) -> None:
        """Give up because of an error, and tell of it where it is a refusal. Blocks, never raises."""
        self.abort()
        if isinstance(error, (ContentRejectedError, ChecksumMismatchError)):
            self._events.refused(error, self._policy.storage_key)

    def abort(self) -> None:
        """Give up; nothing remains. Idempotent, a no-op after ``commit``; blocks, never raises."""
        if self._done:
            return
        self._done = True
        self._intake.abandon()
        if self._writer is not None:
            self._writer.abort()
        if self._foreign is not None:
            self._foreign.close()
        if self._is_copied:
            with suppress(StorageError):
                self.backend.delete(self._location)
        if self.claim is not None:
            with suppress(Exception):  # what is not given back now is found by the reconcile
                self.claim.give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def _plain(extra: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A copy as the column will keep it, so that what it cannot keep is refused before anything is stored."""
    if extra is None:
        return None
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(extra), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"extra must be JSON-compatible: {error}") from error
    return copied
