"""Containers of which many kinds are made, told apart by what is in them: ZIP, ISO media, Matroska, Ogg. Pure."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Final

from granite_core._kinds import MACRO, ODF, OOXML, Shown, exactly, fits_anything_unknown

__all__ = ["look_into_container"]


_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04")
_EBML: Final = b"\x1aE\xdf\xa3"
_OGG_PAGE: Final = b"OggS"
_BEGINNINGS: Final = (*_ZIP, _EBML, _OGG_PAGE)


def look_into_container(head: bytes) -> Shown | None:
    """Tell what the first bytes of a container show; None where they begin none of those known here."""
    if head.startswith(_BEGINNINGS) or head[4:8] in _ISO_KINDS:  # most contents are none of them
        for look in (_zip, _iso_media, _matroska, _ogg):
            if (shown := look(head)) is not None:
                return shown
    return None


# -- ZIP ---------------------------------------------------------------------------------------------------------------

EPUB: Final = "application/epub+zip"
JAR: Final = "application/java-archive"
APK: Final = "application/vnd.android.package-archive"

_LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_OOXML_PARTS: Final = ("[Content_Types].xml", "_rels/", "docProps/", "customXml/", "word/", "xl/", "ppt/", "visio/")
_OOXML_MAIN: Final = re.compile(rb'ContentType="(application/vnd\.[A-Za-z.-]+?)\.main(?:\+xml)?"')
_OOXML_FOLDERS: Final = {
    "word/": f"{OOXML}wordprocessingml.document",
    "xl/": f"{OOXML}spreadsheetml.sheet",
    "ppt/": f"{OOXML}presentationml.presentation",
}
_MAX_PART: Final = 64 * 1024


def _zip(head: bytes) -> Shown | None:
    if not head.startswith(_ZIP):
        return None
    names: list[str] = []
    for name, content in _zip_entries(head):
        if name == "mimetype" and not names and (named := _named_in_mimetype(content)):
            return exactly(named, "application/zip")
        if name == "[Content_Types].xml" and (match := _OOXML_MAIN.search(content)):
            return exactly(_of_main_part(match[1].decode()), "application/zip")
        names.append(name)
    if any(name.startswith(_OOXML_PARTS) for name in names):
        return _ooxml(names)
    if any(name in ("AndroidManifest.xml", "classes.dex", "resources.arsc") for name in names):
        return exactly(APK, "application/zip", JAR)
    if names and names[0].startswith("META-INF/") and names[0] != "META-INF/container.xml":
        return Shown(JAR, _fits_jar, frozenset(("application/zip",)))
    return Shown("application/zip", _fits_zip)


def _ooxml(names: list[str]) -> Shown:
    """A document of Office whose list of parts comes later: its folders tell the program, its name what kind."""
    for folder, content_type in _OOXML_FOLDERS.items():
        if any(name.startswith(folder) for name in names):
            return Shown(content_type, partial(_is_of_program, folder), frozenset(("application/zip",)))
    return Shown("application/zip", _fits_ooxml)


_PROGRAMS: Final = {
    "word/": ("wordprocessingml", "ms-word"),
    "xl/": ("spreadsheetml", "ms-excel."),
    "ppt/": ("presentationml", "ms-powerpoint."),
}


def _is_of_program(folder: str, content_type: str) -> bool:
    return _fits_ooxml(content_type) and any(mark in content_type for mark in _PROGRAMS[folder])


def _of_main_part(content_type: str) -> str:
    """The type of a document by that of its main part (ECMA-376-2, and Office's own for documents with macros)."""
    lowered = content_type.lower()
    return f"{lowered}.12" if lowered.endswith("macroenabled") else lowered


def _named_in_mimetype(content: bytes) -> str | None:
    """What the first entry of OpenDocument and EPUB files says (ODF 1.3 part 2, section 3.3; EPUB OCF 3.3)."""
    text = content[:200].decode("ascii", "replace").strip().lower()
    return text if text == EPUB or text.startswith(ODF) else None


def _fits_jar(content_type: str) -> bool:
    return content_type == APK or _fits_zip(content_type)


def _fits_zip(content_type: str) -> bool:
    """Whether an archive without the marks of a document may be called this: not what would have had such marks."""
    return content_type == "application/zip" or fits_anything_unknown(content_type)


def _fits_ooxml(content_type: str) -> bool:
    return content_type.startswith(OOXML) or MACRO.match(content_type) is not None or _fits_zip(content_type)


def _zip_entries(head: bytes) -> Iterator[tuple[str, bytes]]:
    """The names of the first entries, and so much of the content of each as can be had."""
    at = head.find(b"PK\x03\x04")
    while at >= 0 and at + _LOCAL_HEADER.size <= len(head):
        header = _LOCAL_HEADER.unpack_from(head, at)
        flags, method, packed = header[2], header[3], header[7]
        start = at + _LOCAL_HEADER.size
        body = start + header[9] + header[10]
        name = head[start : start + header[9]].decode("utf-8", "replace")
        known_end = not flags & 8 and packed != 0xFFFFFFFF
        data = head[body : body + packed] if known_end else head[body:]
        yield name, _unpacked(data, method)
        at = head.find(b"PK\x03\x04", body + packed if known_end else body)


def _unpacked(data: bytes, method: int) -> bytes:
    if method == 0:
        return data
    try:
        return zlib.decompressobj(-15).decompress(data, _MAX_PART) if method == 8 else b""
    except zlib.error:
        return b""


# -- ISO media: MP4, QuickTime, HEIC, AVIF -----------------------------------------------------------------------------

_BRANDS: Final = {
    "image/avif": ("avif", "avis"),
    "image/heic": ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs"),
    "image/heif": ("mif1", "msf1", "mif2"),
    "image/jp2": ("jp2 ",),
    "image/jpx": ("jpx ",),
    "image/x-canon-cr3": ("crx ",),
    "video/quicktime": ("qt  ",),
    "audio/mp4": ("M4A ", "M4B ", "M4P ", "F4A ", "F4B "),
    "video/3gpp2": ("3g2a", "3g2b", "3g2c"),
}
_BRAND_TYPES: Final = {brand: content_type for content_type, brands in _BRANDS.items() for brand in brands}
_ISO_KIN: Final = frozenset(
    ("video/mp4", "audio/mp4", "video/quicktime", "video/3gpp", "audio/3gpp", "video/3gpp2", "audio/3gpp2")
)
_HEIF_KIN: Final = frozenset(
    ("image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence", "image/avif-sequence")
)
_QUICKTIME_ATOMS: Final = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_HANDLER: Final = re.compile(rb"hdlr.{8}(soun|vide)", re.DOTALL)


def _iso_media(head: bytes) -> Shown | None:
    kind = head[4:8]
    if kind == b"jP  " or kind == b"JXL ":  # their signature box comes before ftyp
        return exactly("image/jxl" if kind == b"JXL " else "image/jp2")
    if kind in _QUICKTIME_ATOMS:
        return exactly("video/quicktime", *_ISO_KIN)
    if kind != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[at : at + 4].decode("latin-1") for at in (8, *range(16, size - 3, 4))]
    content_type = _type_of_brands(brands)
    if content_type.startswith("image/"):
        return exactly(content_type, *(_HEIF_KIN if content_type in _HEIF_KIN else ()))
    if content_type == "video/mp4":
        # A recording of sound alone often has the brands of a film: its tracks tell, where they are seen.
        handlers = set(_HANDLER.findall(head))
        if handlers == {b"soun"} and _shows_all_tracks(head):
            return exactly("audio/mp4", *_ISO_KIN)
        may_be_sound = b"vide" not in handlers
        return Shown("video/mp4", lambda other: may_be_sound and other == "audio/mp4", _ISO_KIN)
    return exactly(content_type, *_ISO_KIN)


_ISO_KINDS: Final = frozenset((*_QUICKTIME_ATOMS, b"ftyp", b"jP  ", b"JXL "))


def _shows_all_tracks(head: bytes) -> bool:
    """Whether the box that lists the tracks ends within the head."""
    at = 0
    while at + 8 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind == b"moov":
            return at + size <= len(head)
        if size < 8:  # to the end of the file, or a length of 64 bits
            return False
        at += size
    return False


def _type_of_brands(brands: list[str]) -> str:
    """The type by the major brand; a general one (mif1, isom) is made more exact by the compatible ones."""
    major = _BRAND_TYPES.get(brands[0])
    if major is None and brands[0].startswith("3g"):
        return "video/3gpp"
    if major == "image/heif":
        exact = ("image/avif", "image/heic")
        return next((each for brand in brands if (each := _BRAND_TYPES.get(brand, "")) in exact), major)
    return major or "video/mp4"


# -- Matroska and Ogg --------------------------------------------------------------------------------------------------

_DOC_TYPE: Final = re.compile(rb"\x42\x82[\x81-\x90]([a-z]+)")
_CODEC: Final = re.compile(rb"\x86[\x81-\xa0]([AVS])_[A-Z]")


def _matroska(head: bytes) -> Shown | None:
    if not head.startswith(_EBML):
        return None
    match = _DOC_TYPE.search(head[:256])
    subtype = "webm" if match and match[1] == b"webm" else "x-matroska"
    kin = {f"{kind}/{name}" for kind in ("audio", "video") for name in ("webm", "x-matroska")}
    codecs = set(_CODEC.findall(head))
    if codecs == {b"A"}:
        return exactly(f"audio/{subtype}", *kin)
    may_be_sound = b"V" not in codecs  # the tracks are further on
    return Shown(f"video/{subtype}", lambda other: may_be_sound and other == f"audio/{subtype}", frozenset(kin))


def _ogg(head: bytes) -> Shown | None:
    if not head.startswith(_OGG_PAGE):
        return None
    kin = ("audio/ogg", "video/ogg", "application/ogg", "audio/opus", "audio/vorbis", "audio/speex")
    first = head[27 + head[26] :] if len(head) > 27 else b""  # after the page's table of segments (RFC 3533)
    if first.startswith(b"\x80theora"):
        return exactly("video/ogg", *kin)
    if first.startswith((b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex")):
        return exactly("audio/ogg", *kin)
    return Shown("application/ogg", lambda other: other in kin, frozenset(kin))
