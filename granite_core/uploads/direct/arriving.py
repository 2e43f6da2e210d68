"""Bytes that a client would send to the store itself, where the store has no way: taken by the application."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from granite_core.errors import ChecksumMismatchError, ContentTooLargeError, ObjectExistsError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from granite_core.backends.base import ObjectWriter, StorageBackend

__all__ = ["DirectWrite"]

BUFFER_BYTES: Final = 256 * 1024


class DirectWrite:
    """One request's bytes, on their way to a key that no row will name. Used by one thread at a time.

    Limits are kept as bytes come. What the content is, is looked at when the upload is completed.

    Args:
        backend: Where they go.
        key: The key.
        min_size: How many there must be.
        max_size: How many there may be.
        checksum: Their ``"sha256:…"``; None where it was not announced.
        redirect: Where the client is sent at the end.
    """

    def __init__(
        self,
        backend: StorageBackend,
        key: str,
        *,
        min_size: int,
        max_size: int,
        checksum: str | None,
        redirect: str | None = None,
    ) -> None:
        self.backend: Final = backend
        self.key: Final = key
        self.redirect: Final = redirect
        self.max_size: Final = max_size
        self._min_size = min_size
        self._checksum = checksum
        self._digest = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._pending = 0
        self._size = 0
        self._writer: ObjectWriter | None = None

    def admit(self, data: Buffer) -> bool:
        """Take the next bytes into the buffer, without blocking. True when ``drain`` is due.

        Raises:
            ContentTooLargeError: They are more than were announced.
        """
        chunk = data if isinstance(data, bytes) else bytes(data)
        self.check_length(self._size + len(chunk))
        self._size += len(chunk)
        self._pending += len(chunk)
        self._chunks.append(chunk)
        return self._pending >= BUFFER_BYTES

    def check_length(self, size: int) -> None:
        """Refuse more bytes than may come.

        Raises:
            ContentTooLargeError: They are more.
        """
        if size > self.max_size:
            raise ContentTooLargeError(
                f"more than the {self.max_size} bytes announced", operation="put", limit=self.max_size, value=size
            )

    def drain(self) -> None:
        """Hand the buffer to the backend. Blocks.

        Raises:
            BackendError: It cannot be stored.
        """
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._pending = 0
        if self._writer is None:
            self._writer = self.backend.open_writer(self.key)
        if data:
            self._digest.update(data)
            self._writer.write(data)

    def commit(self) -> None:
        """Make them the object under the key, in place of what an earlier request wrote there. Blocks.

        Raises:
            ChecksumMismatchError: They are too few, or others than were announced.
            BackendError: They cannot be stored.
        """
        self.drain()
        found = f"sha256:{self._digest.hexdigest()}"
        if self._size < self._min_size:
            raise ChecksumMismatchError(
                f"{self._size} bytes came, {self._min_size} were announced",
                operation="put",
                limit=self._min_size,
                value=self._size,
            )
        if self._checksum is not None and self._checksum != found:
            raise ChecksumMismatchError(
                "the SHA-256 of what came differs from the announced one",
                operation="put",
                limit=self._checksum,
                value=found,
            )
        self.backend.delete(self.key)  # a client sends again what it is not sure of
        if self._writer is not None:
            with suppress(ObjectExistsError):  # of two at once the later one stays: this one came before it
                self._writer.commit()

    def abort(self) -> None:
        """Give up; nothing of it remains. Idempotent, never raises."""
        if self._writer is not None:
            self._writer.abort()
