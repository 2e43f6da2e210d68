"""Whom a connection belongs to, as the application tells."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from granite_litestar.exceptions import MalformedBodyError

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection

__all__ = ["MAX_SUBJECT", "Subject", "subject_of"]

MAX_SUBJECT: Final = 255
"""How many characters the name of whoever uploads may have: the column's width."""

Subject: TypeAlias = "Callable[[ASGIConnection[Any, Any, Any, Any]], object | Awaitable[object]]"
"""Tells whom a connection belongs to: a user's id, text or what ``str`` makes one of, None for nobody. Asynchronous, or
quick: it is called on the event loop."""


async def subject_of(connection: ASGIConnection[Any, Any, Any, Any], subject: Subject | None) -> str:
    """Return whom a connection belongs to; empty for nobody.

    Args:
        connection: The connection.
        subject: The application's; None where everybody is nobody.

    Raises:
        MalformedBodyError: The application made too long a name of what the client sent.
    """
    if subject is None:
        return ""
    found = subject(connection)
    if inspect.isawaitable(found):
        found = await found
    name = "" if found is None else str(found)
    if len(name) > MAX_SUBJECT:
        raise MalformedBodyError(
            detail=f"Whoever uploads has a name of more than {MAX_SUBJECT} characters",
            extra={"code": "subject_too_long", "field": "subject", "limit": MAX_SUBJECT, "value": len(name)},
        )
    return name
