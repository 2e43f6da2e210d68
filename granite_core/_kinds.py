"""Which types of content their bytes show, and what is known of some bytes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

__all__ = [
    "IN_OLE",
    "MACRO",
    "MEDIA",
    "ODF",
    "OLE",
    "OOXML",
    "SIGNED",
    "Shown",
    "exactly",
    "fits_anything_unknown",
    "is_shown_by_bytes",
    "is_textual",
]


class Shown(msgspec.Struct, frozen=True):
    """What bytes show.

    Attributes:
        content_type: Their type, or the most general one that fits; None where they are of no kind known here.
        fits: Tells of another type whether it may name these bytes more exactly.
        kin: Types that are not lies about such bytes, though they do not name them.
    """

    content_type: str | None
    fits: Callable[[str], bool]
    kin: frozenset[str] = frozenset()


def exactly(content_type: str, *kin: str) -> Shown:
    """What bytes of one kind only show."""
    return Shown(content_type, lambda other: other == content_type, frozenset(kin))


MEDIA: Final = ("image/", "audio/", "video/", "font/")

OOXML: Final = "application/vnd.openxmlformats-officedocument."
MACRO: Final = re.compile(r"application/vnd\.ms-(word|excel|powerpoint)\.[a-z.]+\.macroenabled(\.12)?\Z")
ODF: Final = "application/vnd.oasis.opendocument."
OLE: Final = "application/x-ole-storage"
IN_OLE: Final = frozenset(
    f"application/{each}"
    for each in (
        "msword", "vnd.ms-excel", "vnd.ms-outlook", "vnd.ms-powerpoint", "vnd.ms-project", "vnd.ms-works",
        "vnd.visio", "x-hwp", "x-msi", "x-mspublisher", "x-ole-storage",
    )
)  # fmt: skip

# Kinds that puremagic, or this module, recognises; names as `canonical_type` gives them.
SIGNED: Final = IN_OLE | {
    f"application/{each}"
    for each in (
        "gzip", "java", "ogg", "pdf", "postscript", "rtf", "vnd.rar", "vnd.sqlite3", "wasm", "x-7z-compressed",
        "x-bzip2", "x-dosexec", "x-elf", "x-msdownload", "x-shockwave-flash", "x-tar", "x-xz", "xhtml+xml", "zip",
        "zstd", "epub+zip", "java-archive", "vnd.android.package-archive",
    )
}  # fmt: skip

_TEXTUAL: Final = frozenset(
    f"application/{each}"
    for each in (
        "graphql", "json", "rtf", "sql", "toml", "typescript", "vnd.apple.mpegurl", "x-mpegurl", "x-ndjson", "x-perl",
        "x-python", "x-sh", "x-subrip", "x-tex", "xml", "xml-dtd", "yaml",
    )
) | {"audio/mpegurl", "audio/x-mpegurl", "message/http", "message/rfc822", "model/obj"}  # fmt: skip


def is_textual(content_type: str) -> bool:
    """Tell whether contents of a type are text."""
    return content_type.startswith("text/") or content_type.endswith(("+xml", "+json")) or content_type in _TEXTUAL


_SHOWN: Final = (*MEDIA, OOXML, ODF)


def is_shown_by_bytes(content_type: str) -> bool:
    """Tell whether the bytes of a content show that it is of this type, or that it is not."""
    return (
        content_type.startswith(_SHOWN)
        or content_type in SIGNED
        or MACRO.match(content_type) is not None
        or is_textual(content_type)
    )


def fits_anything_unknown(content_type: str) -> bool:
    """Tell whether a type is one that no bytes show, so that any bytes may be of it."""
    return not is_shown_by_bytes(content_type)
