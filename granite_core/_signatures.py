"""What the first bytes of a content show. Pure.

Containers of which many kinds are made, text, and the most common kinds are told apart here, since accepting a file
depends on it; everything else is puremagic's.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from granite_core._containers import look_into_container
from granite_core._kinds import (
    IN_OLE,
    OLE,
    Shown,
    exactly,
    fits_anything_unknown,
    is_shown_by_bytes,
    is_textual,
)
from granite_core._magic_table import kind_by_magic

__all__ = ["SNIFF_BYTES", "Shown", "is_shown_by_bytes", "is_textual", "show"]

SNIFF_BYTES: Final = 4096
"""How many leading bytes of a content are looked at to recognise its type."""


def show(head: bytes) -> Shown:
    """Tell what the first bytes of a content show.

    Args:
        head: The first bytes, ``SNIFF_BYTES`` of them where there are as many.
    """
    if not head:
        return Shown(None, _fits_text)
    if (shown := look_into_container(head) or _others(head)) is not None:
        return shown
    if (text := _as_text(head)) is not None:
        return _textual(text)
    if (kind := kind_by_magic(head)) is not None:
        return _only(kind)
    return _TEXT if not _BINARY.search(head) else _UNKNOWN


_UNKNOWN: Final = Shown(None, fits_anything_unknown)


# -- the rest ----------------------------------------------------------------------------------------------------------

# The most common kinds are known here, whatever puremagic's table says of them.
_PREFIXES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"wOF2", "font/woff2"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"%!PS", "application/postscript"),
    (b"{\\rtf", "application/rtf"),
    (b"\0asm", "application/wasm"),
    (b"\x7fELF", "application/x-elf"),
    (b"wOFF", "font/woff"),
    (b"OTTO", "font/otf"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
)
_BY_FIRST_BYTE: Final = {
    first: tuple(each for each in _PREFIXES if each[0][0] == first) for first in {prefix[0] for prefix, _ in _PREFIXES}
}
_RIFF: Final = {b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo", b"WEBP": "image/webp"}


_OLE: Final = Shown(OLE, lambda other: other in IN_OLE)
_PROGRAMS: Final = frozenset(
    ("application/x-msdownload", "application/x-dosexec", "application/vnd.microsoft.portable-executable")
)
_PROGRAM: Final = Shown("application/x-msdownload", lambda other: other in _PROGRAMS, _PROGRAMS)


def _others(head: bytes) -> Shown | None:
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _OLE
    if head[:64].lstrip(b"\xef\xbb\xbf \t\r\n\f").startswith(b"%PDF-"):
        return _only("application/pdf")
    for prefix, content_type in _BY_FIRST_BYTE.get(head[0], ()):
        if head.startswith(prefix):
            return _only(content_type)
    if head.startswith(b"RIFF") and (form := _RIFF.get(head[8:12])) is not None:
        return _only(form)
    if head.startswith(b"MZ") and b"\0" in head:
        return _PROGRAM
    if head[257:262] == b"ustar":
        return _only("application/x-tar")
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":  # packets of 188 bytes (ISO 13818-1)
        return _only("video/mp2t")
    return None


@cache  # there are no more kinds than tables name
def _only(content_type: str) -> Shown:
    return exactly(content_type, *_KIN.get(content_type, ()))


_KIN: Final = {
    "application/pdf": ("application/postscript", "application/illustrator"),  # Illustrator's files are either
    "application/rtf": ("application/msword", "text/plain"),  # many a .doc is one
    "image/png": ("image/apng",),
    "image/tiff": ("image/x-adobe-dng", "image/x-nikon-nef", "image/x-canon-cr2", "image/x-sony-arw", "image/dng"),
    "video/x-ms-wmv": ("video/x-ms-asf", "audio/x-ms-wma"),
    "audio/midi": ("audio/x-midi", "audio/sp-midi"),
    "image/emf": ("image/wmf", "image/x-emf"),
}


# -- text --------------------------------------------------------------------------------------------------------------

# WHATWG MIME Sniffing, section 3: what marks a resource as binary.
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_CONTROLS: Final = bytes(byte for byte in range(32) if _BINARY.match(bytes([byte])))

# A document, wherever one of these begins it.
_DOCUMENT: Final = re.compile(r"<(?:!doctype\s+html|html|head|body|script|iframe)(?=[\s/>]|\Z)", re.IGNORECASE)
# A fragment (WHATWG MIME Sniffing, section 7.1), which Markdown begins with as well.
_FRAGMENT: Final = re.compile(r"<(?:h1|div|font|table|a|style|title|b|br|p)(?=[\s/>]|\Z)", re.IGNORECASE)
_MISC: Final = re.compile(r"\s+|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)", re.DOTALL)
# Possessive where it can be: one that never ends must not be tried again from each of its letters.
_DOCTYPE: Final = re.compile(
    r"<!DOCTYPE\s++([\w:.-]++)(?:[^\[>\"']|\"[^\"]*+\"|'[^']*+')*+(\[.*?\]\s*)?(?:>|\Z)", re.DOTALL
)
_ROOT: Final = re.compile(r"<(?:[\w.-]+:)?([\w.-]+)(?=[\s/>]|\Z)")
_XML_KIN: Final = frozenset(("application/xml", "image/svg+xml", "application/xhtml+xml"))


def _fits_text(content_type: str) -> bool:
    if content_type in ("image/svg+xml", "application/xhtml+xml"):  # their first element would show
        return False
    return is_textual(content_type) or fits_anything_unknown(content_type)


_TEXT: Final = Shown("text/plain", _fits_text, frozenset(("application/vnd.ms-excel",)))
"""Windows with Excel tells browsers that a .csv file is one of Excel's; they repeat it."""


def _as_text(head: bytes) -> str | None:
    """The head as text, or None where it is binary. A character cut at the end of the head is forgiven."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    if encoding == "utf-8" and len(head.translate(None, _CONTROLS)) < len(head):
        return None
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError as error:
        if len(head) < SNIFF_BYTES or error.start < len(head) - 4:
            return None
        text = head[: error.start].decode(encoding)
    return None if encoding == "utf-16" and _CONTROL.search(text) else text


def _textual(text: str) -> Shown:
    text = text.lstrip("\ufeff")
    is_xml = text.lstrip().startswith("<?xml")
    at = 0
    while (match := _MISC.match(text, at)) and match.end() > at:
        at = match.end()
    rest = text[at:]
    if _DOCUMENT.match(rest) and not is_xml:
        return exactly("text/html", "application/xhtml+xml", "application/xml")
    if (doctype := _DOCTYPE.match(rest)) is not None:
        rest = rest[doctype.end() :]
        while (match := _MISC.match(rest)) and match.end():
            rest = rest[match.end() :]
    root = _ROOT.match(rest)
    name = root[1].lower() if root is not None else (doctype[1].lower() if doctype is not None else "")
    if name == "svg":
        return exactly("image/svg+xml", "application/xml")
    if name == "html":
        return exactly("application/xhtml+xml" if is_xml else "text/html", "text/html", *_XML_KIN)
    if is_xml:
        # The root may come after what was looked at.
        unseen = root is None
        return Shown("application/xml", lambda other: _fits_text(other) or (unseen and other in _XML_KIN))
    return Shown("text/html", _fits_text, _TEXT.kin) if _FRAGMENT.match(rest) else _TEXT
