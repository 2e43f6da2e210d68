"""Content-Disposition (RFC 6266, RFC 8187): written for any filename whatever, and read as others write it."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

from granite_core.media import clean_filename

__all__ = ["content_disposition", "extended_filename", "filename_of"]

_NOT_IN_FALLBACK: Final = re.compile(r'[^\x20-\x7e]|["\\/%]')
_ATTR_CHAR: Final = "!#$&+-.^_`|~"
_EXTENDED: Final = re.compile(r";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s\"]*)", re.IGNORECASE)
_QUOTED: Final = re.compile(r';\s*filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))', re.IGNORECASE)


def content_disposition(kind: Literal["inline", "attachment"], filename: str | None) -> str:
    """Write a ``Content-Disposition`` that every client reads and none can misread.

    ``filename`` carries an ASCII rendering that needs no escapes and holds no percent sign (RFC 6266, appendix D);
    ``filename*`` carries the real name in UTF-8 wherever that differs.

    Args:
        kind: ``inline`` or ``attachment``.
        filename: The name a client is to save the content under, as untrusted as it comes.

    Returns:
        A field value in visible ASCII and spaces, without a name where nothing usable is left of it.
    """
    name = clean_filename(filename)
    if not name:
        return kind
    fallback = _fallback(name)
    value = f'{kind}; filename="{fallback}"'
    if fallback != name:
        value += f"; filename*=UTF-8''{quote(name, safe=_ATTR_CHAR)}"
    return value


def _fallback(name: str) -> str:
    if name.isascii():
        return _NOT_IN_FALLBACK.sub("_", name)
    decomposed = unicodedata.normalize("NFKD", name)
    unaccented = "".join(character for character in decomposed if not unicodedata.combining(character))
    # After the normalisation: it can bring forth quotes and slashes from their full-width look-alikes.
    return _NOT_IN_FALLBACK.sub("_", unaccented) or "_"  # of a name that is marks alone nothing is left


def filename_of(disposition: str) -> str | None:
    """Return the name that a ``Content-Disposition`` gives, as untrusted as it comes; None where it gives none.

    Args:
        disposition: The field's value, read as Latin-1, as servers and clients of HTTP do.
    """
    if (extended := extended_filename(disposition)) is not None:
        return extended
    match = _QUOTED.search(disposition)
    if match is None:
        return None
    quoted, token = match.groups()
    return _as_utf8(token if quoted is None else re.sub(r"\\(.)", r"\1", quoted))


def extended_filename(disposition: str) -> str | None:
    """Return the ``filename*`` of a ``Content-Disposition`` (RFC 8187), or None where there is no valid one."""
    match = _EXTENDED.search(disposition)
    if match is None:
        return None
    try:
        return unquote_to_bytes(match[2]).decode(match[1])
    except UnicodeError:
        return None


def _as_utf8(name: str) -> str:
    """A header value was read as Latin-1; most who put more than ASCII into one meant UTF-8."""
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        return name
