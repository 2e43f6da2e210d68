"""Who may keep a copy of what is served, and for how long (RFC 9111). Pure."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Final

from granite_core.policies import StoragePolicy

__all__ = ["Address", "cache_control"]

_HOUR: Final = timedelta(hours=1)
_YEAR: Final = timedelta(days=365)


class Address(Enum):
    """What was asked for: it decides what a copy is good for."""

    ROW = "row"
    """What a row holds now; the next time it may hold another file, or be another's."""
    LINK = "link"
    """One object, which never changes: by a link that ends, or by a public one."""
    ROW_REDIRECT = "row-redirect"
    """The way from a row's address to where its file is now."""
    LINK_REDIRECT = "link-redirect"
    """The way from a link to where its object is for a while."""


def cache_control(
    address: Address,
    policy: StoragePolicy | None = None,
    *,
    everybody: bool = False,
    remaining: timedelta | None = None,
) -> str:
    """Decide the ``Cache-Control`` of an answer.

    Args:
        address: What was asked for.
        policy: The file's rules, where they are known.
        everybody: Whether no guard, judge or end stands before the file: then shared caches may keep it too.
        remaining: How long the link, or what it leads to, goes on being good; None for ever.
    """
    scope = "public" if everybody else "private"
    if address is Address.ROW:
        return f"{scope}, no-cache"
    if address is Address.ROW_REDIRECT:
        return "no-store"
    wanted = policy.cache_max_age if policy is not None else None
    immutable = policy is not None and policy.immutable
    if remaining is None and wanted is None:
        wanted = _YEAR if immutable else _HOUR
    age = min((each for each in (wanted, remaining) if each is not None), default=timedelta(0))
    seconds = int(age.total_seconds())
    if seconds <= 0:
        return f"{scope}, no-cache"
    kept = ", immutable" if immutable and address is Address.LINK else ""
    return f"{scope}, max-age={seconds}{kept}"
