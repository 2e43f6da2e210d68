"""Memory that grows where it is, and goes back to the system at once."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

__all__ = ["HUGE_BYTES", "grown"]

HUGE_BYTES: Final = 2 * 1024 * 1024
"""From so many on the system is asked for huge pages; what many bytes are expected for should begin with as many."""
_PRIVATE: Final[dict[str, int]] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
)
"""Pages that can grow where they are (mremap(2) does not let shared ones)."""


def grown(pages: mmap.mmap | None, capacity: int, kept: int) -> mmap.mmap:
    """Return pages of more bytes, which begin with those that were there; the old ones are not to be used again.

    What malloc is given back it may keep: after a few parts it raises the size from which it asks the system for memory
    of its own, and then the process never shrinks again (mallopt(3), M_MMAP_THRESHOLD).

    Args:
        pages: What there was.
        capacity: How many bytes are wanted.
        kept: How many of the old ones count.
    """
    if pages is None:
        return _mapped(capacity)
    try:
        pages.resize(capacity)
        _ask_for_huge_pages(pages)
    except (SystemError, ValueError, OSError, BufferError):  # the system cannot, or somebody looks at the old ones
        larger = _mapped(capacity)
        with memoryview(pages) as view:
            larger[:kept] = view[:kept]
        return larger
    return pages


def _mapped(capacity: int) -> mmap.mmap:
    pages = mmap.mmap(-1, capacity, **_PRIVATE)
    _ask_for_huge_pages(pages)
    return pages


def _ask_for_huge_pages(pages: mmap.mmap) -> None:
    """Have the system give memory 2 MiB at a time: in small pages, taking it costs ten times what filling it does."""
    if len(pages) >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
