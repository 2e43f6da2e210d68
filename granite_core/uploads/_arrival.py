"""Bytes on their way into an upload session: limit, sniff, hash, write. Knows no database."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from granite_core._pending import PendingFile
from granite_core.backends.base import Capability, ResumableWriter, StorageBackend
from granite_core.backends.pieces import resume_in_pieces
from granite_core.errors import ContentRejectedError, UnfinishableError, UploadOffsetError
from granite_core.events import EventHub
from granite_core.intake import INTAKE_BYTES
from granite_core.media import SNIFF_BYTES, judge_content
from granite_core.policies import StoragePolicy
from granite_core.publishing import options_for
from granite_core.refs import StagedFile, StoredObjectRef, timestamp
from granite_core.uploads._hashing import resume_sha256
from granite_core.uploads.sessions import Progress, UploadSession

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["Arrival"]

READ_BYTES: Final = 1024 * 1024
WHOLE_BYTES: Final = 16 * 1024
"""Chunks of so many bytes are handed on as they came: to join them takes memory in each thread that drains."""


class Arrival:
    """One go at the bytes of a session. Used by one thread at a time.

    ``admit`` is cheap and may run on an event loop; all else blocks.

    Args:
        session: What is gone on with.
        planned: The ref it will have.
        policy: Whose rules apply.
        backend: Where the bytes go.
        now: The clock.
        discard: Deletes a stored object.
        events: Hears of what is stored and refused.
        field: Name for errors; the ``storage_key`` where absent.
        sniffs: Whether the type is judged, and validators look at the object; not for a piece of a larger one.
    """

    def __init__(
        self,
        session: UploadSession,
        planned: StoredObjectRef,
        policy: StoragePolicy,
        backend: StorageBackend,
        *,
        now: Callable[[], datetime],
        discard: Callable[[StoredObjectRef], None],
        events: EventHub,
        field: str | None = None,
        sniffs: bool = True,
    ) -> None:
        progress = session.progress
        self.backend: Final = backend
        self.length = session.length
        self.size = session.offset
        """Bytes admitted, with those of earlier goes."""
        self.content_type = progress.content_type
        self.leftovers: Sequence[str] = ()
        """Keys under which ``store`` has left something, or a go that sleeps may."""
        self._planned = planned
        self._policy = policy
        self._now = now
        self._discard = discard
        self._events = events
        self._field = field
        self._sniffs = sniffs
        self._leftovers = progress.leftovers
        self._state = progress.writer
        self._written = session.offset
        self._head = progress.head
        self._hash = resume_sha256(progress.sha256, session.offset)
        self._chunks: list[bytes] = []
        self._pending = 0
        self._writer: ResumableWriter | None = None
        self._began = time.perf_counter()

    @property
    def room(self) -> int | None:
        """How many more bytes there may be; None where the length is not known."""
        return None if self.length is None else self.length - self.size

    def admit(self, data: Buffer) -> bool:
        """Take the next bytes into the buffer, without blocking. True when ``drain`` is due.

        Raises:
            UploadOffsetError: They are more than the session's length; none of them was taken.
            ContentTooLargeError: They are more than the policy allows; none of them was taken.
        """
        chunk = data if isinstance(data, bytes) else bytes(data)
        size = self.size + len(chunk)
        if self.length is not None and size > self.length:
            raise UploadOffsetError(
                f"the upload has {self.length} bytes, and more came", operation="put", limit=self.length, value=size
            )
        self._checked(lambda: self._policy.check_size(size, field=self._field))
        self.size = size
        if chunk:
            self._chunks.append(chunk)
            self._pending += len(chunk)
        return self._pending >= INTAKE_BYTES

    def judge(self, *, ends: bool = False) -> bool:
        """Tell the type, once there are bytes enough; whether what has come may be written.

        Args:
            ends: Whether nothing more comes in this go: then also what is too little to tell the type by is written.

        Raises:
            ContentTypeNotAllowedError: The first bytes show a type that is not accepted.
        """
        if self.content_type is not None:
            return True
        if len(self._head) < SNIFF_BYTES and self._chunks:
            waiting = b"".join(self._chunks)
            seen = len(self._head) - self._written
            self._head += waiting[seen : seen + SNIFF_BYTES - len(self._head)]
        if len(self._head) < SNIFF_BYTES and not self.is_complete:
            return ends
        judged = judge_content(self._head, self._planned.original_filename, self._planned.content_type)
        if self._sniffs:
            self._checked(lambda: self._policy.check_content(judged, field=self._field))
        self.content_type = judged.content_type
        return True

    @property
    def is_complete(self) -> bool:
        """Whether all bytes have come."""
        return self.length is not None and self.size == self.length

    def open(self) -> Progress | None:
        """Begin a go. Return what must be recorded, at the same offset, before anything is written; None for nothing.

        Raises:
            UnfinishableError: What was written before is gone.
            BackendError: The backend cannot go on now.
        """
        if self._writer is None:
            self._writer = self._open()
        state = self._writer.state
        return None if state is None else replace(self._progress(), writer=state)

    def drain(self) -> None:
        """Hash what was gathered, and hand it to the backend.

        Raises:
            BackendError: It cannot be stored.
        """
        chunks, self._chunks = self._chunks, []
        self._pending = 0
        if chunks and len(chunks[0]) < WHOLE_BYTES:
            chunks = [b"".join(chunks)]
        for data in chunks:
            if self._writer is None:
                self._writer = self._open()
            self._writer.write(data)
            self._written += len(data)
            if self._hash is not None:
                self._hash.update(data)

    def checkpoint(self, *, ends: bool = False) -> tuple[int, Progress]:
        """Make durable what has come; return how much that is, and how to go on.

        Raises:
            BackendError: It cannot be stored.
        """
        self.drain()
        if self._writer is None:
            self._writer = self._open()
        self._state = self._writer.checkpoint(ends=ends, last=self.is_complete)
        return self._written, self._progress()

    def store(self, on_joined: Callable[[int], object] | None = None) -> PendingFile:
        """Make the complete object visible, with its checksum. Nobody may have its ref before the validators saw it.

        The session has recorded its last checkpoint. May be done again by a later go.

        Args:
            on_joined: Is called with the bytes that are joined so far, where pieces have to be.

        Raises:
            UnfinishableError: What is there has another length.
            BackendError: It is not known to be there; a later go may try again.
        """
        if self._writer is None:
            self._writer = self._open()
            self._writer.checkpoint(last=True)
        created_at = self._now()
        self._writer.on_joined = on_joined
        self._writer.commit()
        self._writer.close()
        self._check_stored(self._writer.stored_size)
        self.leftovers = self._writer.leftovers
        self._writer = None
        checksum = self._hash.hexdigest() if self._hash is not None else self._read_again()
        planned = self._planned
        staged = StagedFile(
            planned.storage_key,
            planned.backend,
            planned.location,
            self.size,
            f"sha256:{checksum}",
            self.content_type,
            planned.original_filename,
            timestamp(created_at),
            planned.extra,
            discard=self._discard,
        )
        self._events.stored(staged, time.perf_counter() - self._began, copied=False)
        policy = self._policy if self._sniffs else replace(self._policy, validators=())
        return PendingFile(staged, policy, self.backend, self._field, self._events, stays=True)

    def close(self) -> None:
        """End this go. Idempotent, never raises; what was recorded stays."""
        if self._writer is not None:
            self._writer.close()

    def withdraw(self, *, refused: bool) -> None:
        """End this go, for the session is another's, or over; remove what only this go has written. Never raises.

        Args:
            refused: Whether it is known that the last checkpoint was not recorded.
        """
        if self._writer is not None:
            with suppress(Exception):  # what is left is found by others
                self._writer.withdraw(refused=refused)

    def _open(self) -> ResumableWriter:
        known: dict[str, Any] = {
            "offset": self._written,
            "state": self._state,
            "content_type": self.content_type,
            "options": options_for(self._policy, self.content_type, self._planned.original_filename),
        }
        if Capability.RESUMABLE_WRITES in self.backend.capabilities:
            return self.backend.resume_writer(self._planned.location, **known)
        return resume_in_pieces(self.backend, self._planned.location, **known)

    def _checked(self, check: Callable[[], None]) -> None:
        try:
            check()
        except ContentRejectedError as error:
            self._events.refused(error, self._policy.storage_key)
            raise

    def _progress(self) -> Progress:
        return Progress(
            writer=self._state,
            sha256=self._hash.save() if self._hash is not None else None,
            head=self._head[: self._written] if self.content_type is None else b"",
            content_type=self.content_type,
            leftovers=self._leftovers,
        )

    def _check_stored(self, size: int | None) -> None:
        """Look whether what became visible is as long as what came: its checksum is that of what came."""
        location = self._planned.location
        found = self.backend.stat(location).size if size is None else size
        if found != self.size:
            raise UnfinishableError(
                f"the object has {found} bytes, {self.size} came", operation="commit", location=location
            )

    def _read_again(self) -> str:
        digest = hashlib.sha256()
        with self.backend.open_reader(self._planned.location) as reader:
            while data := reader.read(READ_BYTES):
                digest.update(data)
        return digest.hexdigest()
