"""The decoder of multipart forms: bytes in, parts out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core import ConfigurationError, ContentTooLargeError
from granite_core.serving import extended_filename
from granite_litestar.exceptions import MalformedBodyError
from granite_litestar.multipart import (
    MAX_HEADER_BYTES,
    MAX_SILENT_BYTES,
    FormLimits,
    MultipartDecoder,
    PartHead,
    encode_text_parts,
)

BOUNDARY = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"

FORM = (
    b'------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name="title"\r\n\r\nInvoice\r\n'
    b'------WebKitFormBoundary7MA4YWxkTrZu0gW\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\r\n--\r\n------WebKitForm\r\r\n\n\x00\xff\r\n"
    b"------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n"
)


def decode(pieces: Iterable[bytes], *, boundary: bytes = BOUNDARY, max_parts: int = 10) -> list[tuple[PartHead, bytes]]:
    decoder = MultipartDecoder(boundary, max_parts=max_parts)
    parts: list[tuple[PartHead, bytes]] = []
    head: PartHead | None = None
    data = b""
    for piece in pieces:
        for event in decoder.feed(piece):
            if isinstance(event, PartHead):
                head, data = event, b""
            elif event is None:
                assert head is not None
                parts.append((head, data))
                head = None
            else:
                data += event
    decoder.close()
    return parts


def one(*headers: bytes, body: bytes = b"x") -> PartHead:
    form = b"--b\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body + b"\r\n--b--\r\n"
    [(head, _)] = decode([form], boundary=b"b")
    return head


def test_a_form_of_a_browser_is_decoded() -> None:
    assert decode([FORM]) == [
        (PartHead("title", None, None, None), b"Invoice"),
        (PartHead("file", "a.bin", "application/octet-stream", None), b"\r\n--\r\n------WebKitForm\r\r\n\n\x00\xff"),
    ]


@given(st.lists(st.integers(0, len(FORM)), max_size=8))
def test_where_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(FORM)]
    pieces = [FORM[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert decode(pieces) == decode([FORM])


def test_one_byte_at_a_time_is_enough() -> None:
    assert decode(FORM[i : i + 1] for i in range(len(FORM))) == decode([FORM])


def test_bytes_are_handed_on_as_they_arrive() -> None:
    decoder = MultipartDecoder(b"b", max_parts=1)
    list(decoder.feed(b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'))
    for _ in range(3):
        assert b"".join(e for e in decoder.feed(b"y" * 100_000) if isinstance(e, bytes)) == b"y" * 100_000


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        ('form-data; name="f"', "f", None),
        ('form-data; name="f"; filename=""', "f", ""),
        ('form-data; name="f"; filename="naïve 日本.txt"', "f", "naïve 日本.txt"),
        ('form-data; name="f%22g"; filename="a%22b.txt"', 'f"g', 'a"b.txt'),
        (r'form-data; name="f"; filename="C:\Users\me\a.txt"', "f", r"C:\Users\me\a.txt"),
        ("form-data; name=f; filename*=UTF-8''na%C3%AFve.txt", "f", "naïve.txt"),
        ("form-data; name=f; filename=\"ascii.txt\"; filename*=utf-8'en'%e2%82%ac.txt", "f", "€.txt"),
        ("form-data; name=f; filename=\"a.txt\"; filename*=utf-8''%ff", "f", "a.txt"),
        ("form-data", "", None),
    ],
)
def test_names_are_read_as_browsers_and_programs_write_them(disposition: str, name: str, filename: str | None) -> None:
    head = one(f"Content-Disposition: {disposition}".encode())
    assert head.name == name
    # Folders are for the cleaning to cut; only a drive's letter may be gone already.
    assert head.filename == filename or (filename or "").endswith(f"\\{head.filename}")


def test_type_and_charset_are_lower_case_and_bare() -> None:
    head = one(b'Content-Disposition: form-data; name="f"', b"Content-Type: Text/Plain; charset=ISO-8859-1")
    assert (head.content_type, head.charset) == ("text/plain", "iso-8859-1")


@pytest.mark.parametrize("boundary", [b"", b"x" * 300, b"a\r\nb"])
def test_an_unusable_boundary_is_refused(boundary: bytes) -> None:
    with pytest.raises(MalformedBodyError, match="boundary"):
        MultipartDecoder(boundary, max_parts=1)


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"--b",
        b"--b\r\nContent-Disposition: form-data; name=f\r\n\r\nhalf",
        b"--b\r\nContent-Disposition: form-data; name=f\r\n\r\nno closing\r\n--b\r\n",
        b"no form at all",
        b"--b\r\nContent-Disposition: attachment; name=f\r\n\r\n\r\n--b--",
        b"--b\r\nno header\r\n\r\n\r\n--b--",
        b"--b\r\n\r\nno head\r\n--b--",
        b"--b\r\nContent-Disposition: form-data; name=\xff\r\n\r\n\r\n--b--",
    ],
)
def test_what_is_no_form_is_malformed(form: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        decode([form] if form else [], boundary=b"b")


def test_more_parts_than_allowed_are_refused_naming_the_limit() -> None:
    form = encode_text_parts(b"b", [("f", "")] * 4)
    with pytest.raises(ContentTooLargeError) as caught:
        decode([form], boundary=b"b", max_parts=3)
    assert (caught.value.limit, caught.value.value) == (3, 4)


@pytest.mark.parametrize("tail", [b"", b"\r\n"])
def test_a_header_that_never_ends_is_refused(tail: bytes) -> None:
    decoder = MultipartDecoder(b"b", max_parts=1)
    with pytest.raises(ContentTooLargeError):
        list(decoder.feed(b"--b\r\nContent-Disposition: " + b"x" * (MAX_HEADER_BYTES + 1) + tail))


@pytest.mark.parametrize("start", [b"\r\n", FORM])
def test_bytes_without_end_outside_of_any_part_are_refused(start: bytes) -> None:
    decoder = MultipartDecoder(BOUNDARY, max_parts=10)
    list(decoder.feed(start))
    with pytest.raises(MalformedBodyError, match="without a part"):
        for _ in range(MAX_SILENT_BYTES // 1000 + 2):
            list(decoder.feed(b"y" * 1000))


def test_a_line_break_after_the_form_is_allowed_wherever_it_is_cut() -> None:
    assert decode([FORM, b"\r\n"]) == decode([FORM])


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))))
def test_texts_come_back_as_they_were_written(parts: list[tuple[str, str]]) -> None:
    boundary = b"a-boundary-that-no-generated-text-holds"
    form = encode_text_parts(boundary, parts)
    found = [(head.name, data.decode()) for head, data in decode([form], boundary=boundary, max_parts=1000)]
    assert [text for _, text in found] == [text for _, text in parts]
    plain = [(name, text) for name, text in parts if not set(name) & set('%"\\\r\n')]
    assert [each for each in found if each in plain] == plain


@pytest.mark.parametrize("header", ["attachment", "attachment; filename*=utf-16''a", "attachment; filename*=''", ""])
def test_an_extended_name_that_cannot_be_read_is_none(header: str) -> None:
    assert extended_filename(header) is None


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        FormLimits(max_field_size=-1)
