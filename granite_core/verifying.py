"""Holding stored bytes against their ref while they are read.

The last bytes are handed over only when all of them are what was stored, so a reader that reaches the end has the
content, and one that does not gets an error. Where reading does not go from front to back, the whole object is read
once before.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, BinaryIO, Final

from granite_core.backends.base import ObjectReader, StorageBackend
from granite_core.errors import ChecksumMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from granite_core.refs import StoredObjectRef

__all__ = ["VerifyingReader", "check_size", "is_whole", "open_verified", "verify_object"]

READ_BYTES: Final = 1024 * 1024
_ALGORITHM: Final = "sha256:"


class _Account:
    """Size and digest of the bytes seen so far, and what they must come to."""

    def __init__(self, ref: StoredObjectRef, operation: str) -> None:
        self._ref = ref
        self._operation = operation
        self._digest = hashlib.sha256()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take bytes into account; raises at the last one where all of them are not what the ref says."""
        self._digest.update(data)
        self.size += len(data)
        if self.size >= self._ref.size:
            self.close()

    def close(self) -> None:
        """Hold what was seen against the ref: there is no more.

        Raises:
            ChecksumMismatchError: It is not what was stored.
        """
        found, wanted = f"{_ALGORITHM}{self._digest.hexdigest()}", self._ref.checksum
        if self.size == self._ref.size and (not wanted.startswith(_ALGORITHM) or wanted.lower() == found):
            return
        raise _mismatch(self._ref, self._operation, self.size, found)

    def check_size(self, size: int) -> None:
        """Hold the size that a store tells of an object against the ref; see the function of that name."""
        check_size(self._ref, size, operation=self._operation)


class VerifyingReader(ObjectReader):
    """Reads a whole object from front to back, and hands its last bytes over only when it is what was stored.

    Args:
        reader: Reads the object from its beginning; closed with this one, and when the size is another already.
        ref: What the object must be. Without a SHA-256, as rows of elsewhere may be, only the size is compared.

    Raises:
        ChecksumMismatchError: The object has another size.
    """

    def __init__(self, reader: ObjectReader, ref: StoredObjectRef) -> None:
        self.size = reader.size
        self._reader = reader
        self._account = _Account(ref, "read")
        try:
            self._account.check_size(reader.size)
        except ChecksumMismatchError:
            reader.close()
            raise

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; see ``ObjectReader.read``.

        Raises:
            ChecksumMismatchError: These would be the last ones, and the object is not what was stored.
            BackendError: The bytes cannot be had.
        """
        data = self._reader.read(size)
        if data:
            self._account.add(data)
        at_end = size < 0 or (size and not data)
        if at_end and self._account.size < self.size:
            self._account.close()
        return data

    def close(self) -> None:
        """Free what is held."""
        self._reader.close()


def check_size(ref: StoredObjectRef, size: int, *, operation: str) -> None:
    """Hold the size that a store tells of an object against its ref.

    Args:
        ref: The ref.
        size: The size in bytes.
        operation: The verb, for the error.

    Raises:
        ChecksumMismatchError: It is another one.
    """
    if size != ref.size:
        raise _mismatch(ref, operation, size, None)


def verify_object(
    backend: StorageBackend,
    ref: StoredObjectRef,
    *,
    operation: str = "verify",
    on_read: Callable[[int], object] | None = None,
) -> None:
    """Read a stored object and hold its size and SHA-256 against a ref.

    Args:
        backend: Where it is.
        ref: What it must be.
        operation: The verb, for errors.
        on_read: Called with the number of bytes of each piece read; may wait, or raise to end it.

    Raises:
        ObjectNotFoundError: The object is gone.
        ChecksumMismatchError: It is not what was stored.
        BackendError: It cannot be read.
    """
    account = _Account(ref, operation)
    with backend.open_reader(ref.location) as reader:
        account.check_size(reader.size)
        while data := reader.read(READ_BYTES):
            if on_read is not None:
                on_read(len(data))
            account.add(data)
    account.close()


def open_verified(
    backend: StorageBackend, ref: StoredObjectRef, *, offset: int = 0, length: int | None = None
) -> BinaryIO:
    """Open an object, or a range of it, as a seekable binary file that gives out nothing unverified as the whole.

    Read from front to back, its last bytes come only when all are what was stored. Before a range, or a part further
    on than was read, the whole object is read once.

    Raises:
        ObjectNotFoundError: The object is gone.
        ChecksumMismatchError: It is not what was stored.
        BackendError: It cannot be opened.
    """
    if not is_whole(ref, offset, length):
        verify_object(backend, ref, operation="read")
        return backend.open(ref.location, offset=offset, length=length)
    return io.BufferedReader(_VerifiedObject(backend, ref), 256 * 1024)


def is_whole(ref: StoredObjectRef, offset: int, length: int | None) -> bool:
    """Tell whether a range is the whole object."""
    return offset == 0 and (length is None or length >= ref.size)


class _VerifiedObject(io.RawIOBase):
    """A seekable view of an object, hashed as far as it was read without a gap."""

    _file: BinaryIO | None = None  # also for an object whose making failed: it is closed when it is collected

    def __init__(self, backend: StorageBackend, ref: StoredObjectRef) -> None:
        super().__init__()
        self._backend = backend
        self._ref = ref
        self._account: _Account | None = _Account(ref, "read")
        self._file = backend.open(ref.location)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._opened().tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._opened().seek(offset, whence)

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        file = self._opened()
        if not len(view):
            return 0
        account = self._account
        if account is not None and account.size < file.tell():
            verify_object(self._backend, self._ref, operation="read")
            self._account = account = None
        if account is None:
            data = file.read(len(view))
        else:
            # What was read before may be read again; what follows it is taken into account.
            again = account.size - file.tell()
            data = file.read(min(len(view), again) if again > 0 else len(view))
            if again <= 0:
                self._take_into_account(account, data, file)
        view[: len(data)] = data
        return len(data)

    def _take_into_account(self, account: _Account, data: bytes, file: BinaryIO) -> None:
        if data:
            account.add(data)
            if account.size == self._ref.size and file.read(1):
                account.add(b"?")  # there is more than there should be
        elif account.size < self._ref.size:
            account.close()

    def close(self) -> None:
        if not self.closed and self._file is not None:
            self._file.close()
        super().close()

    def _opened(self) -> BinaryIO:
        if self.closed or self._file is None:
            raise ValueError("I/O operation on closed file")
        return self._file


def _mismatch(ref: StoredObjectRef, operation: str, size: int, found: str | None) -> ChecksumMismatchError:
    has = f"has {size} bytes" if found is None else f"has {size} bytes with {found}"
    return ChecksumMismatchError(
        f"the stored object {has}; its ref says {ref.size} with {ref.checksum or 'no checksum'}",
        operation=operation,
        backend=ref.backend,
        location=ref.location,
        limit=ref.checksum if found is not None else ref.size,
        value=found if found is not None else size,
    )
