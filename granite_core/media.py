"""File names and media types that come from outside: cleaned, or recognised from the bytes. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import msgspec

from granite_core._media_types import canonical_type, type_of_suffix
from granite_core._signatures import SNIFF_BYTES, is_shown_by_bytes, show

__all__ = [
    "SNIFF_BYTES",
    "TypeJudgement",
    "clean_content_type",
    "clean_filename",
    "judge_content",
    "matches_type",
    "sniff_content_type",
]

_JOINERS: Final = "\u200c\u200d"  # Persian spelling and emoji need them; they turn nothing around
_LOOSE: Final = (
    f" \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000{_JOINERS}"
)
_LOOSE_END: Final = f".{_LOOSE}"
MAX_FILENAME_BYTES: Final = 255
DEFAULT_TYPE: Final = "application/octet-stream"

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}\Z")
_RESERVED: Final = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|\Z)")
"""Names of devices on Windows, whatever follows ("Naming Files, Paths, and Namespaces")."""

_HEAD: Final = 448
_TAIL: Final = 64
"""Characters of a long name that are looked at: what composes to 255 bytes, and what may be a suffix of 32."""


def clean_filename(name: str | None) -> str | None:
    """Return a file name that is safe to show and to offer for download, or None where nothing is left.

    Folders are cut (both kinds of slash), control, format (bidirectional overrides among them), private and surrogate
    characters go, the rest is NFC. At most 255 bytes of UTF-8, the suffix being kept.
    """
    if not name:
        return None
    if name.isascii() and name.isprintable() and len(name) <= MAX_FILENAME_BYTES:
        text = name.rpartition("/")[2].rpartition("\\")[2].strip(" ")  # most names; nothing in them has to go
    else:
        text = _printable(name).strip(_LOOSE)
    # A name that is dots only means a folder; trailing dots and spaces vanish on Windows.
    text = text.rstrip(_LOOSE_END)
    if not text:
        return None
    if _RESERVED.match(text):
        text = f"_{text}"
    return _shorten(text)


def _printable(name: str) -> str:
    base = re.split(r"[/\\]", name)[-1]
    kept = "".join(
        c for c in base if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    )
    if len(kept) > _HEAD + _TAIL:
        # Putting marks in order takes time by the square of their number.
        kept = kept[:_HEAD] + kept[-_TAIL:]
    return unicodedata.normalize("NFC", kept)


def _shorten(name: str) -> str:
    if 4 * len(name) <= MAX_FILENAME_BYTES or len(name.encode()) <= MAX_FILENAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    tail = f"{dot}{suffix}" if stem and len(suffix.encode()) <= 32 else ""
    stem = stem if tail else name
    room = MAX_FILENAME_BYTES - len(tail.encode())
    cut = stem.encode()[:room].decode("utf-8", "ignore")
    return cut + tail if tail else cut.rstrip(_LOOSE_END)


def clean_content_type(value: str | None) -> str | None:
    """Return the bare lower-case media type of a claimed one, or None where it is no media type.

    Parameters are dropped (RFC 9110 section 8.3.1): only the type itself is ever compared.
    """
    if not value:
        return None
    bare = value.partition(";")[0].strip().lower()
    return bare if _MEDIA_TYPE.match(bare) else None


def matches_type(content_type: str, accepted: str) -> bool:
    """Tell whether a media type falls under an accepted one, exact or a range such as ``image/*``.

    Several names of one kind (``application/x-zip-compressed``, ``application/zip``) match each other.
    """
    accepted = accepted.strip().lower()
    if accepted in ("*/*", "*"):
        return True
    if accepted.endswith("/*"):
        return content_type.startswith(accepted[:-1])
    return canonical_type(content_type) == canonical_type(accepted)


class TypeJudgement(msgspec.Struct, frozen=True):
    """What a content is, and whether it was said to be something else.

    Attributes:
        content_type: Its media type.
        contradicted: The type that its name stands for, or that was claimed, and that the bytes show it is not; None
            where nothing of the kind was said.
    """

    content_type: str
    contradicted: str | None = None


def judge_content(head: bytes, filename: str | None = None, claimed: str | None = None) -> TypeJudgement:
    """Tell what a content is from its first bytes, its name, and what its sender claims.

    The bytes decide where they are of a recognisable kind. Where several kinds look alike (a ZIP archive, text, bytes
    of no known kind, nothing at all), the suffix of the name and then the claim are believed, unless they name a kind
    that the bytes would have shown: an image, a sound, a film or a font is one only where the bytes show it.

    Args:
        head: The first bytes of the content, ``SNIFF_BYTES`` of them where there are as many.
        filename: Name the file came with.
        claimed: Media type that the client or caller claims.
    """
    shown = show(head)
    found = shown.content_type or DEFAULT_TYPE
    content_type = contradicted = None
    sender = canonical_type(clean_content_type(claimed) or DEFAULT_TYPE) if claimed else None
    for said in (type_of_suffix(filename), sender):
        if said is None or said == DEFAULT_TYPE:
            continue
        if shown.fits(said):
            content_type = content_type or said
        elif said != found and said not in shown.kin and is_shown_by_bytes(said):
            contradicted = contradicted or said
    return TypeJudgement(content_type or found, contradicted)


def sniff_content_type(head: bytes, filename: str | None = None, claimed: str | None = None) -> str:
    """Return the media type of a content; arguments as for `judge_content`."""
    return judge_content(head, filename, claimed).content_type
