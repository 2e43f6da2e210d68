"""How an object is cut into parts (S3 user guide, "Multipart upload limits"). Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_PARTS", "MAX_PART_BYTES", "MIN_PART_BYTES", "copy_ranges", "part_length"]

MIB: Final = 1024 * 1024
MIN_PART_BYTES: Final = 5 * MIB
MAX_PART_BYTES: Final = 5 * 1024 * MIB
MAX_PARTS: Final = 10_000
PARTS_OF_ONE_LENGTH: Final = 1_000


def part_length(number: int, *, base: int, size: int | None = None) -> int:
    """Return the length, in bytes, of a part.

    Where the object's size is known, all parts are alike. Where it is not, they double after every thousandth, so that
    a short stream needs little memory and one of 5 TB still fits into 10,000 parts.

    Args:
        number: The part's number; the first is 1.
        base: The shortest length wanted.
        size: The object's length, where it is known.
    """
    if size is not None:
        needed = -(-size // MAX_PARTS)
        return max(base, -(-needed // MIB) * MIB)
    return min(MAX_PART_BYTES, base << ((number - 1) // PARTS_OF_ONE_LENGTH))


def copy_ranges(size: int, *, base: int) -> list[tuple[int, int]]:
    """Return the first and last byte of each part in which an object of ``size`` bytes is copied."""
    length = part_length(1, base=base, size=size)
    return [(start, min(start + length, size) - 1) for start in range(0, size, length)]
