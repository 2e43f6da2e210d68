"""Where a part waits until it is whole, in one piece: that is how obstore takes it without a copy."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Final
from weakref import finalize

from granite_core.backends._budget import BufferBudget
from granite_core.backends._pages import grown

__all__ = ["PartMemory"]

FIRST_BYTES: Final = 64 * 1024


class PartMemory:
    """Bytes in pages of their own: in memory while the process's budget lasts, then in an unlinked file.

    Args:
        budget: What memory is taken from.
        limit: How many bytes come at most.
        expected: How many come, as far as is known.

    Attributes:
        length: How many there are.
    """

    def __init__(self, budget: BufferBudget, limit: int, expected: int | None = None) -> None:
        self.length = 0
        self._budget = budget
        self._limit = limit
        self._first = min(limit, FIRST_BYTES if expected is None else max(expected, 1))
        self._pages: mmap.mmap | None = None
        self._reserved = 0

    def append(self, data: memoryview) -> None:
        """Add bytes, no more than the limit leaves.

        Raises:
            OSError: The temporary file cannot be made as large.
        """
        wanted = self.length + len(data)
        if self._pages is None or wanted > len(self._pages):
            self._grow(wanted)
        assert self._pages is not None  # noqa: S101 - grown above
        self._pages[self.length : wanted] = data
        self.length = wanted

    def content(self) -> memoryview:
        """Return what was written, to be used until ``free``."""
        return memoryview(b"") if self._pages is None else memoryview(self._pages)[: self.length]

    def hand_over(self, freed: Callable[[], object]) -> memoryview:
        """Return what was written, and let go of it here.

        Args:
            freed: Called when nobody uses the bytes any more, from any thread, and in the midst of anything. What was
                taken from the budget is the caller's to give back: ``taken`` bytes.
        """
        pages, self._pages = self._pages, None
        if pages is None:
            raise ValueError("there is nothing to hand over")
        finalize(pages, freed).atexit = False
        return memoryview(pages)[: self.length]

    @property
    def taken(self) -> int:
        """How many bytes of the budget it takes."""
        return self._reserved

    def free(self) -> None:
        """Give back memory and file. Idempotent; not for what was handed over."""
        reserved, self._reserved = self._reserved, 0
        self._pages = None  # unmapped as soon as no view of it is left
        self._budget.give(reserved)

    def _grow(self, wanted: int) -> None:
        capacity = self._first
        while capacity < wanted:
            capacity = min(2 * capacity, self._limit)
        if not (self._grows_to(capacity) or self._grows_to(-(-wanted // FIRST_BYTES) * FIRST_BYTES)):
            pages = _mapped_file(self._limit)
            pages[: self.length] = self.content()
            self._pages = pages
            reserved, self._reserved = self._reserved, 0
            self._budget.give(reserved, spilled=True)

    def _grows_to(self, capacity: int) -> bool:
        # One part may take half of all, so that huge parts of one upload do not push out everybody else's.
        if capacity > self._budget.limit // 2 or not self._budget.take(capacity - self._reserved):
            return False
        self._reserved = capacity
        self._pages = grown(self._pages, capacity, self.length)
        return True


def _mapped_file(size: int) -> mmap.mmap:
    """Map a file that has no name. Its room on the disk is taken now: a full disk must not kill the process later."""
    with tempfile.TemporaryFile(prefix="granite-part-") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return mmap.mmap(file.fileno(), size)
