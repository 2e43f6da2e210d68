"""Range requests (RFC 9110, section 14) as pure functions."""

from __future__ import annotations

import re
from typing import Final

import msgspec

__all__ = ["DEFAULT_MAX_RANGES", "PART_OVERHEAD", "ByteRange", "select_ranges"]

DEFAULT_MAX_RANGES: Final = 32
"""More ranges than this in one request are answered with the whole representation (RFC 9110, 17.15)."""

PART_OVERHEAD: Final = 80
"""Gap in bytes up to which two ranges are sent as one: about what a part's head costs (RFC 9110, 15.3.7.2)."""

_RANGE_SPEC: Final = re.compile(r"(?P<first>[0-9]{1,64})-(?P<last>[0-9]{0,64})|-(?P<suffix>[0-9]{1,64})")


class ByteRange(msgspec.Struct, frozen=True):
    """A run of bytes of a representation."""

    offset: int
    length: int

    @property
    def last(self) -> int:
        """Position of the last byte, inclusive, as ``Content-Range`` writes it."""
        return self.offset + self.length - 1

    def content_range(self, size: int) -> str:
        """The value of ``Content-Range`` for this range of ``size`` bytes (RFC 9110, section 14.4)."""
        return f"bytes {self.offset}-{self.last}/{size}"


def select_ranges(
    field_value: str, size: int, *, max_ranges: int = DEFAULT_MAX_RANGES, gap: int = PART_OVERHEAD
) -> tuple[ByteRange, ...] | None:
    """Decide which bytes a ``Range`` field asks for.

    Ranges that overlap, touch, or lie at most ``gap`` bytes apart become one. The order is that of the request
    (RFC 9110, section 15.3.7.2). A header is ignored, as section 14.2 allows, when its unit is unknown, its
    syntax is broken, it asks for more than ``max_ranges`` ranges or for more bytes than there are, or when the
    representation is empty: an empty range cannot be written as a ``Content-Range``, and players that send
    ``bytes=0-`` with every request are better served with an empty 200 than with an error.

    Args:
        field_value: The value of ``Range``, as received.
        size: Length of the representation in bytes.
        max_ranges: How many ranges one request may ask for.
        gap: Number of bytes between two ranges up to which they are joined.

    Returns:
        The ranges to send, all within the representation; an empty tuple if none of those asked for can be
        satisfied (416); ``None`` if the field is to be ignored (200).
    """
    unit, equals, range_set = field_value.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes" or size == 0:
        return None
    specs = [spec for spec in (element.strip(" \t") for element in range_set.split(",")) if spec]
    if not specs or len(specs) > max_ranges:
        return None

    ranges: list[ByteRange] = []
    for spec in specs:
        match = _RANGE_SPEC.fullmatch(spec)
        if match is None:
            return None
        if match["suffix"] is not None:
            length = min(int(match["suffix"]), size)
            if length:
                ranges.append(ByteRange(size - length, length))
            continue
        first = int(match["first"])
        last = int(match["last"]) if match["last"] else size - 1
        if match["last"] and last < first:
            return None
        if first < size:
            ranges.append(ByteRange(first, min(last, size - 1) - first + 1))

    if len(ranges) > 1 and sum(wanted.length for wanted in ranges) > size:
        return None
    return _coalesce(ranges, gap)


def _coalesce(ranges: list[ByteRange], gap: int) -> tuple[ByteRange, ...]:
    """Join neighbours; what was joined stands where its first member was asked for."""
    joined: list[tuple[int, ByteRange]] = []
    for position, wanted in sorted(enumerate(ranges), key=lambda item: (item[1].offset, item[1].length)):
        if joined:
            previous_position, previous = joined[-1]
            if wanted.offset <= previous.offset + previous.length + gap:
                end = max(previous.last, wanted.last)
                whole = ByteRange(previous.offset, end - previous.offset + 1)
                joined[-1] = (min(position, previous_position), whole)
                continue
        joined.append((position, wanted))
    return tuple(wanted for _, wanted in sorted(joined, key=lambda item: item[0]))
