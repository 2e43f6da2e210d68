"""Names are cleaned, and types are judged on the bytes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core.media import clean_content_type, clean_filename, matches_type, sniff_content_type

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
        ("name. . .", "name"),
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


def test_a_long_name_keeps_its_suffix() -> None:
    cleaned = clean_filename("ü" * 300 + ".pdf")
    assert cleaned is not None
    assert cleaned.endswith("ü.pdf")


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
        (ZIP, "a.odt", None, "application/vnd.oasis.opendocument.text"),
        (ZIP, "a.png", "image/png", "application/zip"),
        (bytes(range(256)), "a.png", "image/png", "application/octet-stream"),
        (bytes(range(256)), "a.bin", None, "application/octet-stream"),
        (b"", "a.txt", None, "text/plain"),
        (b"", None, None, "application/octet-stream"),
        (("x" + "ü" * 4096).encode()[:4096], "a.txt", None, "text/plain"),
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
