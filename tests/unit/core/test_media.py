"""Names are cleaned, and types are judged on the bytes."""

from __future__ import annotations

import io
import struct
import unicodedata
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from puremagic import main as puremagic

from granite_core._kinds import MEDIA, SIGNED
from granite_core._magic_table import kind_by_magic
from granite_core._media_types import canonical_type, type_of_suffix
from granite_core.media import clean_content_type, clean_filename, judge_content, matches_type, sniff_content_type
from tests.support.effort import cpu_seconds

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)
ZIP = b"PK\x03\x04" + bytes(20)
MP4 = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41"


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("a\x00b\r\nSet-Cookie: x.txt", "abSet-Cookie: x.txt"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("Übersicht.pdf", "Übersicht.pdf"),
        ("файл.txt", "файл.txt"),
        ("文件.txt", "文件.txt"),
        ("a\ud800b.txt", "ab.txt"),
        ("می\u200cخواهم.txt", "می\u200cخواهم.txt"),
        ("👩\u200d💻.png", "👩\u200d💻.png"),
        ("\u200d.\u200d", None),
        ("con.txt", "_con.txt"),
        ("LPT1", "_LPT1"),
        ("console.txt", "console.txt"),
        ("nul .tar.gz", "_nul .tar.gz"),
        ("COM\u00b2.txt", "_COM\u00b2.txt"),
        ("CONIN$", "_CONIN$"),
        ("name. . .", "name"),
        (" \u200d \u3000name\u00a0.\u00a0", "name"),
        ("..", None),
        ("", None),
        (None, None),
        ("\u200b", None),
    ],
)
def test_filenames(name: str | None, cleaned: str | None) -> None:
    assert clean_filename(name) == cleaned


@given(st.text(max_size=5000))
def test_any_filename_comes_out_short_and_harmless(name: str) -> None:
    cleaned = clean_filename(name)
    if cleaned is not None:
        assert len(cleaned.encode()) <= 255
        assert not any(c in cleaned for c in "/\\\r\n\x00")
        assert unicodedata.is_normalized("NFC", cleaned)
        assert clean_filename(cleaned) == cleaned


@pytest.mark.parametrize("length", [300, 500, 5000])
def test_a_long_name_keeps_its_suffix(length: int) -> None:
    cleaned = clean_filename("ü" * length + ".pdf")
    assert cleaned == "ü" * 125 + ".pdf"
    assert clean_filename(unicodedata.normalize("NFD", "ü" * length + ".pdf")) == cleaned


def test_a_name_that_is_cut_ends_as_a_name_may() -> None:
    assert clean_filename("a" * 254 + " b") == "a" * 254


def test_no_name_takes_long_to_clean() -> None:
    marks = "a" + "\u0315" * 10_000 + "\u0300" * 10_000  # to be put in order: the second kind goes before the first
    assert cpu_seconds(lambda: clean_filename(marks)) < 0.2


@pytest.mark.parametrize(
    "head",
    [
        b"<!DOCTYPE " + b"a" * 2000 + b" " * 2000 + b"[",
        b"<!DOCTYPE " + b"a" * 4080 + b"[",
        b"<!DOCTYPE a" + b'"' * 2001 + b"'" * 2001,
        b"<!DOCTYPE a [" + b"] " * 2000,
        b"<!DOCTYPE a>" + b"<!---->" * 580,
        b"<" + b"a:" * 2040,
        b"PK\x03\x04" * 1000,
        b"ftyp" * 1000,
    ],
)
def test_no_content_takes_long_to_recognise(head: bytes) -> None:
    assert cpu_seconds(lambda: sniff_content_type(head)) < 0.05


@pytest.mark.parametrize(
    ("head", "name", "claimed", "expected"),
    [
        (PNG, "a.txt", "text/plain", "image/png"),
        (MP4, None, None, "video/mp4"),
        (b"%PDF-1.7\n", "a.png", "image/png", "application/pdf"),
        (b"<html><script>alert(1)</script>", "a.png", "image/png", "text/html"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "a.png", None, "image/svg+xml"),
        (b"hello", "a.png", "image/png", "text/plain"),
        (b"a,b\n1,2", "a.csv", None, "text/csv"),
        (b'{"a": 1}', "a.json", None, "application/json"),
        (ZIP, "a.png", "image/png", "application/zip"),
        (bytes(range(256)), "a.png", "image/png", "application/octet-stream"),
        (bytes(range(256)), "a.bin", None, "application/octet-stream"),
        (b"", "a.txt", None, "text/plain"),
        (b"", None, None, "application/octet-stream"),
        (("x" + "ü" * 4096).encode()[:4096], "a.txt", None, "text/plain"),
        (b"x" * 4093 + b"\xe2\x00\x01", "a.txt", None, "application/octet-stream"),
        ("x\n\x1b[1m".encode("utf-16"), "a.txt", None, "text/plain"),
        ("x\n\x07".encode("utf-16"), "a.txt", None, "application/octet-stream"),
    ],
)  # fmt: skip
def test_sniffing(head: bytes, name: str | None, claimed: str | None, expected: str) -> None:
    assert sniff_content_type(head, name, claimed) == expected


@given(st.binary(max_size=4096), st.none() | st.text(), st.none() | st.text())
def test_sniffing_never_fails(head: bytes, name: str | None, claimed: str | None) -> None:
    assert clean_content_type(sniff_content_type(head, name, claimed)) is not None


def test_claims_are_reduced_to_the_bare_type() -> None:
    assert clean_content_type('Text/HTML; charset="x"') == "text/html"
    assert clean_content_type("text") is None
    assert clean_content_type("a/b\r\nX: y") is None


def test_ranges_of_types() -> None:
    assert matches_type("image/png", "image/*")
    assert not matches_type("image/png", "image/p")
    assert not matches_type("imagex/png", "image/*")
    assert matches_type("text/plain", "*/*")
    assert matches_type("application/zip", "application/x-zip-compressed")


def ftyp(*brands: str) -> bytes:
    body = brands[0].encode() + bytes(4) + b"".join(each.encode() for each in brands)
    return struct.pack(">I", len(body) + 8) + b"ftyp" + body + struct.pack(">I", 64) + b"moov" + bytes(56)


def film(*handlers: str) -> bytes:
    """An MP4 whose list of tracks comes first."""
    tracks = b"".join(b"hdlr" + bytes(8) + each.encode() + bytes(20) for each in handlers)
    return ftyp("isom")[:-64] + struct.pack(">I", len(tracks) + 8) + b"moov" + tracks


def archive(*names: str, mimetype: str | None = None, content: bytes = b"x" * 50) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        if mimetype:
            file.writestr("mimetype", mimetype, zipfile.ZIP_STORED)
        for name in names:
            file.writestr(name, content)
    return packed.getvalue()


OOXML = "application/vnd.openxmlformats-officedocument."
WORD, EXCEL = f"{OOXML}wordprocessingml.document", f"{OOXML}spreadsheetml.sheet"
ODT = "application/vnd.oasis.opendocument.text"
MACRO = b'<Types><Override PartName="/word/document.xml" ContentType="%s.main+xml"/></Types>'
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
WEBM = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webmB\x87\x81\x04B\x85\x81\x02"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize(
    ("head", "name", "claimed", "expected"),
    [
        # documents that are ZIP archives: their first entries tell
        (archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"), None, None, WORD),
        (archive("_rels/.rels", "xl/workbook.xml"), None, None, EXCEL),
        (archive("_rels/.rels", "xl/workbook.xml"), "a.xlsm", None, "application/vnd.ms-excel.sheet.macroenabled.12"),
        (archive("_rels/.rels", "xl/workbook.xml"), "a.docx", None, EXCEL),
        (archive("_rels/.rels", "docProps/app.xml"), "a.docx", None, WORD),
        (
            archive("[Content_Types].xml", content=MACRO % b"application/vnd.ms-word.document.macroEnabled"),
            "a.docx",
            WORD,
            "application/vnd.ms-word.document.macroenabled.12",
        ),
        (archive("[Content_Types].xml", content=MACRO % WORD.encode()), "a.zip", None, WORD),
        (archive("content.xml", mimetype=ODT), None, None, ODT),
        (archive("content.xml", mimetype="application/epub+zip"), "a.odt", ODT, "application/epub+zip"),
        (archive("content.xml", mimetype="image/png"), None, None, "application/zip"),
        (archive("META-INF/MANIFEST.MF"), None, None, "application/java-archive"),
        (archive("AndroidManifest.xml"), "a.apk", None, "application/vnd.android.package-archive"),
        # an archive that is none of them is none of them, whatever it is called
        (archive("a.txt"), "a.docx", WORD, "application/zip"),
        (archive("a.txt"), "a.pdf", "application/pdf", "application/zip"),
        (archive("a.txt"), "a.kmz", "application/vnd.google-earth.kmz", "application/vnd.google-earth.kmz"),
        (archive("a.txt"), "a.zip", "application/x-zip-compressed", "application/zip"),
        (OLE, "a.doc", None, "application/msword"),
        (OLE, "a.xls", "application/octet-stream", "application/vnd.ms-excel"),
        (OLE, "a.pdf", "application/pdf", "application/x-ole-storage"),
        # ISO media by brand
        (ftyp("isom", "avc1"), "a.mp4", None, "video/mp4"),
        (ftyp("iso5", "dash"), None, None, "video/mp4"),
        (ftyp("qt  "), "a.mp4", "video/mp4", "video/quicktime"),
        (bytes(4) + b"mdat" + bytes(50), None, None, "video/quicktime"),
        (ftyp("M4A "), None, None, "audio/mp4"),
        (film("soun"), "a.mp4", "video/mp4", "audio/mp4"),
        (film("soun")[:-20], "a.mp4", None, "video/mp4"),
        (film("soun")[:-20], "a.m4a", None, "audio/mp4"),
        (film("soun", "vide"), "a.m4a", "audio/mp4", "video/mp4"),
        (ftyp("isom"), "a.m4a", None, "audio/mp4"),
        (ftyp("3gp5"), None, None, "video/3gpp"),
        (ftyp("heic", "mif1"), "a.jpg", "image/jpeg", "image/heic"),
        (ftyp("mif1", "heic"), None, None, "image/heic"),
        (ftyp("mif1", "avif"), None, None, "image/avif"),
        (ftyp("mif1"), None, None, "image/heif"),
        (ftyp("avif"), None, None, "image/avif"),
        (ftyp("jp2 "), None, None, "image/jp2"),
        # Matroska and Ogg by what is in them
        (WEBM, "a.webm", None, "video/webm"),
        (WEBM, None, "audio/webm;codecs=opus", "audio/webm"),
        (WEBM + b"\xae\x86\x86A_OPUS", None, "video/webm", "audio/webm"),
        (WEBM + b"\xae\x86\x85V_VP9\x86\x86A_OPUS", "a.weba", "audio/webm", "video/webm"),
        (WEBM.replace(b"\x84webm", b"\x88matroska"), None, None, "video/x-matroska"),
        (b"OggS\x00\x02" + bytes(20) + b"\x01\x13OpusHead", None, None, "audio/ogg"),
        (b"OggS\x00\x02" + bytes(20) + b"\x01\x2a\x80theora", "a.ogg", None, "video/ogg"),
        # markup by its first element, past comments and declarations
        (b"<!-- made by hand -->\n" + SVG, "a.txt", None, "image/svg+xml"),
        (b"<!DOCTYPE svg [<!ENTITY ns 'x>y'>]>" + SVG, None, None, "image/svg+xml"),
        (b"<?xml version='1.0'?><s:svg xmlns:s='http://www.w3.org/2000/svg'/>", None, None, "image/svg+xml"),
        (b"<?xml version='1.0'?><note/>", "a.svg", "image/svg+xml", "application/xml"),
        (b"<?xml version='1.0'?><!--" + b"x" * 5000, "a.svg", None, "image/svg+xml"),
        (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>", None, None, "application/xhtml+xml"),
        (b"text with an <svg> in it", "a.svg", "image/svg+xml", "text/plain"),
        (b"<!-- c --> <HTML>", "a.txt", "text/plain", "text/html"),
        (b"<p align='center'>README", "a.md", None, "text/markdown"),
        (b"<p>hello", None, None, "text/html"),
        ("\ufeff<html>".encode("utf-16-le"), None, None, "text/html"),
        # text that is not UTF-8 is text all the same
        ("Name;Größe\n".encode("cp1252"), "a.csv", "application/vnd.ms-excel", "text/csv"),
        (b"{\\rtf1 hello", "a.doc", None, "application/rtf"),
        (b"#EXTM3U\n", "a.m3u8", None, "application/vnd.apple.mpegurl"),
        (b"@book{x}", "a.bib", "application/x-bibtex", "application/x-bibtex"),
        (b"  \n%PDF-1.4", None, None, "application/pdf"),
        # images, sound, films and fonts are such only where the bytes show it
        (bytes(range(256)), "a.heic", "image/anything", "application/octet-stream"),
        (bytes(range(256)), "a.mp3", "audio/mpeg", "application/octet-stream"),
        (bytes(range(256)), "a.bin", "application/x-firmware", "application/x-firmware"),
        (b"", "a.png", "image/png", "application/octet-stream"),
        (b"", "a.json", None, "application/json"),
        (b"\x1f\x8b\x08" + bytes(20), "a.tar.gz", None, "application/gzip"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", None, None, "image/webp"),
        (b"MZ\x90\x00" + bytes(60), "a.png", "image/png", "application/x-msdownload"),
    ],
)  # fmt: skip
def test_kinds_that_look_alike_are_told_apart(
    head: bytes, name: str | None, claimed: str | None, expected: str
) -> None:
    assert sniff_content_type(head[:4096], name, claimed) == expected


@pytest.mark.parametrize(
    ("head", "name", "claimed", "contradicted"),
    [
        (PNG, "a.jpg", None, "image/jpeg"),
        (PNG, "a", "image/jpg", "image/jpeg"),
        (PNG, "a.png", "application/octet-stream", None),
        (PNG, "a.png", "application/x-unheard-of", None),
        (PNG, None, None, None),
        (b"hello", "a.png", None, "image/png"),
        (b"hello", "a.csv", "application/vnd.ms-excel", None),
        (b"hello", "a.conf", "text/x-ini", None),
        (b"<html>", "a.txt", None, "text/plain"),
        (b"<html>", "a.html", "text/html; charset=utf-8", None),
        (SVG, "a.svg", "text/xml", None),
        (archive("word/document.xml"), "a.docx", "application/zip", None),
        (archive("a.txt"), "a.docx", None, WORD),
        (ftyp("isom"), "a.mov", "video/quicktime", None),
        (ftyp("heic"), "a.heic", "image/heif", None),
        (ftyp("heic"), "a.jpg", None, "image/jpeg"),
        (bytes(range(256)), "a.mp3", None, "audio/mpeg"),
        (b"", "a.png", None, "image/png"),
        (b"", "a.txt", None, None),
    ],
)  # fmt: skip
def test_a_name_or_claim_that_the_bytes_belie_is_seen(
    head: bytes, name: str | None, claimed: str | None, contradicted: str | None
) -> None:
    assert judge_content(head, name, claimed).contradicted == contradicted


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("a.tar.gz", "application/gzip"),
        ("A.TGZ", "application/gzip"),
        ("report.2026.PDF", "application/pdf"),
        (".jpg", None),
        ("..jpg", None),
        ("a.", None),
        ("a." + "j" * 300, None),
        ("data:text/html,a", None),
        ("https:a.jpg", "image/jpeg"),
    ],
)
def test_a_name_stands_for_the_type_of_its_last_suffix(name: str, named: str | None) -> None:
    assert type_of_suffix(name) == named


# -- the table of signatures -------------------------------------------------------------------------------------------

_FIRST = st.sampled_from(puremagic.magic_header_array + puremagic.magic_footer_array)
_SECOND = st.sampled_from([(magic, row) for magic, rows in puremagic.multi_part_dict.items() for row in rows])


@st.composite
def _signed(draw: st.DrawFn) -> bytes:
    """Bytes with signatures of puremagic's in them, some where they mean something."""
    content = bytearray(draw(st.binary(min_size=1, max_size=64)) * draw(st.sampled_from((1, 1, 9, 40))))
    pieces = [(row.offset, row.byte_match) for row in draw(st.lists(_FIRST, max_size=3))]
    for magic, row in draw(st.lists(_SECOND, max_size=1)):
        pieces += [(0, magic), (row.offset, row.byte_match)]
    for offset, magic in pieces:
        at = offset if offset >= 0 else max(0, len(content) + offset)
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(magic)] = magic
    return bytes(content[:4096])


@given(_signed())
def test_the_ordered_table_finds_what_puremagic_finds(head: bytes) -> None:
    found = [
        (canonical_type(each.mime_type), (each.confidence, len(each.byte_match))) for each in _puremagic_finds(head)
    ]
    wanted = [(kind, rank) for kind, rank in found if kind.startswith(MEDIA) or kind in SIGNED]
    # Which of those that are equally good comes first depends on the process, with puremagic.
    best = {kind for kind, rank in wanted if rank == wanted[0][1]}
    assert kind_by_magic(head) in (best or {None})


def _puremagic_finds(head: bytes) -> list[Any]:
    try:
        return puremagic.magic_string(head)
    except puremagic.PureError:
        return []
