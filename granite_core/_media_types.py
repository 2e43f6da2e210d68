"""Names of media types: one name for each kind, and what the suffix of a file name stands for. Pure."""

from __future__ import annotations

import mimetypes
from functools import cache, lru_cache
from typing import Final

__all__ = ["canonical_type", "type_of_suffix"]

_SYNONYMS: Final = {
    "application/csv": "text/csv",
    "application/font-woff": "font/woff",
    "application/javascript": "text/javascript",
    "application/vnd.ms-opentype": "font/otf",
    "application/x-7z": "application/x-7z-compressed",
    "application/x-bzip": "application/x-bzip2",
    "application/x-font-otf": "font/otf",
    "application/x-font-ttf": "font/ttf",
    "application/x-gzip": "application/gzip",
    "application/x-javascript": "text/javascript",
    "application/x-json": "application/json",
    "application/x-matroska": "video/x-matroska",
    "application/x-pdf": "application/pdf",
    "application/x-rar": "application/vnd.rar",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-rtf": "application/rtf",
    "application/x-sqlite3": "application/vnd.sqlite3",
    "application/x-yaml": "application/yaml",
    "application/x-zip": "application/zip",
    "application/x-zip-compressed": "application/zip",
    "application/x-zstd": "application/zstd",
    "audio/mp3": "audio/mpeg",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-aac": "audio/aac",
    "audio/x-aiff": "audio/aiff",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "audio/x-midi": "audio/midi",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-mpeg": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-icon": "image/vnd.microsoft.icon",
    "image/x-bmp": "image/bmp",
    "image/x-ms-bmp": "image/bmp",
    "image/x-png": "image/png",
    "text/comma-separated-values": "text/csv",
    "text/rtf": "application/rtf",
    "text/x-csv": "text/csv",
    "text/x-markdown": "text/markdown",
    "text/x-yaml": "application/yaml",
    "text/xml": "application/xml",
    "text/yaml": "application/yaml",
    "video/avi": "video/x-msvideo",
    "video/dvd": "video/mpeg",
    "video/msvideo": "video/x-msvideo",
    "video/x-m4v": "video/mp4",
    "video/x-mpeg": "video/mpeg",
}

_OOXML: Final = "application/vnd.openxmlformats-officedocument."
_ODF: Final = "application/vnd.oasis.opendocument."

# Not read from the machine's own tables: a type must not depend on what is installed where the file arrives.
_SUFFIXES: Final = {
    ".7z": "application/x-7z-compressed",
    ".aac": "audio/aac",
    ".apk": "application/vnd.android.package-archive",
    ".avif": "image/avif",
    ".doc": "application/msword",
    ".docm": "application/vnd.ms-word.document.macroenabled.12",
    ".docx": f"{_OOXML}wordprocessingml.document",
    ".dotx": f"{_OOXML}wordprocessingml.template",
    ".epub": "application/epub+zip",
    ".exe": "application/x-msdownload",
    ".flac": "audio/flac",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".ics": "text/calendar",
    ".jar": "application/java-archive",
    ".jp2": "image/jp2",
    ".jxl": "image/jxl",
    ".m4a": "audio/mp4",
    ".m4v": "video/mp4",
    ".markdown": "text/markdown",
    ".md": "text/markdown",
    ".mka": "audio/x-matroska",
    ".mkv": "video/x-matroska",
    ".mp4": "video/mp4",
    ".msg": "application/vnd.ms-outlook",
    ".odg": f"{_ODF}graphics",
    ".odp": f"{_ODF}presentation",
    ".ods": f"{_ODF}spreadsheet",
    ".odt": f"{_ODF}text",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".pptm": "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    ".pptx": f"{_OOXML}presentationml.presentation",
    ".ppsx": f"{_OOXML}presentationml.slideshow",
    ".rar": "application/vnd.rar",
    ".rtf": "application/rtf",
    ".sqlite": "application/vnd.sqlite3",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".vcf": "text/vcard",
    ".vsd": "application/vnd.visio",
    ".weba": "audio/webm",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xls": "application/vnd.ms-excel",
    ".xlsb": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".xlsx": f"{_OOXML}spreadsheetml.sheet",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
}
_ENCODINGS: Final = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "zstd": "application/zstd",
}


def canonical_type(content_type: str) -> str:
    """Return the one name that a kind has here, for a bare lower-case media type of several."""
    return _SYNONYMS.get(content_type, content_type)


def type_of_suffix(filename: str | None) -> str | None:
    """Return the media type that the suffix of a name stands for; alike on every machine."""
    stem, _, suffix = filename.rpartition(".") if filename else ("", "", "")
    if not suffix or len(suffix) >= _LONGEST or not stem.strip("."):  # ".bashrc" is a name, and no suffix
        return None
    return _type_of(f".{suffix.lower()}")


_LONGEST: Final = 32
"""Characters of a suffix: no known one has as many, and clients choose them."""


@lru_cache(maxsize=1024)
def _type_of(suffix: str) -> str | None:
    guessed, encoding = _table().guess_type(f"name{suffix}", strict=False)
    if encoding is not None:  # notes.tar.gz is what its last suffix says
        return _ENCODINGS.get(encoding)
    return canonical_type(guessed) if guessed else None


@cache
def _table() -> mimetypes.MimeTypes:
    table = mimetypes.MimeTypes()
    table.encodings_map[".zst"] = "zstd"
    for suffix, content_type in _SUFFIXES.items():
        table.add_type(content_type, suffix)
    return table
