"""Where a part waits until it is whole: in memory while the process's budget lasts, then in an unlinked file."""

from __future__ import annotations

import base64
import io
import mmap
import tempfile
import zlib
from typing import IO, TYPE_CHECKING, Final, cast

from granite_core.backends._budget import BufferBudget

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PartBuffer"]

STEP: Final = 256 * 1024


class PartBuffer:
    """The bytes of one part, with their CRC-32.

    Attributes:
        length: How many there are.
    """

    def __init__(self, budget: BufferBudget) -> None:
        self.length = 0
        self._budget = budget
        self._reserved = 0
        self._memory = _Pages()
        self._file: IO[bytes] | None = None
        self._crc = 0

    def fits(self, size: int) -> bool:
        """Take memory for as many more bytes; False if there is not enough left of the budget."""
        missing = self.length + size - self._reserved
        if self._file is not None or missing <= 0:
            return True
        missing = -(-missing // STEP) * STEP
        # One buffer may take half of all, so that huge parts of one upload do not push out everybody else's.
        if self._reserved + missing > self._budget.limit // 2 or not self._budget.take(missing):
            return False
        self._reserved += missing
        return True

    def append(self, data: memoryview) -> None:
        """Add bytes. Where they do not fit, everything moves to a file.

        Raises:
            OSError: The temporary file cannot be written.
        """
        if not self.fits(len(data)):
            self._spill()
        if self._file is not None:
            self._file.write(data)
        else:
            self._memory.append(data)
        self._crc = zlib.crc32(data, self._crc)
        self.length += len(data)

    @property
    def body(self) -> IO[bytes]:
        """What is sent, at its beginning."""
        if self._file is None:
            self._memory.seek(0)
            return cast("IO[bytes]", self._memory)
        self._file.flush()
        self._file.seek(0)
        return self._file

    @property
    def crc32(self) -> str:
        """The checksum as S3 writes it: base64 of four bytes, the highest first."""
        return base64.b64encode(self._crc.to_bytes(4, "big")).decode("ascii")

    def free(self) -> None:
        """Give back memory and file. Idempotent."""
        reserved, self._reserved = self._reserved, 0
        self._memory.close()
        self._budget.give(reserved)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="granite-part-")  # noqa: SIM115 - closed by free()
        self._memory.seek(0)
        while data := self._memory.read(STEP):
            self._file.write(data)
        reserved, self._reserved = self._reserved, 0
        self._memory.close()
        self._budget.give(reserved, spilled=True)


class _Pages(io.RawIOBase):
    """A file in pages of memory that go back to the system at once when it is closed.

    What malloc is given back it may keep: after a few parts it raises the size from which it asks the system for memory
    of its own, and then the process never shrinks again (mallopt(3), M_MMAP_THRESHOLD).
    """

    def __init__(self) -> None:
        self._pages: list[mmap.mmap] = []
        self._length = 0
        self._position = 0

    def append(self, data: memoryview) -> None:
        """Add bytes at the end."""
        while data:
            at = self._length % STEP
            if at == 0:
                self._pages.append(mmap.mmap(-1, STEP))
            piece = data[: STEP - at]
            self._pages[-1][at : at + len(piece)] = piece
            self._length += len(piece)
            data = data[len(piece) :]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        page, at = divmod(self._position, STEP)
        size = min(len(view), STEP - at, self._length - self._position)
        if size <= 0:
            return 0
        view[:size] = self._pages[page][at : at + size]
        self._position += size
        return size

    def close(self) -> None:
        while self._pages:
            self._pages.pop().close()
        self._length = 0
        super().close()
