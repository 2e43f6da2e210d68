"""File names and media types that come from outside: cleaned, or recognised from the bytes. Pure."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from typing import Final

__all__ = ["SNIFF_BYTES", "clean_content_type", "clean_filename", "matches_type", "sniff_content_type"]

SNIFF_BYTES: Final = 4096
"""How many leading bytes of a content are looked at to recognise its type."""

_JOINERS: Final = "\u200c\u200d"  # Persian spelling and emoji need them; they turn nothing around
MAX_FILENAME_BYTES: Final = 255
DEFAULT_TYPE: Final = "application/octet-stream"

_NOTHING: Final = "application/x-empty"

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}\Z")
_RESERVED: Final = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)")


def clean_filename(name: str | None) -> str | None:
    """Return a file name that is safe to show and to offer for download, or None where nothing is left.

    Folders are cut (both kinds of slash), control, format (bidirectional overrides among them), private and surrogate
    characters go, the rest is NFC. At most 255 bytes of UTF-8, the suffix being kept.
    """
    if not name:
        return None
    base = re.split(r"[/\\]", name)[-1]
    kept = "".join(
        c for c in base if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    )
    text = unicodedata.normalize("NFC", kept).strip().strip(_JOINERS)
    # A name that is dots only means a folder; trailing dots and spaces vanish on Windows.
    text = text.rstrip(f". {_JOINERS}")
    if not text:
        return None
    if _RESERVED.match(text):
        text = f"_{text}"
    return _shorten(text)


def _shorten(name: str) -> str:
    if len(name.encode()) <= MAX_FILENAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    tail = f"{dot}{suffix}" if stem and len(suffix.encode()) <= 32 else ""
    stem = stem if tail else name
    room = MAX_FILENAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + tail


def clean_content_type(value: str | None) -> str | None:
    """Return the bare lower-case media type of a claimed one, or None where it is no media type.

    Parameters are dropped (RFC 9110 section 8.3.1): only the type itself is ever compared.
    """
    bare = (value or "").partition(";")[0].strip().lower()
    return bare if _MEDIA_TYPE.match(bare) else None


def matches_type(content_type: str, accepted: str) -> bool:
    """Tell whether a media type falls under an accepted one, exact or a range such as ``image/*``."""
    if accepted in ("*/*", "*"):
        return True
    if accepted.endswith("/*"):
        return content_type.startswith(accepted[:-1])
    return content_type == accepted


def sniff_content_type(head: bytes, filename: str | None = None, claimed: str | None = None) -> str:
    """Tell the media type of a content from its first bytes.

    The bytes decide where they are of a recognisable kind. Where they are not, the name's suffix and then the claim
    are believed, unless they name a kind that the bytes would have shown.

    Args:
        head: The first bytes of the content, 4,096 of them where there are as many.
        filename: Name the file came with.
        claimed: Media type that the client or caller claims.
    """
    found = _from_bytes(head) if head else _NOTHING
    if found and found not in (_NOTHING, "application/zip", "text/plain", "application/xml"):
        return found
    guessed = clean_content_type(mimetypes.guess_type(filename or "", strict=False)[0])
    for candidate in (guessed, clean_content_type(claimed)):
        if candidate and candidate != DEFAULT_TYPE and _plausible(candidate, found):
            return candidate
    return found if found and found != _NOTHING else DEFAULT_TYPE


_RECOGNISED: Final = ("image/", "audio/", "video/", "font/")


def _plausible(candidate: str, found: str | None) -> bool:
    """Whether bytes of the kind ``found`` may be called ``candidate``."""
    if found == "application/zip":
        # Office documents, EPUB, JAR, APK: all are ZIP archives.
        return candidate.startswith("application/")
    if found == _NOTHING:
        return True
    textual = candidate.startswith("text/") or candidate.endswith(("+xml", "+json")) or candidate in _TEXTUAL
    if found in ("text/plain", "application/xml"):
        return textual
    # Unrecognised bytes: not text, and of no type whose signature we would have seen.
    return not textual and candidate not in _SIGNED


_TEXTUAL: Final = frozenset(
    (
        "application/json",
        "application/xml",
        "application/javascript",
        "application/x-sh",
        "application/sql",
        "application/x-yaml",
        "application/yaml",
        "application/toml",
        "application/rtf",
        "application/x-tex",
    )
)
_SIGNED: Final = frozenset(
    (
        "application/pdf",
        "application/zip",
        "application/gzip",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/bmp",
        "image/tiff",
        "image/avif",
        "image/heic",
        "video/mp4",
        "video/webm",
        "video/quicktime",
        "audio/flac",
        "audio/ogg",
        "audio/wav",
        "audio/x-wav",
    )
)


def _from_bytes(head: bytes) -> str | None:
    """The type that the bytes themselves show, or None."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "application/zip"
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    text = _as_text(head)
    if text is not None:
        return _textual_type(text)
    # Imported when the first upload comes: it loads its table of signatures.
    import puremagic

    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    for match in matches:
        kind: str = _SYNONYMS.get(match.mime_type, match.mime_type)
        if kind.startswith(_RECOGNISED) or kind in _SIGNED:
            return kind
    return None


_SYNONYMS: Final = {"audio/wave": "audio/wav", "audio/x-wav": "audio/wav", "application/x-gzip": "application/gzip"}


def _as_text(head: bytes) -> str | None:
    """The head as text, or None where it is binary. A character cut at the end of the head is forgiven."""
    for encoding in ("utf-16",) if head.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8",):
        try:
            text = head.decode(encoding)
        except UnicodeDecodeError as error:
            if len(head) < SNIFF_BYTES or error.start < len(head) - 4:
                return None
            text = head[: error.start].decode(encoding)
        return None if any(c < " " and c not in "\t\n\r\f\x1b" for c in text) else text
    return None


def _textual_type(text: str) -> str:
    lowered = text.lstrip("\ufeff \t\r\n").lower()
    if "<svg" in lowered and lowered.startswith("<"):
        return "image/svg+xml"
    # The patterns browsers look for (WHATWG MIME Sniffing, section 7.1), wherever a tag could start the document.
    if lowered.startswith(("<!doctype html", "<html", "<head", "<body", "<script", "<iframe")):
        return "text/html"
    return "application/xml" if lowered.startswith("<?xml") else "text/plain"
