"""How much may be stored in whose name: what a policy says of it, and what it needs of a database. No I/O."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from granite_core.errors import ConfigurationError, QuotaExceededError
from granite_core.hooks import Announcement

__all__ = [
    "MAX_SCOPE",
    "MAX_SUM",
    "Counted",
    "Quota",
    "QuotaLedger",
    "QuotaLimit",
    "QuotaScope",
    "QuotaUsage",
    "Share",
    "limit_of",
    "plan_hold",
]

T = TypeVar("T")

MAX_SCOPE = 255
"""Longest name of a scope, in characters."""

MAX_SUM = 2**63 - 1
"""What a database can count: nobody may have more, whatever their limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimit:
    """How much one scope may have.

    Args:
        max_bytes: All its files together, in bytes; None for no limit.
        max_files: How many files; None for no limit.

    Raises:
        ConfigurationError: A limit is negative.
    """

    max_bytes: int | None = None
    max_files: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_files"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigurationError(f"{name} of a quota must not be negative", field=name, value=value)

    @property
    def most_bytes(self) -> int:
        """``max_bytes``, or what can be counted at all."""
        return MAX_SUM if self.max_bytes is None else min(self.max_bytes, MAX_SUM)


QuotaScope: TypeAlias = Callable[[Announcement], object]
"""Names whom an upload is counted for, ``"user:17"``; None for nobody. Synchronous ones are called in the backend's
threads, asynchronous ones awaited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Counts what is stored, for each scope by itself, and refuses what is too much for one.

    Several policies may have the same quota, or ones with the same scopes: what they store counts together. A policy
    may have several, of users and of tenants for instance: an upload must have room in each.

    Args:
        scope: Names whom an upload is counted for.
        limit: How much that one may have: bytes; a ``QuotaLimit``; or a function, synchronous or not, that returns
            either for the name of the scope, or None for no limit. None counts without a limit.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    scope: QuotaScope
    limit: int | QuotaLimit | Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        if not callable(self.scope):
            raise ConfigurationError("the scope of a quota must be a function", field="scope", value=self.scope)
        if not callable(self.limit):
            limit_of(self.limit)


def limit_of(found: object) -> QuotaLimit:
    """Return a limit as a ``QuotaLimit``.

    Raises:
        ConfigurationError: It is none.
    """
    if found is None:
        return QuotaLimit()
    if isinstance(found, QuotaLimit):
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return QuotaLimit(max_bytes=found)
    raise ConfigurationError("the limit of a quota must be bytes or a QuotaLimit", field="limit", value=found)


class Share(msgspec.Struct, frozen=True):
    """A scope that an upload is counted for, and what that scope may have."""

    scope: str
    limit: QuotaLimit


class Counted(msgspec.Struct, frozen=True):
    """An object that is counted: where it is, and by what policy."""

    location: str
    backend: str
    storage_key: str


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """What a scope has.

    Attributes:
        scope: Its name.
        bytes: All its files together, with what uploads under way have reserved.
        files: How many.
    """

    scope: str
    bytes: int
    files: int


def plan_hold(
    shares: Sequence[Share],
    used: Sequence[QuotaUsage],
    held: Sequence[int | None],
    *,
    size: int,
    wish: int,
    field: str,
) -> int:
    """Return how many bytes an object is to be counted with: ``size`` at least, and up to ``wish`` where there is room.

    Args:
        shares: Whom it is counted for.
        used: What each of them has.
        held: What each of them has of this object already; None where it is not counted yet.
        size: Bytes that it must have.
        wish: Bytes that it would like to have.
        field: Name for errors.

    Raises:
        QuotaExceededError: There is no room for ``size`` in one of them.
    """
    room = wish
    for share, usage, mine in zip(shares, used, held, strict=True):
        before, limit = mine or 0, share.limit
        if mine is None and limit.max_files is not None and usage.files >= limit.max_files:
            raise QuotaExceededError.of_files(field, limit=limit.max_files, used=usage.files)
        most = limit.most_bytes
        if size > before and usage.bytes - before + size > most:
            raise QuotaExceededError.of_bytes(field, limit=most, used=usage.bytes - before, asked=size)
        room = min(room, max(size, most - usage.bytes + before))
    return max(size, room)


class QuotaLedger(Protocol):
    """The rows beneath quotas. Each method is one short transaction; no connection is held while bytes flow."""

    @property
    def needs_loop(self) -> bool:
        """Whether it can only be used beneath an event loop."""
        ...

    def here(self) -> QuotaLedger:
        """Return the ledger for what is stored at this moment: within a flush it may be bound to its transaction."""
        ...

    def check(self) -> None:
        """See that the tables are there.

        Raises:
            ConfigurationError: One is missing.
        """
        ...

    def hold(
        self,
        counted: Counted,
        shares: Sequence[Share] | None,
        *,
        size: int,
        wish: int | None = None,
        beside: Collection[str] = (),
        field: str,
    ) -> int:
        """Count an object with a number of bytes, in place of what it was counted with before.

        Args:
            counted: The object.
            shares: Whom it is counted for; None for those that it was counted for before, by the limits of then.
            size: Bytes that it must have.
            wish: Bytes that it would like to have, where there is room; ``size`` where absent.
            beside: Locations of what it takes the place of: that is still counted, but not against it.
            field: Name for errors.

        Returns:
            How many bytes it is counted with.

        Raises:
            QuotaExceededError: There is no room; nothing has changed.
        """
        ...

    def release(self, locations: Collection[str]) -> None:
        """Count objects no more. What is not counted is passed over, so each is given back once."""
        ...

    def move(self, before: str, after: str) -> None:
        """Count an object that took the place of another one for whom that was counted; unless it is counted itself.

        Args:
            before: Location of the one that is gone, which counts no more.
            after: Location of the other, of the same size.
        """
        ...

    def usage(self, scope: str) -> QuotaUsage:
        """Return what a scope has."""
        ...

    def recount(self, scope: str) -> QuotaUsage:
        """Add up what is counted for a scope, and correct its sum."""
        ...

    def scopes(self, *, after: str | None = None, limit: int = 1000) -> Sequence[QuotaUsage]:
        """Return what scopes have, in the order of their names."""
        ...

    def run(self, call: Callable[[], T]) -> T:
        """Run what blocks, for a synchronous caller."""
        ...

    async def arun(self, call: Callable[[], T], stop: threading.Event) -> T:
        """Run it for an asynchronous caller; joined when that is cancelled."""
        ...
