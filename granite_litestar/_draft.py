"""Resumable uploads as the IETF drafts them: what requests say and what answers say. Pure.

draft-ietf-httpbis-resumable-upload, of which clients name the iteration by its interop version. Those that are spoken
here are 5 (drafts 02 to 04), 6 (05), 7 (06 to 08) and 8 (09 to 12, the last of July 2026). A client that names none is
taken for one of the RFC to come, and answered as one of 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from litestar import Response

__all__ = [
    "NEWEST",
    "PARTIAL_TYPE",
    "VERSIONS",
    "DraftError",
    "is_spoken",
    "parse_boolean",
    "parse_integer",
    "parse_version",
    "told_limits",
    "write_boolean",
]

VERSIONS: Final = (5, 6, 7, 8)
NEWEST: Final = 8
VERSION_HEADER: Final = "upload-draft-interop-version"
PARTIAL_TYPE: Final = "application/partial-upload"

_TYPES: Final = "https://iana.org/assignments/http-problem-types#"
_INTEGER: Final = re.compile(r"\s*([0-9]{1,15})\s*(?:;.*)?")
_BOOLEAN: Final = re.compile(r"\s*\?([01])\s*(?:;.*)?")


class DraftError(Exception):
    """A request that the draft does not allow, and what answers it (RFC 9457).

    Args:
        status: The answer's status.
        title: What is wrong.
        kind: Name of the problem's type, where it has one.
        headers: The answer's.
        complete: Whether the upload is over by it.
        members: What the type says beside.
    """

    def __init__(
        self,
        status: int,
        title: str,
        *,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        complete: bool = False,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what is wrong with it."""
        super().__init__(title)
        self.status: Final = status
        self._problem = {
            "type": "about:blank" if kind is None else f"{_TYPES}{kind}",
            "title": title,
            "status": status,
            **(members or {}),
        }
        self._headers = {"Upload-Complete": write_boolean(complete), "Cache-Control": "no-store", **(headers or {})}

    def to_response(self) -> Response[Any]:
        """Return the answer."""
        return Response(
            self._problem, status_code=self.status, headers=self._headers, media_type="application/problem+json"
        )


def is_spoken(headers: Mapping[str, str]) -> bool:
    """Whether a request says that it speaks the draft."""
    if "tus-resumable" in headers:
        return False
    of_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return VERSION_HEADER in headers or "upload-complete" in headers or of_type == PARTIAL_TYPE


def parse_version(headers: Mapping[str, str]) -> int:
    """Return the interop version that a request speaks.

    Raises:
        DraftError: It is none that is spoken here.
    """
    if VERSION_HEADER not in headers:
        return NEWEST
    version = parse_integer(headers.get(VERSION_HEADER))
    if version not in VERSIONS:
        spoken = ", ".join(map(str, VERSIONS))
        raise DraftError(400, f"Of the draft, the interop versions {spoken} are spoken here")
    return version


def parse_integer(value: str | None) -> int | None:
    """Return a non-negative Integer (RFC 9651 section 3.3.1); None for anything else, which the draft passes over."""
    found = _INTEGER.fullmatch(value or "")
    return int(found[1]) if found else None


def parse_boolean(value: str | None) -> bool | None:
    """Return a Boolean (RFC 9651 section 3.3.6); None for anything else, which the draft passes over."""
    found = _BOOLEAN.fullmatch(value or "")
    return found[1] == "1" if found else None


def write_boolean(value: bool) -> str:
    """Write a Boolean."""
    return "?1" if value else "?0"


def told_limits(version: int, *, max_size: int | None, seconds: int | None = None) -> dict[str, str]:
    """Return ``Upload-Limit``, where the version has it.

    Args:
        version: The interop version.
        max_size: How many bytes an upload may have.
        seconds: How long it lives from now on; None where none is told of.
    """
    if version < 6:
        return {}
    said = {} if max_size is None else {"max-size": max_size}
    if seconds is not None:
        said["expires" if version == 6 else "max-age"] = max(0, seconds)
    return {"Upload-Limit": ", ".join(f"{name}={value}" for name, value in (said or {"min-size": 0}).items())}
