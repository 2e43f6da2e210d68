"""What requests for resumable uploads say, read without a server."""

from __future__ import annotations

from typing import Any

import pytest

from granite_core import ConfigurationError
from granite_litestar import ResumableUploads
from granite_litestar._draft import DraftError, is_spoken, parse_boolean, parse_integer, parse_version, told_limits


@pytest.mark.parametrize(
    "wrong",
    ["*", "https://studio.example", ["https://studio.example/"], ["studio.example"], ["https://*.example"], [""]],
)
def test_origins_that_none_can_be_are_refused_where_they_are_named(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ResumableUploads("/uploads", storage_key="videos", public=True, allow_origins=wrong)
    assert caught.value.field == "allow_origins"


def test_origins_that_can_be_are_taken() -> None:
    origins = [
        "*",
        "https://studio.example",
        "http://localhost:3000",
        "http://[::1]:80",
        "null",
        "capacitor://localhost",
    ]
    assert ResumableUploads("/uploads", storage_key="videos", public=True, allow_origins=origins)


@pytest.mark.parametrize(
    ("text", "integer", "boolean"),
    [
        (None, None, None),
        ("", None, None),
        ("0", 0, None),
        (" 15;a=b ", 15, None),
        ("999999999999999", 10**15 - 1, None),
        ("1000000000000000", None, None),
        ("-1", None, None),
        ("1.5", None, None),
        ("1, 2", None, None),
        ("\u0663", None, None),
        ("?1", None, True),
        ("?0;x", None, False),
        ("?2", None, None),
        ("?1, ?1", None, None),
        ("true", None, None),
    ],
)
def test_what_is_no_value_of_its_kind_is_passed_over(
    text: str | None, integer: int | None, boolean: bool | None
) -> None:
    assert (parse_integer(text), parse_boolean(text)) == (integer, boolean)


def test_a_request_says_what_it_speaks() -> None:
    assert not is_spoken({})
    assert is_spoken({"upload-complete": "?0"})
    assert is_spoken({"content-type": "Application/Partial-Upload; x=y"})
    assert not is_spoken({"tus-resumable": "1.0.0", "upload-complete": "?0"})
    assert parse_version({}) == 8
    assert [parse_version({"upload-draft-interop-version": str(each)}) for each in (5, 6, 7, 8)] == [5, 6, 7, 8]
    for other in ("4", "9", "six", ""):
        with pytest.raises(DraftError):
            parse_version({"upload-draft-interop-version": other})


def test_limits_are_told_in_the_words_of_the_version() -> None:
    assert told_limits(5, max_size=1) == {}
    assert told_limits(6, max_size=1, seconds=2) == {"Upload-Limit": "max-size=1, expires=2"}
    assert told_limits(8, max_size=None, seconds=-2) == {"Upload-Limit": "max-age=0"}
    assert told_limits(8, max_size=None) == {"Upload-Limit": "min-size=0"}
