"""What backends that keep objects in a bucket do alike, so that each reads what the other wrote. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlsplit

from granite_core.errors import BackendUnavailableError, ConfigurationError, InvalidKeyError
from granite_core.keys import is_reserved, split_key, validate_key

__all__ = [
    "TOKEN",
    "answer_overrides",
    "bucket_prefix",
    "delete_alone",
    "goes_with_others",
    "is_object_key",
    "patience",
    "web_address",
]

TOKEN: Final = "granite-token"  # noqa: S105 - the name of a metadata entry
"""Metadata entry with a random value for each writer: tells our own commit, of which the answer was lost, from a
clash with somebody else's."""

AWAY_IN_A_ROW: Final = 3
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


def goes_with_others(location: str) -> bool:
    """Tell whether an object can be deleted with others in a request that names them in XML.

    There are parsers that drop whitespace at the ends of a text, and characters that XML cannot hold.
    """
    return location.isprintable() and location == location.strip() and is_object_key(location)


def delete_alone(delete: Callable[[str], object], locations: Iterable[str]) -> dict[str, Exception]:
    """Delete objects one after another; return those that may still be there, and why.

    A store that is away is not waited for once more for each object: after a few in a row the rest is not tried.

    Args:
        delete: Deletes one object.
        locations: Which.
    """
    failed: dict[str, Exception] = {}
    away, in_a_row = None, 0
    for location in locations:
        if in_a_row == AWAY_IN_A_ROW and away is not None:
            failed[location] = away
            continue
        try:
            delete(location)
            in_a_row = 0
        except BackendUnavailableError as error:
            failed[location] = away = error
            in_a_row += 1
        except Exception as error:  # noqa: BLE001 - whatever one delete raises, the others go on
            failed[location] = error
            in_a_row = 0
    return failed


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
