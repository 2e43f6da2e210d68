"""A source while it is being read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from granite_core.backends.base import ReadableStream

__all__ = ["OpenSource", "nothing"]


def nothing() -> None:
    """Close what needs no closing."""


class OpenSource(msgspec.Struct, frozen=True, kw_only=True):
    """Content at its first byte, and what is known of it.

    Args:
        stream: Gives the bytes.
        filename: The name it has where it is; untrusted.
        content_type: The media type that whoever gives it claims.
        size: Its length in bytes, as far as that is known.
        announced: The length in bytes that it must turn out to have.
        close: Frees what is held; blocks, idempotent, never raises.
    """

    stream: ReadableStream
    filename: str | None = None
    content_type: str | None = None
    size: int | None = None
    announced: int | None = None
    close: Callable[[], None] = nothing
