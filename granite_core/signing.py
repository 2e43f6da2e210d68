"""Sealed tokens: what the application hands out and takes back, unread and unchanged by whoever carries it.

A token is authenticated encryption (AES-SIV, RFC 5297) of a small value. It is deterministic: the same value sealed
with the same secret is the same token, so that an address made of it can be cached. It hides the value: an object's
key inside it is shown to nobody. What it is for is bound in: a token sealed for one purpose, or for one subject, opens
for no other. Pure: time is an argument.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from granite_core.errors import ConfigurationError, MissingExtraError, TokenExpiredError, TokenInvalidError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["Opened", "Sealer"]

T = TypeVar("T")

MIN_SECRET_BYTES: Final = 32
MAX_TOKEN_CHARACTERS: Final = 8192

_VERSION: Final = 1
"""Of what is sealed and how; bound into every token."""

_KEY_BYTES: Final = 64  # AES-256-SIV
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]+")

_Box = tuple[int | None, msgspec.Raw]
_open_box: Final = msgspec.msgpack.Decoder(_Box).decode


@dataclass(frozen=True, slots=True)
class Opened(Generic[T]):
    """What was in a token.

    Attributes:
        value: What was sealed.
        expires: When the token stops being good; None for one that never does.
    """

    value: T
    expires: datetime | None


class Sealer:
    """Seals small values into tokens, and opens them again.

    Safe to share between threads, and between processes that were given the same secrets.

    Args:
        secrets: The newest first: that one seals, all open. Each is at least 32 bytes of what nobody can guess
            (``python -c "import secrets; print(secrets.token_urlsafe(32))"``); text counts as UTF-8. A token is good
            until its secret is taken from the list.

    Raises:
        ConfigurationError: No secret, or one that is too short.
        MissingExtraError: ``cryptography`` is not installed.
    """

    __slots__ = ("_keys",)

    def __init__(self, secrets: Iterable[str | bytes]) -> None:
        given = [secrets] if isinstance(secrets, (str, bytes)) else list(secrets)
        if not given:
            raise ConfigurationError("sealing needs at least one secret")
        self._keys: Final = tuple(_key(each) for each in given)

    def seal(self, purpose: str, value: object, *, expires: datetime | None = None, subject: str = "") -> str:
        """Seal a value into a token: characters that need no escape in a URL, a form or a header.

        Args:
            purpose: What the token is for.
            value: What it carries: whatever msgspec encodes, best an array-like struct.
            expires: When it stops being good, to the second; None for never.
            subject: Whom or what the token is bound to beside its purpose; it is not in the token, and whoever opens
                it must name the same.
        """
        until = None if expires is None else int(expires.timestamp())
        box = msgspec.msgpack.encode((until, msgspec.Raw(msgspec.msgpack.encode(value))))
        sealed = self._keys[0].encrypt(box, _bound(purpose, subject))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def open(self, purpose: str, token: str, kind: type[T], *, now: datetime, subject: str = "") -> Opened[T]:
        """Open a token.

        What is compared is compared in constant time, and every token that was not sealed so is refused alike.

        Args:
            purpose: What the token must be for.
            token: As it came from a client.
            kind: Type of the value that was sealed.
            now: The time, with time zone.
            subject: What the token must be bound to.

        Raises:
            TokenInvalidError: It was not sealed with one of the secrets, for this purpose and subject.
            TokenExpiredError: It was, but its time has passed.
        """
        try:
            until, raw = _open_box(self._unseal(token, _bound(purpose, subject)))
            value = msgspec.msgpack.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            # Sealed by us, in a form that this version does not know.
            raise TokenInvalidError("the token holds something else", operation="open") from error
        if until is None:
            return Opened(value, None)
        if now.timestamp() >= until:
            raise TokenExpiredError("the token has expired", operation="open", limit=until)
        return Opened(value, datetime.fromtimestamp(until, UTC))

    def _unseal(self, token: str, bound: list[bytes]) -> bytes:
        from cryptography.exceptions import InvalidTag

        sealed = _decode(token)
        for key in self._keys:
            try:
                return key.decrypt(sealed, bound)
            except (InvalidTag, ValueError):
                continue
        raise TokenInvalidError("the token was not sealed here, or not for this", operation="open")

    def __repr__(self) -> str:
        return f"<Sealer ({len(self._keys)} secret{'s' if len(self._keys) > 1 else ''})>"


def _bound(purpose: str, subject: str) -> list[bytes]:
    return [msgspec.msgpack.encode((_VERSION, purpose, subject))]


def _decode(token: str) -> bytes:
    """The bytes of a token. Each has one spelling: no padding, no stray characters, no bits to spare."""
    if len(token) <= MAX_TOKEN_CHARACTERS and _ALPHABET.fullmatch(token):
        try:
            sealed = base64.urlsafe_b64decode(f"{token}{'=' * (-len(token) % 4)}")
        except binascii.Error:
            sealed = b""
        if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii") == token:
            return sealed
    raise TokenInvalidError("not a token", operation="open")


def _key(secret: str | bytes) -> AESSIV:
    material = secret.encode() if isinstance(secret, str) else bytes(secret)
    if len(material) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"a secret has at least {MIN_SECRET_BYTES} bytes, this one {len(material)}: make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            limit=MIN_SECRET_BYTES,
            value=len(material),
        )
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise MissingExtraError("urls", "sealing tokens") from error
    derived = HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"granite sealed tokens").derive(material)
    try:
        return AESSIV(derived)
    except UnsupportedAlgorithm as error:
        raise ConfigurationError(
            "the OpenSSL that cryptography was built with has no AES-SIV: use 3.0 or newer"
        ) from error
