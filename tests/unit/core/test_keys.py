"""Keys stay where they belong, whatever their pieces are made of."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from granite_core.errors import InvalidKeyError
from granite_core.keys import build_key, clean_segment, suffix_of, unique_part, validate_key


def test_the_layout_of_a_key() -> None:
    known = {"model_name": "user", "entity_id": "42", "field_name": "avatar"}
    assert build_key("u", prefix="avatars", **known, suffix=".png") == "avatars/user/42/avatar/u.png"
    assert build_key("u", prefix="/a/b/", suffix=".png") == "a/b/_/u.png"
    assert build_key("u") == "_/u"


def test_the_unique_part_has_128_bits_and_folds_no_case() -> None:
    parts = {unique_part() for _ in range(1000)}
    assert len(parts) == 1000
    assert all(len(part) == 26 and part == part.lower() and part.isalnum() for part in parts)


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "a/../b", "..", "a/./b", "a\\b", "a/\x00", "a/\n", "a/\x85", ".granite-tmp",
     "a/.granite/x",
     "a" * 201, "/".join(["a" * 100] * 11), "a/\ud800"],
)  # fmt: skip
def test_a_key_that_is_no_plain_relative_one_is_refused(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        validate_key(key)


@pytest.mark.parametrize("piece", ["..", "a/b", "", ".", "../../etc", "a\x00b", ".granite"])
@pytest.mark.parametrize("name", ["model_name", "entity_id", "field_name"])
def test_traversal_in_any_piece_is_refused(name: str, piece: str) -> None:
    with pytest.raises(InvalidKeyError):
        build_key("u", **{"model_name": "m", "entity_id": "1", "field_name": "f", name: piece})


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.PDF", ".pdf"), ("a.tar.gz", ".gz"), ("a", ""), (None, ""), ("a.", ""), ("a.p/hp", ""), ("a.\u202egpj", ""),
     ("a.jpg\x00.exe", ".exe"), ("a.äö", ""), ("a." + "x" * 13, ""), (".bashrc", ".bashrc"), ("a.jpg\n", "")],
)  # fmt: skip
def test_suffixes_are_short_and_ascii(name: str | None, suffix: str) -> None:
    assert suffix_of(name) == suffix


IDENTITIES = st.text(min_size=1, max_size=16)
"""However they are made up, 200 bytes are enough: a character takes twelve at most (``%F0%90%80%80``)."""


@given(IDENTITIES, st.text(max_size=40))
@example("\U00010000" * 16, "")
def test_any_identity_and_any_filename_make_a_valid_key(identity: str, filename: str) -> None:
    segment = clean_segment(identity)
    validate_key(
        build_key(unique_part(), model_name="m", entity_id=segment, field_name="f", suffix=suffix_of(filename))
    )
    assert "/" not in segment
    assert segment.isascii()


@given(st.text(min_size=1, max_size=300))
@example("000::" + "\x80" * 8 + "\U00010000" * 12)
@example("000:" + "\x80" * 8 + "\U00010000" * 12)
@example("a" * 200)
@example("." + "a" * 198)
def test_an_identity_is_refused_for_its_length_alone(identity: str) -> None:
    encoded = quote(identity, safe="", errors="surrogatepass")
    length = len(encoded) + 2 * encoded.startswith(".")
    if length <= 200:
        assert len(clean_segment(identity)) == length
        return
    with pytest.raises(InvalidKeyError) as refused:
        clean_segment(identity)
    assert refused.value.limit == 200


@given(IDENTITIES, IDENTITIES)
def test_different_identities_stay_different(one: str, other: str) -> None:
    assert (clean_segment(one) == clean_segment(other)) == (one == other)
