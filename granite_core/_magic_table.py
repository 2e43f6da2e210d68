"""puremagic's table of signatures, put in order once, so that few of them are held against a content. Pure.

puremagic itself goes through the whole table for each content, most of it signatures of kinds that nobody asks for
here. What is found is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from granite_core._kinds import MEDIA, SIGNED
from granite_core._media_types import canonical_type

__all__ = ["kind_by_magic"]


def kind_by_magic(head: bytes) -> str | None:
    """Return the kind whose signature is the longest that a content shows; None where it shows none of those wanted.

    Args:
        head: The first bytes of the content.
    """
    table = _table()
    size, tail = len(head), head[-table.tail :]
    found = [
        each
        for offset, by_byte in table.beginnings
        if offset < size and (group := by_byte.get(head[offset])) is not None and head.startswith(group.magics, offset)
        for each in group.signatures
        if head.startswith(each.magic, offset)
    ]
    found += [each for each, place in table.endings if tail[place] == each.magic]
    if not found:
        return None
    shown = [(-len(each.magic), each.rank, each.kind) for each in found if each.kind is not None]
    for each in found:
        for part in each.parts:
            if (head if part.end is not None else tail)[part.place] == part.magic:
                length = len(each.magic + part.magic if part.end is None else head[each.offset : part.end])
                shown.append((-length, _AFTER_ALL, part.kind))
    return min(shown)[2] if shown else None


_AFTER_ALL: Final = 1 << 30
"""The rank of what two signatures show together."""


class _Part(NamedTuple):
    """A signature that tells more, behind another one."""

    place: slice
    magic: bytes
    kind: str
    end: int | None  # None where its place is counted from the content's end


class _Signature(NamedTuple):
    magic: bytes
    offset: int
    kind: str | None  # None where only its parts matter
    parts: Sequence[_Part]
    rank: int  # among signatures of one length


class _Group(NamedTuple):
    """The signatures that have offset and first byte in common."""

    magics: tuple[bytes, ...]  # which are held against a content in one call
    signatures: Sequence[_Signature]


class _Table(msgspec.Struct, frozen=True):
    beginnings: Sequence[tuple[int, Mapping[int, _Group]]]
    """By offset, then by the byte that stands there."""
    endings: Sequence[tuple[_Signature, slice]]
    tail: int
    """How many bytes at the content's end are looked at."""


@cache
def _table() -> _Table:
    # Imported when the first content comes that needs it: it reads its table from a file.
    from puremagic import main as puremagic

    parts = {magic: _parts(rows) for magic, rows in puremagic.multi_part_dict.items()}
    rows = [*puremagic.magic_header_array, *puremagic.magic_footer_array]
    signatures = [
        _Signature(row.byte_match, row.offset, _wanted(row), parts.get(row.byte_match, ()), rank)
        for rank, row in enumerate(rows)
    ]
    matter = [each for each in signatures if each.kind is not None or each.parts]
    by_offset: dict[int, dict[int, list[_Signature]]] = defaultdict(lambda: defaultdict(list))
    headers = len(puremagic.magic_header_array)
    for each in matter:
        if each.rank < headers:
            by_offset[each.offset][each.magic[0]].append(each)
    return _Table(
        [
            (offset, {byte: _Group(tuple(each.magic for each in group), group) for byte, group in by_byte.items()})
            for offset, by_byte in by_offset.items()
        ],
        [(each, _place(each.magic, each.offset)) for each in matter if each.rank >= headers],
        puremagic.max_foot,
    )


def _parts(rows: Sequence[Any]) -> list[_Part]:
    found = []
    for row in rows:
        if (kind := _wanted(row)) is not None:
            end = None if row.offset < 0 else row.offset + len(row.byte_match)
            found.append(_Part(_place(row.byte_match, row.offset), row.byte_match, kind, end))
    return found


def _place(magic: bytes, offset: int) -> slice:
    return slice(offset, offset + len(magic) or None)


def _wanted(row: Any) -> str | None:
    kind = canonical_type(row.mime_type)
    return kind if kind.startswith(MEDIA) or kind in SIGNED else None
