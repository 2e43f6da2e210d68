"""Sealed tokens: what is sealed comes back, and nothing else opens."""

from __future__ import annotations

import base64
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from granite_core import ConfigurationError, MissingExtraError, StorageError, TokenExpiredError, TokenInvalidError
from granite_core.signing import Sealer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD, NEW = "o" * 32, b"n" * 40
SEALER = Sealer([NEW])


class Claim(msgspec.Struct, array_like=True):
    name: str
    size: int
    digest: bytes = b""


class Other(msgspec.Struct, array_like=True):
    moment: datetime


claims = st.builds(Claim, st.text(), st.integers(-(2**63), 2**63), st.binary())
purposes = st.text()
moments = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(claims, purposes, purposes, st.none() | moments)
def test_what_is_sealed_comes_back(claim: Claim, purpose: str, subject: str, expires: datetime | None) -> None:
    token = SEALER.seal(purpose, claim, expires=expires, subject=subject)
    now = (expires or NOW) - timedelta(seconds=1)
    opened = SEALER.open(purpose, token, Claim, now=now, subject=subject)
    assert opened.value == claim
    assert opened.expires == expires


@given(claims, purposes)
def test_the_same_value_is_the_same_token_everywhere(claim: Claim, purpose: str) -> None:
    assert SEALER.seal(purpose, claim) == Sealer([NEW, OLD]).seal(purpose, claim)


@given(st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    token = SEALER.seal("download", data.draw(claims), expires=NOW)
    sealed = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TokenInvalidError):
        SEALER.open("download", base64.urlsafe_b64encode(sealed).rstrip(b"=").decode(), Claim, now=NOW)


@given(st.data())
def test_a_token_has_one_spelling(data: st.DataObject) -> None:
    """Nothing can be added, cut or replaced, not even what a lax decoder would pass over."""
    token = SEALER.seal("download", data.draw(claims))
    start = data.draw(st.integers(0, len(token)))
    stop = data.draw(st.integers(start, len(token)))
    changed = token[:start] + data.draw(st.text(st.sampled_from("AZaz09-_=+/. \n%ß"), max_size=4)) + token[stop:]
    assume(changed != token)
    with pytest.raises(TokenInvalidError):
        SEALER.open("download", changed, Claim, now=NOW)


@given(st.text() | st.text(st.sampled_from("AZaz09-_"), max_size=200))
def test_what_was_never_sealed_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalidError):
        SEALER.open("download", token, Claim, now=NOW)


@given(claims, st.tuples(purposes, purposes), st.tuples(purposes, purposes))
def test_purposes_and_subjects_are_disjoint(claim: Claim, sealed: tuple[str, str], asked: tuple[str, str]) -> None:
    assume(sealed != asked)
    token = SEALER.seal(sealed[0], claim, subject=sealed[1])
    with pytest.raises(TokenInvalidError):
        SEALER.open(asked[0], token, Claim, now=NOW, subject=asked[1])


def test_a_token_shows_nothing_of_its_value() -> None:
    token = SEALER.seal("download", Claim("documents/_/secret-key.pdf", 1))
    assert b"secret" not in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def test_a_token_lasts_to_the_second_before_its_end() -> None:
    token = SEALER.seal("download", Claim("a", 1), expires=NOW)
    SEALER.open("download", token, Claim, now=NOW - timedelta(microseconds=1))
    for late in (timedelta(0), timedelta(days=9999)):
        with pytest.raises(TokenExpiredError):
            SEALER.open("download", token, Claim, now=NOW + late)


def test_an_expired_token_for_something_else_is_told_nothing_but_no() -> None:
    token = SEALER.seal("download", Claim("a", 1), expires=NOW)
    with pytest.raises(TokenInvalidError) as refused:
        SEALER.open("upload", token, Claim, now=NOW + timedelta(days=1))
    with pytest.raises(TokenInvalidError) as forged:
        SEALER.open("upload", token[:-4] + "AAAA", Claim, now=NOW + timedelta(days=1))
    assert str(refused.value) == str(forged.value)


def test_secrets_rotate() -> None:
    before, during, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])
    old, new = before.seal("download", Claim("a", 1)), during.seal("download", Claim("a", 1))
    assert during.open("download", old, Claim, now=NOW).value == Claim("a", 1)
    assert after.open("download", new, Claim, now=NOW).value == Claim("a", 1)
    for sealer, token in ((before, new), (after, old)):
        with pytest.raises(TokenInvalidError):
            sealer.open("download", token, Claim, now=NOW)


def test_what_another_version_sealed_is_refused() -> None:
    with pytest.raises(TokenInvalidError):
        SEALER.open("download", SEALER.seal("download", Claim("a", 1)), Other, now=NOW)


@pytest.mark.parametrize("secrets", [[], ["x" * 31], ["x" * 32, b"short"], "x" * 31, [""]])
def test_weak_secrets_are_refused(secrets: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        Sealer(secrets)
    assert "x" * 31 not in str(error.value)


def test_nothing_shows_a_secret() -> None:
    assert OLD not in repr(Sealer([OLD, NEW]))
    assert repr(Sealer(OLD)) == "<Sealer (1 secret)>"


def test_one_secret_needs_no_list() -> None:
    assert Sealer(OLD).seal("download", Claim("a", 1)) == Sealer([OLD]).seal("download", Claim("a", 1))


def test_text_and_its_bytes_are_one_secret() -> None:
    assert Sealer(["é" * 16]).seal("p", Claim("a", 1)) == Sealer(["é".encode() * 16]).seal("p", Claim("a", 1))


def test_errors_are_told_apart_by_what_to_do_next() -> None:
    assert not issubclass(TokenExpiredError, TokenInvalidError)
    assert issubclass(TokenExpiredError, StorageError)


def test_without_cryptography_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None; sys.modules['cryptography.exceptions'] = None\n"
        "from granite_core import MissingExtraError\nfrom granite_core.signing import Sealer\n"
        "try: Sealer(['x' * 32])\nexcept MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "granite-litestar[urls]"' in done.stdout
    assert MissingExtraError.code == "missing_extra"
