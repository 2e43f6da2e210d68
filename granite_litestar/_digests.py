"""Digests that clients announce (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final

from granite_litestar.exceptions import MalformedBodyError

__all__ = ["announced_sha256"]

_SHA256: Final = re.compile(r"(?:\A|,)\s*sha-256\s*=\s*:([^:]*):", re.IGNORECASE)


def announced_sha256(headers: Mapping[str, str], name: str) -> bytes | None:
    """Return the SHA-256 that a header announces; None where it names none, or other algorithms alone.

    Args:
        headers: The request's.
        name: ``repr-digest`` or ``content-digest``.

    Raises:
        MalformedBodyError: It is none that can be.
    """
    match = _SHA256.search(headers.get(name, ""))
    if match is None:
        return None
    try:
        digest = base64.b64decode(match[1], validate=True)
    except ValueError:  # binascii.Error is one; so is what says that this is not even ASCII
        digest = b""
    if len(digest) != 32:
        raise MalformedBodyError(detail=f"The sha-256 of the {name.title()} header is no base64 of 32 bytes")
    return digest
