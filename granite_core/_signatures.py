"""What the first bytes of a content show. Pure.

Containers of which several kinds are made (ZIP, ISO media, Matroska, Ogg, OLE) and text are told apart here, since
accepting a file depends on it; everything else is puremagic's.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from granite_core._media_types import canonical_type

__all__ = ["SNIFF_BYTES", "Shown", "is_shown_by_bytes", "is_textual", "show"]

SNIFF_BYTES: Final = 4096
"""How many leading bytes of a content are looked at to recognise its type."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What bytes show.

    Attributes:
        content_type: Their type, or the most general one that fits; None where they are of no kind known here.
        fits: Tells of another type whether it may name these bytes more exactly.
        kin: Types that are not lies about such bytes, though they do not name them.
    """

    content_type: str | None
    fits: Callable[[str], bool]
    kin: frozenset[str] = frozenset()


def show(head: bytes) -> Shown:
    """Tell what the first bytes of a content show.

    Args:
        head: The first bytes, ``SNIFF_BYTES`` of them where there are as many.
    """
    if not head:
        return _EMPTY
    for look in (_zip, _iso_media, _matroska, _ogg, _others):
        if (shown := look(head)) is not None:
            return shown
    if (text := _as_text(head)) is not None:
        return _textual(text)
    return _by_puremagic(head) or (_TEXT if not _BINARY.search(head) else _UNKNOWN)


# -- types that bytes show ---------------------------------------------------------------------------------------------

_MEDIA: Final = ("image/", "audio/", "video/", "font/")

_OOXML: Final = "application/vnd.openxmlformats-officedocument."
_MACRO: Final = re.compile(r"application/vnd\.ms-(word|excel|powerpoint)\.[a-z.]+\.macroenabled(\.12)?\Z")
_ODF: Final = "application/vnd.oasis.opendocument."
_EPUB: Final = "application/epub+zip"
_JAR: Final = "application/java-archive"
_APK: Final = "application/vnd.android.package-archive"
_OLE: Final = "application/x-ole-storage"
_IN_OLE: Final = frozenset(
    f"application/{each}"
    for each in (
        "msword", "vnd.ms-excel", "vnd.ms-outlook", "vnd.ms-powerpoint", "vnd.ms-project", "vnd.ms-works",
        "vnd.visio", "x-hwp", "x-msi", "x-mspublisher", "x-ole-storage",
    )
)  # fmt: skip

# Kinds that puremagic, or this module, recognises; names as `canonical_type` gives them.
_SIGNED: Final = _IN_OLE | {
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
        "graphql", "json", "ld+json", "rtf", "sql", "toml", "typescript", "vnd.sealed.eml", "x-httpd-php", "x-ndjson",
        "x-perl", "x-python", "x-sh", "x-subrip", "x-tex", "x-x509-ca-cert", "xml", "xml-dtd", "yaml",
    )
) | {"message/rfc822", "message/http", "model/gltf+json", "model/obj"}  # fmt: skip


def is_textual(content_type: str) -> bool:
    """Tell whether contents of a type are text."""
    return content_type.startswith("text/") or content_type.endswith(("+xml", "+json")) or content_type in _TEXTUAL


def is_shown_by_bytes(content_type: str) -> bool:
    """Tell whether the bytes of a content show that it is of this type, or that it is not."""
    return (
        content_type.startswith((*_MEDIA, _OOXML, _ODF))
        or content_type in _SIGNED
        or _MACRO.match(content_type) is not None
        or is_textual(content_type)
    )


def _exactly(content_type: str, *kin: str) -> Shown:
    return Shown(content_type, lambda other: other == content_type, frozenset(kin))


def _fits_unknown(content_type: str) -> bool:
    return not is_shown_by_bytes(content_type)


def _fits_empty(content_type: str) -> bool:
    return _fits_unknown(content_type) or _fits_text(content_type)


_UNKNOWN: Final = Shown(None, _fits_unknown)
_EMPTY: Final = Shown(None, _fits_empty)


# -- ZIP ---------------------------------------------------------------------------------------------------------------

_LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_OOXML_PARTS: Final = ("[Content_Types].xml", "_rels/", "docProps/", "customXml/", "word/", "xl/", "ppt/", "visio/")
_OOXML_MAIN: Final = re.compile(rb'ContentType="(application/vnd\.[A-Za-z.-]+?)\.main(?:\+xml)?"')
_OOXML_FOLDERS: Final = {
    "word/": f"{_OOXML}wordprocessingml.document",
    "xl/": f"{_OOXML}spreadsheetml.sheet",
    "ppt/": f"{_OOXML}presentationml.presentation",
}
_MAX_PART: Final = 64 * 1024


def _zip(head: bytes) -> Shown | None:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04")):
        return None
    names: list[str] = []
    for name, content in _zip_entries(head):
        if name == "mimetype" and not names and (named := _named_in_mimetype(content)):
            return _exactly(named, "application/zip")
        if name == "[Content_Types].xml" and (match := _OOXML_MAIN.search(content)):
            return _exactly(_of_main_part(match[1].decode()), "application/zip")
        names.append(name)
    if any(name.startswith(_OOXML_PARTS) for name in names):
        return _ooxml(names)
    if any(name in ("AndroidManifest.xml", "classes.dex", "resources.arsc") for name in names):
        return _exactly(_APK, "application/zip", _JAR)
    if names and names[0].startswith("META-INF/") and names[0] != "META-INF/container.xml":
        return Shown(_JAR, _fits_jar, frozenset(("application/zip",)))
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
    return text if text == _EPUB or text.startswith(_ODF) else None


def _fits_jar(content_type: str) -> bool:
    return content_type == _APK or _fits_zip(content_type)


def _fits_zip(content_type: str) -> bool:
    """Whether an archive without the marks of a document may be called this: not what would have had such marks."""
    return content_type == "application/zip" or not is_shown_by_bytes(content_type)


def _fits_ooxml(content_type: str) -> bool:
    return content_type.startswith(_OOXML) or _MACRO.match(content_type) is not None or _fits_zip(content_type)


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
        return _exactly("image/jxl" if kind == b"JXL " else "image/jp2")
    if kind in _QUICKTIME_ATOMS:
        return _exactly("video/quicktime", *_ISO_KIN)
    if kind != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[at : at + 4].decode("latin-1") for at in (8, *range(16, size - 3, 4))]
    content_type = _type_of_brands(brands)
    if content_type.startswith("image/"):
        return _exactly(content_type, *(_HEIF_KIN if content_type in _HEIF_KIN else ()))
    if content_type == "video/mp4":
        # A recording of sound alone often has the brands of a film: its tracks tell, where they are seen.
        handlers = set(_HANDLER.findall(head))
        if handlers == {b"soun"} and _shows_all_tracks(head):
            return _exactly("audio/mp4", *_ISO_KIN)
        may_be_sound = b"vide" not in handlers
        return Shown("video/mp4", lambda other: may_be_sound and other == "audio/mp4", _ISO_KIN)
    return _exactly(content_type, *_ISO_KIN)


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
    if not head.startswith(b"\x1aE\xdf\xa3"):
        return None
    match = _DOC_TYPE.search(head[:256])
    subtype = "webm" if match and match[1] == b"webm" else "x-matroska"
    kin = {f"{kind}/{name}" for kind in ("audio", "video") for name in ("webm", "x-matroska")}
    codecs = set(_CODEC.findall(head))
    if codecs == {b"A"}:
        return _exactly(f"audio/{subtype}", *kin)
    may_be_sound = b"V" not in codecs  # the tracks are further on
    return Shown(f"video/{subtype}", lambda other: may_be_sound and other == f"audio/{subtype}", frozenset(kin))


def _ogg(head: bytes) -> Shown | None:
    if not head.startswith(b"OggS"):
        return None
    kin = ("audio/ogg", "video/ogg", "application/ogg", "audio/opus", "audio/vorbis", "audio/speex")
    first = head[27 + head[26] :] if len(head) > 27 else b""  # after the page's table of segments (RFC 3533)
    if first.startswith(b"\x80theora"):
        return _exactly("video/ogg", *kin)
    if first.startswith((b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex")):
        return _exactly("audio/ogg", *kin)
    return Shown("application/ogg", lambda other: other in kin, frozenset(kin))


# -- the rest ----------------------------------------------------------------------------------------------------------

# The most common kinds come before puremagic, which takes a millisecond to look through its table.
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
_RIFF: Final = {b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo", b"WEBP": "image/webp"}


def _others(head: bytes) -> Shown | None:
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return Shown(_OLE, lambda other: other in _IN_OLE)
    if head[:64].lstrip(b"\xef\xbb\xbf \t\r\n\f").startswith(b"%PDF-"):
        return _exactly("application/pdf", *_KIN["application/pdf"])
    for prefix, content_type in _PREFIXES:
        if head.startswith(prefix):
            return _exactly(content_type, *_KIN.get(content_type, ()))
    if head.startswith(b"RIFF") and (form := _RIFF.get(head[8:12])) is not None:
        return _exactly(form)
    if head.startswith(b"MZ") and b"\0" in head:
        programs = (
            "application/x-msdownload",
            "application/x-dosexec",
            "application/vnd.microsoft.portable-executable",
        )
        return Shown("application/x-msdownload", lambda other: other in programs, frozenset(programs))
    if head[257:262] == b"ustar":
        return _exactly("application/x-tar")
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":  # packets of 188 bytes (ISO 13818-1)
        return _exactly("video/mp2t")
    return None


def _by_puremagic(head: bytes) -> Shown | None:
    # Imported when the first upload comes: it loads its table of signatures.
    import puremagic

    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    for match in matches:
        kind = canonical_type(match.mime_type)
        if kind.startswith(_MEDIA) or kind in _SIGNED:
            return _exactly(kind, *_KIN.get(kind, ()))
    return None


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

# A document, wherever one of these begins it.
_DOCUMENT: Final = re.compile(r"<(?:!doctype\s+html|html|head|body|script|iframe)(?=[\s/>]|\Z)", re.IGNORECASE)
# A fragment (WHATWG MIME Sniffing, section 7.1), which Markdown begins with as well.
_FRAGMENT: Final = re.compile(r"<(?:h1|div|font|table|a|style|title|b|br|p)(?=[\s/>]|\Z)", re.IGNORECASE)
_MISC: Final = re.compile(r"\s+|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)", re.DOTALL)
_DOCTYPE: Final = re.compile(r"<!DOCTYPE\s+([\w:.-]+)(?:[^\[>\"']|\"[^\"]*\"|'[^']*')*(\[.*?\]\s*)?(?:>|\Z)", re.DOTALL)
_ROOT: Final = re.compile(r"<(?:[\w.-]+:)?([\w.-]+)(?=[\s/>]|\Z)")
_XML_KIN: Final = frozenset(("application/xml", "image/svg+xml", "application/xhtml+xml"))


def _fits_text(content_type: str) -> bool:
    return is_textual(content_type) and content_type not in ("image/svg+xml", "application/xhtml+xml")


_TEXT: Final = Shown("text/plain", _fits_text, frozenset(("application/vnd.ms-excel",)))
"""Windows with Excel tells browsers that a .csv file is one of Excel's; they repeat it."""


def _as_text(head: bytes) -> str | None:
    """The head as text, or None where it is binary. A character cut at the end of the head is forgiven."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError as error:
        if len(head) < SNIFF_BYTES or error.start < len(head) - 4:
            return None
        text = head[: error.start].decode(encoding)
    return None if any(c < " " and c not in "\t\n\r\f\x1b" for c in text) else text


def _textual(text: str) -> Shown:
    text = text.lstrip("\ufeff")
    is_xml = text.lstrip().startswith("<?xml")
    at = 0
    while (match := _MISC.match(text, at)) and match.end() > at:
        at = match.end()
    rest = text[at:]
    if _DOCUMENT.match(rest) and not is_xml:
        return _exactly("text/html", "application/xhtml+xml", "application/xml")
    if (doctype := _DOCTYPE.match(rest)) is not None:
        rest = rest[doctype.end() :]
        while (match := _MISC.match(rest)) and match.end():
            rest = rest[match.end() :]
    root = _ROOT.match(rest)
    name = root[1].lower() if root is not None else (doctype[1].lower() if doctype is not None else "")
    if name == "svg":
        return _exactly("image/svg+xml", "application/xml")
    if name == "html":
        return _exactly("application/xhtml+xml" if is_xml else "text/html", "text/html", *_XML_KIN)
    if is_xml:
        # The root may come after what was looked at.
        unseen = root is None
        return Shown("application/xml", lambda other: _fits_text(other) or (unseen and other in _XML_KIN))
    return Shown("text/html", _fits_text, _TEXT.kin) if _FRAGMENT.match(rest) else _TEXT
