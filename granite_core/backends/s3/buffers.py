"""Where a part waits until it is whole: in memory while the process's budget lasts, then in an unlinked file."""

from __future__ import annotations

import base64
import io
import mmap
import tempfile
import zlib
from typing import IO, Final, cast

from granite_core.backends._budget import BufferBudget
from granite_core.backends._pages import grown

__all__ = ["PartBuffer"]

STEP: Final = 256 * 1024
FIRST_BYTES: Final = 64 * 1024
SMALL_BYTES: Final = 1024 * 1024


class PartBuffer:
    """The bytes of one part, with their CRC-32.

    Args:
        budget: What memory is taken from.
        expected: How many bytes come, as far as is known.
        at_most: How many can come, where that is known: no more memory is taken.

    Attributes:
        length: How many there are.
    """

    def __init__(self, budget: BufferBudget, expected: int | None = None, *, at_most: int | None = None) -> None:
        self.length = 0
        self._budget = budget
        self._at_most = at_most
        self._first = FIRST_BYTES if expected is None else max(expected, 1)
        self._reserved = 0
        self._pages: mmap.mmap | None = None
        self._file: IO[bytes] | None = None
        self._crc = 0

    def fits(self, size: int) -> bool:
        """Take memory for as many more bytes; False if there is not enough left of the budget."""
        wanted = self.length + size
        if self._file is not None or wanted <= self._reserved:
            return True
        more = max(self._first, 2 * self._reserved)
        if self._at_most is not None:
            more = min(more, self._at_most)
        return self._takes(max(more, wanted)) or self._takes(-(-wanted // STEP) * STEP)

    def append(self, data: memoryview) -> None:
        """Add bytes. Where they do not fit, everything moves to a file.

        Raises:
            OSError: The temporary file cannot be written.
        """
        if not self.fits(len(data)):
            self._spill()
        end = self.length + len(data)
        if self._file is not None:
            self._file.write(data)
        elif data:
            if self._pages is None or end > len(self._pages):
                self._pages = grown(self._pages, self._reserved, self.length)
            self._pages[self.length : end] = data
        self._crc = zlib.crc32(data, self._crc)
        self.length = end

    @property
    def body(self) -> IO[bytes]:
        """The bytes as a file, at its beginning."""
        if self._file is None:
            return cast("IO[bytes]", _Body(self._view()))
        self._file.flush()
        self._file.seek(0)
        return self._file

    @property
    def payload(self) -> bytes | IO[bytes]:
        """What boto3 is to send. For a file it asks the store whether it may, which is a round trip more."""
        if self._file is not None:
            return self.body
        view = self._view()
        return bytes(view) if self.length <= SMALL_BYTES else cast("IO[bytes]", _Body(view, at_least=STEP))

    @property
    def crc32(self) -> str:
        """The checksum as S3 writes it: base64 of four bytes, the highest first."""
        return base64.b64encode(self._crc.to_bytes(4, "big")).decode("ascii")

    def free(self) -> None:
        """Give back memory and file. Idempotent."""
        reserved, self._reserved = self._reserved, 0
        self._pages = None  # unmapped as soon as no view of it is left
        self._budget.give(reserved)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _view(self) -> memoryview:
        return memoryview(b"") if self._pages is None else memoryview(self._pages)[: self.length]

    def _takes(self, capacity: int) -> bool:
        # One buffer may take half of all, so that huge parts of one upload do not push out everybody else's.
        if capacity > self._budget.limit // 2 or not self._budget.take(capacity - self._reserved):
            return False
        self._reserved = capacity
        return True

    def _spill(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="granite-part-")  # noqa: SIM115 - closed by free()
        self._file.write(self._view())
        reserved, self._reserved = self._reserved, 0
        self._pages = None
        self._budget.give(reserved, spilled=True)


class _Body:
    """Bytes as a file. A piece of so many bytes is a view: http.client, ssl and hashlib take it as it is.

    Copies would be made in the threads that send, each of which has memory of its own that malloc keeps. A view stays
    good when the buffer is freed or grows: the pages are unmapped when nobody looks at them any more.

    Args:
        content: The bytes.
        at_least: How many ``read`` gives although it is asked for fewer. boto3 asks for 16 KiB at a time, and sends
            whatever comes: what each piece costs on its way through http.client and ssl is more than sending it.
    """

    def __init__(self, content: memoryview, *, at_least: int = 0) -> None:
        self._content = content
        self._at_least = at_least
        self._position = 0

    def __len__(self) -> int:
        return len(self._content)

    def read(self, size: int | None = -1, /) -> bytes | memoryview:
        """Return the next bytes; for -1 all that are left, copied: nobody asks so in order to send them."""
        if size is None or size < 0:
            rest = bytes(self._content[self._position :])
            self._position += len(rest)
            return rest
        piece = self._content[self._position : self._position + max(size, size and self._at_least)]
        self._position += len(piece)
        return piece

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}[whence]
        self._position = max(0, base + offset)
        return self._position
