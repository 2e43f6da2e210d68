"""An object on its way in: the intake in front of a backend's writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from granite_core.backends.base import ObjectWriter, StorageBackend
from granite_core.errors import StorageError
from granite_core.intake import Intake
from granite_core.policies import StoragePolicy
from granite_core.refs import StagedFile, StoredObjectRef, timestamp
from granite_core.urls import options_for

if TYPE_CHECKING:
    from typing import Any, Self

    from typing_extensions import Buffer

__all__ = ["StagedWrite", "make_staged"]


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
        filename: str | None = None,
        claimed_type: str | None = None,
        field: str | None = None,
        expected_size: int | None = None,
        checksum: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.backend: Final = backend
        """The backend that is written to."""
        self._policy = policy
        self._location = location
        self._now = now
        self._discard = discard
        self._filename = filename
        self._expected_size = expected_size
        self._expected_checksum = checksum
        self._extra = _plain(extra)
        self._intake = Intake(policy, field=field, filename=filename, claimed_type=claimed_type)
        self._writer: ObjectWriter | None = None
        self._done = False

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
        return self._intake.admit(data)

    def drain(self) -> None:
        """Hash the buffer and hand it to the backend. Blocks.

        Raises:
            ContentTypeNotAllowedError: The bytes show a type that is not accepted; nothing remains.
            BackendError: They cannot be stored; nothing remains.
        """
        try:
            data = self._intake.take()
            if self._writer is None:
                self._writer = self.backend.open_writer(
                    self._location,
                    content_type=self._intake.content_type,
                    size=self._expected_size if len(data) == self._expected_size else None,
                    options=options_for(self._policy, self._intake.content_type, self._filename),
                )
            if data:
                self._writer.write(data)
        except BaseException:
            self.abort()
            raise

    def commit(self) -> StagedFile:
        """Make the object durable and return its ref.

        Raises:
            ChecksumMismatchError: Announced size or checksum differ; nothing remains.
            StorageError: It cannot be stored; nothing remains.
        """
        if self._done:
            raise StorageError("this write has ended already", operation="commit")
        try:
            self.drain()
            checksum = self._intake.checksum(expected_size=self._expected_size, expected=self._expected_checksum)
            # Read before the object becomes visible: its age must never be taken for less than it is.
            created_at = self._now()
            if self._writer is None:
                raise StorageError("nothing was opened", operation="commit")
            self._writer.commit()
        except BaseException:
            self.abort()
            raise
        self._done = True
        return make_staged(
            self._policy,
            self._location,
            self._intake.size,
            checksum,
            self._intake.content_type,
            self._filename,
            created_at,
            self._discard,
            self._extra,
        )

    def abort(self) -> None:
        """Give up; nothing remains. Idempotent, a no-op after ``commit``; blocks, never raises."""
        if self._done:
            return
        self._done = True
        if self._writer is not None:
            self._writer.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def make_staged(
    policy: StoragePolicy,
    location: str,
    size: int,
    checksum: str,
    content_type: str | None,
    filename: str | None,
    created_at: datetime,
    discard: Callable[[StoredObjectRef], None],
    extra: Mapping[str, Any] | None = None,
) -> StagedFile:
    """Write the receipt of an object that was stored just now."""
    return StagedFile(
        policy.storage_key,
        policy.backend_key,
        location,
        size,
        checksum,
        content_type,
        filename,
        timestamp(created_at),
        extra,
        discard=discard,
    )


def _plain(extra: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A copy as the column will keep it, so that what it cannot keep is refused before anything is stored."""
    if extra is None:
        return None
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(extra), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"extra must be JSON-compatible: {error}") from error
    return copied
