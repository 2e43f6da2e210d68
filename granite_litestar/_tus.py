"""tus 1.0: what requests say and what answers say. Pure.

The resumable upload protocol, version 1.0.0 (https://tus.io/protocols/resumable-upload).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from litestar.exceptions import HTTPException

__all__ = [
    "CHECKSUMS",
    "EXTENSIONS",
    "OFFSET_TYPE",
    "VERSION",
    "Checksum",
    "Creation",
    "TusError",
    "http_date",
    "parse_checksum",
    "parse_creation",
    "parse_metadata",
    "parse_number",
]

VERSION: Final = "1.0.0"
OFFSET_TYPE: Final = "application/offset+octet-stream"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)
CHECKSUMS: Final[Mapping[str, int]] = {"sha1": 20, "sha256": 32, "md5": 16}
"""Algorithms, the name of each being hashlib's too, and the length of their digests in bytes."""

MAX_METADATA: Final = 8192
MAX_PARTS: Final = 1000

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_KEY: Final = re.compile(r"[!-+\--~]+")  # ASCII that can be seen, but for the comma


class TusError(HTTPException):
    """A request that the protocol does not allow."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Say what is wrong with it."""
        super().__init__(detail=detail, status_code=status, headers=headers)


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a client says of the bytes of one request.

    Args:
        algorithm: Its name, for hashlib.
        digest: The digest.
    """

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Creation:
    """What a client wants to be created.

    Args:
        length: How many bytes it will have; None where it says so later.
        metadata: As it was sent.
        partial: Whether it is a part of a larger upload.
        parts: Ids of the parts that it is made of; None where it is no such upload.
        concat: ``Upload-Concat`` as it was sent.
    """

    length: int | None
    metadata: str
    partial: bool = False
    parts: tuple[str, ...] | None = None
    concat: str | None = None


def parse_number(headers: Mapping[str, str], name: str) -> int | None:
    """Return a header that is a length or an offset; None where there is none.

    Raises:
        TusError: It is no such number.
    """
    value = headers.get(name.lower())
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise TusError(400, f"{name} is no number")
    return int(value)


def parse_creation(headers: Mapping[str, str]) -> Creation:
    """Return what a request for an upload asks for.

    Raises:
        TusError: It is not as the protocol has it.
    """
    metadata = headers.get("upload-metadata", "")
    if len(metadata) > MAX_METADATA:
        raise TusError(400, f"Upload-Metadata has more than {MAX_METADATA} characters")
    parse_metadata(metadata)
    length, defers = parse_number(headers, "Upload-Length"), headers.get("upload-defer-length")
    concat = headers.get("upload-concat")
    if concat is not None and concat != "partial":
        if length is not None or defers is not None:
            raise TusError(400, "An upload that is made of others has no length of its own")
        return Creation(None, metadata, parts=_parts(concat), concat=concat)
    if defers is not None and defers != "1":
        raise TusError(400, "Upload-Defer-Length can only be 1")
    if (length is None) == (defers is None):
        raise TusError(400, "Either Upload-Length or Upload-Defer-Length is needed")
    return Creation(length, metadata, partial=concat is not None, concat=concat)


def _parts(concat: str) -> tuple[str, ...]:
    kind, _, urls = concat.partition(";")
    found = urls.split()
    if kind.strip() != "final" or not found:
        raise TusError(400, "Upload-Concat is 'partial', or 'final;' and the addresses of uploads")
    if len(found) > MAX_PARTS:
        raise TusError(400, f"An upload is made of {MAX_PARTS} others at most")
    parts = tuple(url.partition("?")[0].rstrip("/").rpartition("/")[2] for url in found)
    if len({*parts}) < len(parts):
        raise TusError(400, "Upload-Concat names an upload more than once")
    return parts


def parse_metadata(text: str) -> dict[str, str]:
    """Return the pairs of ``Upload-Metadata``; values that are no UTF-8 are read as Latin-1.

    Raises:
        TusError: It is not as the protocol has it.
    """
    found: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not _KEY.fullmatch(key) or key in found:
            raise TusError(400, "Upload-Metadata has a key that is empty, not ASCII, or there twice")
        try:
            raw = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise TusError(400, f"Upload-Metadata: the value of {key} is no base64") from None
        try:
            found[key] = raw.decode()
        except UnicodeDecodeError:
            found[key] = raw.decode("latin-1")
    return found


def parse_checksum(value: str | None) -> Checksum | None:
    """Return what ``Upload-Checksum`` says; None where it is not there.

    Raises:
        TusError: The algorithm is not known, or the digest is none of it.
    """
    if value is None:
        return None
    algorithm, _, text = value.strip().partition(" ")
    if algorithm not in CHECKSUMS:
        raise TusError(400, "Upload-Checksum names an algorithm that is not known here")
    try:
        digest = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != CHECKSUMS[algorithm]:
        raise TusError(400, f"Upload-Checksum is no base64 of {algorithm}")
    return Checksum(algorithm, digest)


def http_date(moment: datetime) -> str:
    """Write a moment as HTTP does (RFC 9110 section 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)
