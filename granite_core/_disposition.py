"""Content-Disposition (RFC 6266, RFC 8187) for any filename whatever."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal
from urllib.parse import quote

from granite_core.media import clean_filename

__all__ = ["content_disposition"]

_NOT_IN_FALLBACK: Final = re.compile(r'[^\x20-\x7e]|["\\/%]')
_ATTR_CHAR: Final = "!#$&+-.^_`|~"


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
