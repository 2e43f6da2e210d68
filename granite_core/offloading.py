"""Leaving the sending of a file to the web server in front: what it is told, and when that is sound. Pure decisions."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote

from granite_core.errors import ConfigurationError
from granite_core.serving import ServePlan, content_security_policy, served_type

__all__ = ["OFFLOAD_TOKEN_HEADER", "Offload", "offloaded_headers"]

OFFLOAD_TOKEN_HEADER: Final = "X-Granite-Offload"  # noqa: S105 - the name of a field, no secret
"""Request header in which the web server shows ``Offload.token``."""

_LEAST_TOKEN: Final = 16
_JUDGED_AGAIN: Final = ("if-match", "if-unmodified-since")
_OF_THE_BODY: Final = frozenset({"accept-ranges", "content-length", "content-range"})
_OF_THE_WHOLE: Final = frozenset({"content-digest"})


@dataclass(frozen=True, slots=True)
class Offload:
    """The web server that stands in front of the application and sends files for it.

    The application decides, and answers with the file's name in ``header`` and no body; the web server takes that away
    and sends the file. It must do so for **every** request that reaches the application: one that came past it would
    be told the name, and get no file. ``token`` rules that out.

    Args:
        roots: What the web server calls the folders: ``{"/srv/files": "/_files"}`` for an internal location of nginx,
            ``{"/srv/files": "/srv/files"}`` for ``X-Sendfile``, which takes paths. Relative folders are those of this
            process. What lies in none of them is streamed.
        header: ``"X-Accel-Redirect"`` (nginx) or ``"X-Sendfile"`` (Apache's mod_xsendfile, lighttpd).
        token: A secret of 16 characters or more that the web server adds to each request, as ``X-Granite-Offload``, in
            place of whatever the client sent by that name. Requests without it are answered with the file itself.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    roots: Mapping[str, str]
    header: Literal["X-Accel-Redirect", "X-Sendfile"] = "X-Accel-Redirect"
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.header not in ("X-Accel-Redirect", "X-Sendfile"):
            raise ConfigurationError(
                f'header of Offload must be "X-Accel-Redirect" or "X-Sendfile", not {self.header!r}', value=self.header
            )
        if not self.roots:
            raise ConfigurationError("roots of Offload name no folder")
        for folder, name in self.roots.items():
            if not name.startswith("/"):
                raise ConfigurationError(f"what the web server calls {folder!r} begins with a slash", value=name)
        if self.token is not None and (
            len(self.token) < _LEAST_TOKEN or not self.token.isascii() or not self.token.isprintable()
        ):
            raise ConfigurationError(
                f"token of Offload is of {_LEAST_TOKEN} visible ASCII characters or more", limit=_LEAST_TOKEN
            )
        resolved = {str(Path(folder).resolve()): name for folder, name in self.roots.items()}
        innermost_first = dict(sorted(resolved.items(), key=lambda each: len(each[0]), reverse=True))
        object.__setattr__(self, "roots", MappingProxyType(innermost_first))

    def name_of(self, path: PurePath) -> str | None:
        """Return what the web server calls a file, percent-encoded; None where it has no name for it.

        Args:
            path: An absolute path without links in it.
        """
        for folder, name in self.roots.items():
            if path.is_relative_to(folder):
                return quote(os.fsencode(f"{name.rstrip('/')}/{path.relative_to(folder)}"))
        return None

    def trusts(self, shown: str | None) -> bool:
        """Tell whether a request came by way of the web server, as far as that can be told.

        Args:
            shown: The request's ``X-Granite-Offload``.
        """
        if self.token is None:
            return True
        return shown is not None and hmac.compare_digest(shown.encode("utf-8", "replace"), self.token.encode())


def offloaded_headers(
    method: str,
    fields: Mapping[str, str],
    plan: ServePlan,
    headers: Iterable[tuple[str, str]],
    content_type: str | None,
) -> list[tuple[str, str]] | None:
    """Decide whether a web server may send a planned answer in our place, and with which headers.

    It would judge ``If-Match`` and ``If-Unmodified-Since`` again, by validators of its own, and may leave out the
    ``Content-Security-Policy``, on which text that is shown in the browser depends. Those are sent by us.

    Args:
        method: The request's.
        fields: The request's, by lower-case name.
        plan: The answer.
        headers: Its headers, those that the application adds included.
        content_type: Stored media type of the file.

    Returns:
        The headers that hold whichever ranges the web server sends; None where it must not.
    """
    if method != "GET" or not plan.parts or any(name in fields for name in _JUDGED_AGAIN):
        return None
    dropped = _OF_THE_BODY | _OF_THE_WHOLE if "range" in fields else _OF_THE_BODY
    kept = [
        # The web server draws its own boundary, and writes the file's type into each part.
        (name, served_type(content_type) if value.startswith("multipart/byteranges") else value)
        for name, value in headers
        if name.lower() not in dropped
    ]
    shown = any(name.lower() == "content-disposition" and value.startswith("inline") for name, value in kept)
    if shown and "sandbox" in (content_security_policy(content_type) or ""):
        return None
    return kept
