"""Content inside a URL (RFC 2397)."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core import ContentTooLargeError, InvalidSourceError, MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core import from_data_uri as parse


def content(uri: str) -> bytes:
    data = parse(uri)
    read = data.open().stream.read
    found = b"".join(iter(lambda: read(1000), b""))
    assert len(found) == data.size
    return found


@pytest.mark.parametrize(
    ("uri", "expected", "content_type"),
    [
        ("data:,", b"", None),
        ("data:,A%20brief%20note", b"A brief note", None),
        ("data:text/plain;charset=utf-8,%C3%A9", "é".encode(), "text/plain"),
        ("DATA:Image/GIF;BASE64,R0lGODlh", b"GIF89a", "image/gif"),
        ("data:;base64,aGk=", b"hi", None),
        ("data:;base64,aGk", b"hi", None),
        ("data:;base64,aGk%3D", b"hi", None),
        ("data:text/plain;x=y;base64,aGk=#fragment", b"hi", "text/plain"),
        ("data:,a,b;c", b"a,b;c", None),
    ],
)
def test_every_form_is_read(uri: str, expected: bytes, content_type: str | None) -> None:
    assert content(uri) == expected
    assert parse(uri).content_type == content_type


@pytest.mark.parametrize(
    "uri",
    [
        *("", "http://a/b", "data:text/plain", "data:;base64", f"data:{'a' * 2000},"),
        *("data:,ü", "data:,a b", "data:,a\nb", "data:a#b,c", "data:,%", "data:,%zz", "data:,a%4"),
    ],
)
def test_what_is_no_data_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSourceError):
        parse(uri)


@pytest.mark.parametrize("data", ["a", "a=b=", "aGk=aGk=", "a-_b", "aGk!", "%00%00%00%00", "aaaaa"])
def test_what_is_no_base64_is_refused(data: str) -> None:
    with pytest.raises(InvalidSourceError):
        content(f"data:;base64,{data}")


@given(st.binary(max_size=300_000), st.booleans(), st.booleans())
def test_what_goes_in_comes_out_and_its_size_is_known_before(data: bytes, is_base64: bool, escaped: bool) -> None:
    text = base64.b64encode(data).decode() if is_base64 else quote(data, safe="")
    uri = f"data:{';base64' if is_base64 else ''},{quote(text, safe='') if is_base64 and escaped else text}"
    assert parse(uri).size == len(data)
    assert content(uri) == data


def test_what_is_too_large_is_refused_before_it_is_decoded() -> None:
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("notes", max_size=10)])
    with pytest.raises(ContentTooLargeError) as caught:
        manager.put("notes", parse("data:;base64," + "!" * 100), field="avatar")
    assert (caught.value.field, caught.value.limit, caught.value.value) == ("avatar", 10, 75)
    assert manager.put("notes", parse("data:text/plain,hello")).content_type == "text/plain"
