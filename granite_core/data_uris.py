"""Content inside a URL: ``data:image/png;base64,…`` (RFC 2397), decoded in pieces."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from granite_core._open_source import OpenSource
from granite_core.errors import InvalidSourceError

__all__ = ["DataURI", "from_data_uri"]

MAX_HEAD: Final = 1024
"""Characters before the comma: a media type with its parameters."""

PIECE: Final = 64 * 1024
"""Characters that are decoded at a time; a multiple of four."""

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_OUTSIDE_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/]")


@dataclass(frozen=True, slots=True)
class DataURI:
    """Content that is written in a ``data:`` URL. Made by ``from_data_uri``.

    Args:
        uri: The URL.
        content_type: The media type it claims; None where it names none.
        is_base64: Whether its data are base64.
        begins: Where in the URL its data begin.
    """

    uri: str = field(repr=False)
    content_type: str | None
    is_base64: bool
    begins: int

    @property
    def size(self) -> int:
        """Length of the content in bytes, counted without decoding any of it."""
        uri, begins = self.uri, self.begins
        octets = len(uri) - begins - 2 * uri.count("%", begins)
        if not self.is_base64:
            return octets
        padding = uri.count("=", begins) + uri.count("%3D", begins) + uri.count("%3d", begins)
        return (octets - padding) * 3 // 4

    def open(self) -> OpenSource:
        """Return the content, to be decoded while it is read."""
        return OpenSource(stream=_Decoder(self), content_type=self.content_type, size=self.size, announced=self.size)


def from_data_uri(uri: str) -> DataURI:
    """Take a ``data:`` URL as content: for ``put``, and as ``unsaved(from_data_uri(…))`` for a flush.

    Its size is known, and refused where the policy does not take it, before any of it is decoded.

    Args:
        uri: ``data:[media type][;base64],data``; may come from a stranger. Data that are not base64 are
            percent-encoded; base64 may be, too. Nothing is read past a ``#``, which no data hold.

    Raises:
        InvalidSourceError: It is no such URL.
    """
    if uri[:5].lower() != "data:":
        raise _invalid("a data URI begins with data:")
    uri = uri.partition("#")[0]
    comma = uri.find(",", 5, MAX_HEAD)
    if comma < 0:
        raise _invalid("a data URI has a comma before its data")
    if not (uri.isascii() and uri.isprintable()) or " " in uri:
        raise _invalid("a data URI has printable ASCII characters only")
    if _BAD_ESCAPE.search(uri):
        raise _invalid("a percent sign in a data URI is followed by two hexadecimal digits")
    media_type, *parameters = uri[5:comma].split(";")
    is_base64 = bool(parameters) and parameters[-1].strip().lower() == "base64"
    return DataURI(uri, media_type.strip().lower() or None, is_base64, comma + 1)


class _Decoder:
    """Reads the data of a URL, a piece at a time."""

    def __init__(self, data: DataURI) -> None:
        self._uri = data.uri
        self._at = data.begins
        self._is_base64 = data.is_base64
        self._encoded = b""
        self._decoded = bytearray()
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; ``b""`` only at the end.

        Raises:
            InvalidSourceError: The data are no base64.
        """
        while (size < 0 or len(self._decoded) < size) and self._at < len(self._uri):
            self._decode(self._next())
        taken = len(self._decoded) if size < 0 else size
        data = bytes(self._decoded[:taken])
        del self._decoded[:taken]
        return data

    def _next(self) -> bytes:
        end = min(self._at + PIECE, len(self._uri))
        if end < len(self._uri) and (cut := self._uri.find("%", end - 2, end)) >= 0:
            end = cut  # an escape stays whole
        piece, self._at = self._uri[self._at : end], end
        return unquote_to_bytes(piece) if "%" in piece else piece.encode("ascii")

    def _decode(self, data: bytes) -> None:
        if not self._is_base64:
            self._decoded += data
            return
        whole = self._encoded + data
        if self._at == len(self._uri):
            whole, self._encoded = whole.rstrip(b"="), b""
        else:
            usable = len(whole) // 4 * 4
            whole, self._encoded = whole[:usable], whole[usable:]
        if _OUTSIDE_BASE64.search(whole):
            raise _invalid("the data are not base64")
        try:
            self._decoded += binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))  # many leave the padding out
        except binascii.Error as error:
            raise _invalid("the data are not base64") from error


def _invalid(why: str) -> InvalidSourceError:
    return InvalidSourceError(why, operation="put")
