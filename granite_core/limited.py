"""A stream that ends in an error where it would give more than allowed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final

from granite_core.backends.base import ReadableStream
from granite_core.errors import ContentTooLargeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SizeLimitedStream"]


class SizeLimitedStream(io.BufferedIOBase, BinaryIO):
    """Reads another stream, and raises where more than ``max_size`` bytes of it would be given out.

    The limit is on the content, from where the stream stands now: no way of reading passes it, and reading a part
    again does not count twice. The stream itself is never closed. ``StorageManager`` limits by itself what it stores;
    this is for code that hands a stream to something else.

    Args:
        stream: A binary stream; only its ``read`` is needed. Seekable where it is.
        max_size: Largest content in bytes; None for no limit.
        chunk_size: Bytes that one step of an iteration gives at most.
    """

    def __init__(self, stream: ReadableStream, max_size: int | None, chunk_size: int = 1024 * 1024) -> None:
        self._stream: Final = stream
        self.max_size: Final = max_size
        self.chunk_size: Final = chunk_size
        self.total_read = 0
        """How many bytes of the content have been given out; what was read again counts once."""
        self._position = 0
        seekable = getattr(stream, "seekable", None)
        self._start: int | None = stream.tell() if callable(seekable) and seekable() else None  # type: ignore[attr-defined]  # what is seekable tells

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes, fewer only at the end; all that is left for -1 or None.

        Raises:
            ContentTooLargeError: There is a byte past the limit.
        """
        wanted = -1 if size is None or size < 0 else size
        pieces: list[bytes] = []
        while wanted:
            piece = self.read1(wanted if wanted > 0 else self.chunk_size)
            if not piece:
                break
            pieces.append(piece)
            wanted = wanted - len(piece) if wanted > 0 else wanted
        return b"".join(pieces)

    def read1(self, size: int = -1, /) -> bytes:
        """Return what one read of the stream gives, ``size`` bytes at most.

        Raises:
            ContentTooLargeError: There is a byte past the limit.
        """
        self._check_open()
        return self._admit(self._stream.read(self._ask(self.chunk_size if size < 0 else size)))

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the bytes up to and with the next line feed, ``size`` of them at most.

        Raises:
            ContentTooLargeError: There is a byte past the limit.
        """
        self._check_open()
        wanted = None if size is None or size < 0 else size
        readline = getattr(self._stream, "readline", None)
        if not callable(readline):
            return super().readline(-1 if wanted is None else wanted)
        if self.max_size is None and wanted is None:
            return self._admit(readline())
        asked = self._left() + 1 if wanted is None else self._ask(wanted)
        return self._admit(readline(asked))

    def readlines(self, hint: int | None = None, /) -> list[bytes]:
        """Return lines to the end, or until they hold ``hint`` bytes.

        Raises:
            ContentTooLargeError: There is a byte past the limit.
        """
        lines: list[bytes] = []
        length = 0
        while not (hint and 0 < hint <= length) and (line := self.readline()):
            lines.append(line)
            length += len(line)
        return lines

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill a buffer as ``read`` would, and return the number of bytes.

        Raises:
            ContentTooLargeError: There is a byte past the limit.
        """
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: Buffer, /) -> int:
        """Fill a buffer with what one read of the stream gives, and return the number of bytes.

        Raises:
            ContentTooLargeError: There is a byte past the limit.
        """
        view = memoryview(buffer).cast("B")
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def __next__(self) -> bytes:
        """Return the next chunk: pieces of ``chunk_size`` bytes, not lines."""
        if chunk := self.read(self.chunk_size):
            return chunk
        raise StopIteration

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """Whether the stream is."""
        return self._start is not None

    def tell(self) -> int:
        """Return the position, counted from where the content began."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position, counted from where the content began.

        Raises:
            io.UnsupportedOperation: The stream is not seekable.
            ValueError: The position is before the beginning.
        """
        self._check_open()
        if self._start is None:
            raise io.UnsupportedOperation("the stream is not seekable")
        stream: BinaryIO = self._stream  # type: ignore[assignment]  # it is seekable
        if whence == io.SEEK_END:
            offset += stream.seek(0, io.SEEK_END) - self._start
        elif whence == io.SEEK_CUR:
            offset += self._position
        if offset < 0:
            raise ValueError("a position must not be before the beginning of the content")
        stream.seek(self._start + offset)
        self._position = offset
        return offset

    def _left(self) -> int:
        return max(0, (self.max_size or 0) - self._position)

    def _ask(self, size: int) -> int:
        """How many bytes to ask the stream for: one past the limit shows that there is more."""
        return size if self.max_size is None else min(size, self._left() + 1)

    def _admit(self, data: bytes) -> bytes:
        if isinstance(data, str):
            raise TypeError("the stream must be binary: open the file with mode 'rb'")
        data = bytes(data)
        self._position += len(data)
        if data and self.max_size is not None and self._position > self.max_size:
            raise ContentTooLargeError(
                f"more than the {self.max_size} bytes allowed",
                operation="read",
                limit=self.max_size,
                value=self._position,
            )
        self.total_read = max(self.total_read, self._position)
        return data

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
