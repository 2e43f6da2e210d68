"""What backends that keep objects in a bucket do alike, so that each reads what the other wrote. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlsplit

from granite_core.errors import ConfigurationError, InvalidKeyError
from granite_core.keys import is_reserved, split_key, validate_key

__all__ = ["TOKEN", "answer_overrides", "bucket_prefix", "is_object_key", "patience", "web_address"]

TOKEN: Final = "granite-token"  # noqa: S105 - the name of a metadata entry
"""Metadata entry with a random value for each writer: tells our own commit, of which the answer was lost, from a
clash with somebody else's."""

MAX_PREFIX_BYTES: Final = 123  # with its slash, what is left of 1,024 bytes beside the longest key


def bucket_prefix(prefix: str | None) -> str:
    """Return what every key in the bucket begins with: empty, or a folder with a slash at its end.

    Raises:
        ConfigurationError: It is no folder, or too long.
    """
    prefix = (prefix or "").strip("/")
    try:
        if prefix:
            split_key(prefix)
    except InvalidKeyError as error:
        raise ConfigurationError(f"not a prefix: {prefix!r}", value=prefix) from error
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise ConfigurationError(f"a prefix has at most {MAX_PREFIX_BYTES} bytes", value=prefix)
    return f"{prefix}/" if prefix else ""


def is_object_key(key: str) -> bool:
    """Tell whether a key of the bucket is one of ours: no folder marker of a console, no reserved one."""
    if is_reserved(key):
        return False
    try:
        validate_key(key)
    except InvalidKeyError:
        return False
    return True


def patience(
    *, connect_timeout: float | None, read_timeout: float | None, max_attempts: int | None
) -> dict[str, float | None]:
    """Return how long a store is waited for, by the names of the settings; None for what was not said.

    Raises:
        ConfigurationError: No time at all.
    """
    said = {"connect_timeout": connect_timeout, "read_timeout": read_timeout, "max_attempts": max_attempts}
    for name, value in said.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigurationError(f"{name} must be more than nothing", value=value)
    return said


def web_address(name: str, address: str | None) -> str | None:
    """Return an address without a slash at its end.

    Args:
        name: Of the setting, for the message.
        address: What it was set to.

    Raises:
        ConfigurationError: It is no plain address.
    """
    if address is None:
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(f"{name} is an address such as https://files.example, not {address!r}", value=address)
    return address.rstrip("/")


def answer_overrides(
    ends: datetime,
    *,
    content_type: str | None,
    content_disposition: str | None,
    cache_control: str | None,
    request_payer: str | None = None,
) -> dict[str, str]:
    """Return the query of a signed address by which S3 answers with other headers than the object's own."""
    asked = {
        "response-content-type": content_type,
        "response-content-disposition": content_disposition,
        "response-cache-control": cache_control,
        "response-expires": format_datetime(ends.astimezone(UTC), usegmt=True),
        "x-amz-request-payer": request_payer,
    }
    return {name: value for name, value in asked.items() if value is not None}
