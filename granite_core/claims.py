"""What is stored, counted for whom it is stored: reserved before its first byte, corrected at its end, given back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from granite_core._pending import run_to_end
from granite_core.errors import ConfigurationError
from granite_core.hooks import Announcement
from granite_core.quotas import MAX_SCOPE, Counted, Quota, QuotaLedger, QuotaLimit, QuotaUsage, Share, limit_of
from granite_core.validation import naming_the_field

if TYPE_CHECKING:
    from datetime import timedelta

    from granite_core.refs import StoredObjectRef

__all__ = ["AsyncQuotas", "Claim", "Quotas"]

T = TypeVar("T")

STEP: Final = 1024 * 1024
MAX_STEP: Final = 64 * 1024 * 1024
"""An upload of no known length reserves ahead as much as it has, between these."""

Ask = Callable[[Callable[[Any], object], Any], Awaitable[object]]


class Quotas:
    """What scopes have stored. A manager's own is ``manager.quotas``.

    Args:
        ledger: Where it is counted: ``SQLAlchemyQuotaLedger(engine, Base.metadata)``.
    """

    def __init__(self, ledger: QuotaLedger) -> None:
        self.ledger: Final = ledger
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """See that the tables are there.

        Raises:
            ConfigurationError: One is missing.
        """
        self.perform(self.ledger.check)

    def usage(self, scope: str) -> QuotaUsage:
        """Return what a scope has, to be shown to whoever it is."""
        return self.perform(lambda: self.ledger.usage(scope))

    def count(self, ref: StoredObjectRef, scope: str) -> None:
        """Count a file that is stored already, whatever the limit; counted for the scope before, it stays so.

        Args:
            ref: The file.
            scope: Whom it is counted for.

        Raises:
            ConfigurationError: The scope is none.
        """
        self.perform(self._counting(ref, scope))

    def _counting(self, ref: StoredObjectRef, scope: str) -> Callable[[], int]:
        counted = Counted(ref.location, ref.backend, ref.storage_key)
        shares = [Share(name, QuotaLimit()) for name in (_checked(scope),) if name is not None]
        return lambda: self.ledger.hold(counted, shares, size=ref.size, field=ref.storage_key)

    def recount(self, scope: str) -> QuotaUsage:
        """Add up what is counted for a scope, and correct its sum, where somebody changed the rows by hand."""
        return self.perform(lambda: self.ledger.recount(scope))

    def scopes(self, *, after: str | None = None, limit: int = 1000) -> Sequence[QuotaUsage]:
        """Return what scopes have, in the order of their names; those after a name, for the next page."""
        return self.perform(lambda: self.ledger.scopes(after=after, limit=limit))

    def claim(
        self, quotas: Sequence[Quota], announced: Announcement, counted: Counted, *, beside: Collection[str] = ()
    ) -> Claim:
        """Return what counts an upload. No I/O."""
        return Claim(self, quotas, announced, counted, beside)

    def release(self, *locations: str) -> None:
        """Count objects no more that are gone.

        Raises:
            ConfigurationError: The database is asynchronous, and there is no event loop to ask it on.
        """
        self.perform(lambda: self.ledger.release(locations))

    # -- how calls are made

    def perform(self, call: Callable[[], T], ledger: QuotaLedger | None = None) -> T:
        """Make a call to the database from where nothing may be awaited.

        An asynchronous one is asked on the loop that asked it before, while this thread waits.

        Args:
            call: The call.
            ledger: Whose it is; this one's where absent.

        Raises:
            ConfigurationError: There is no such loop, or this thread runs it.
        """
        using, loop = ledger or self.ledger, self._loop
        if using.needs_loop and loop is not None and loop.is_running() and not _runs_a_loop():
            return asyncio.run_coroutine_threadsafe(using.arun(call, threading.Event()), loop).result()
        return using.run(call)

    async def perform_async(self, call: Callable[[], T], ledger: QuotaLedger | None = None) -> T:
        """Make a call to the database for asynchronous code."""
        self._loop = asyncio.get_running_loop()
        return await (ledger or self.ledger).arun(call, threading.Event())


class AsyncQuotas:
    """The verbs of ``Quotas`` for asynchronous code.

    Args:
        quotas: The synchronous ones.
    """

    def __init__(self, quotas: Quotas) -> None:
        self.sync: Final = quotas

    async def check(self) -> None:
        """See that the tables are there; see ``Quotas.check``."""
        await self.sync.perform_async(self.sync.ledger.check)

    async def usage(self, scope: str) -> QuotaUsage:
        """Return what a scope has; see ``Quotas.usage``."""
        return await self.sync.perform_async(lambda: self.sync.ledger.usage(scope))

    async def release(self, *locations: str) -> None:
        """Count objects no more that are gone; see ``Quotas.release``."""
        await self.sync.perform_async(lambda: self.sync.ledger.release(locations))

    async def count(self, ref: StoredObjectRef, scope: str) -> None:
        """Count a file that is stored already; see ``Quotas.count``."""
        await self.sync.perform_async(self.sync._counting(ref, scope))

    async def recount(self, scope: str) -> QuotaUsage:
        """Correct the sum of a scope; see ``Quotas.recount``."""
        return await self.sync.perform_async(lambda: self.sync.ledger.recount(scope))

    async def scopes(self, *, after: str | None = None, limit: int = 1000) -> Sequence[QuotaUsage]:
        """Return what scopes have; see ``Quotas.scopes``."""
        return await self.sync.perform_async(lambda: self.sync.ledger.scopes(after=after, limit=limit))


class Claim:
    """What one upload is counted with. Used by one thread at a time.

    Args:
        quotas: Where it is counted.
        wanted: The quotas of its policy.
        announced: The upload.
        counted: Its object.
        beside: Locations of what it takes the place of: that is still counted, but not against it.
    """

    def __init__(
        self,
        quotas: Quotas,
        wanted: Sequence[Quota],
        announced: Announcement,
        counted: Counted,
        beside: Collection[str] = (),
    ) -> None:
        self._quotas = quotas
        self._ledger = quotas.ledger
        self._wanted = wanted
        self._announced = announced
        self._counted = counted
        self._beside = beside
        self._shares: Sequence[Share] = ()
        self._held = 0
        self._reserved_at = 0.0
        self._begun = False

    def begin(self) -> None:
        """Reserve what is announced; where nothing is, see that there may be one file more.

        Raises:
            QuotaExceededError: There is no room.
            ConfigurationError: A scope or limit is none; or one is asynchronous, and this thread runs an event loop.
        """
        if not self._begun:
            with naming_the_field(self._announced):
                self._shares = self._merged([self._resolve(each) for each in self._wanted])
                self._start()
                if self._shares:
                    self._held = self._perform(self._hold(self._announced.size or 0))

    async def begin_async(self, ask: Ask) -> None:
        """Do as ``begin``, for asynchronous code.

        Args:
            ask: Calls a function of either colour with an argument, and awaits what it returns.
        """
        if self._begun:
            return
        with naming_the_field(self._announced):
            found = []
            for each in self._wanted:
                scope = _checked(await ask(each.scope, self._announced))
                if scope is not None:
                    limit = await ask(each.limit, scope) if callable(each.limit) else each.limit
                    found.append(Share(scope, limit_of(limit)))
            self._shares = self._merged(found)
            self._start()
            if self._shares:
                self._held = await self._quotas.perform_async(self._hold(self._announced.size or 0), self._ledger)

    def cover(self, size: int) -> None:
        """See that so many bytes are reserved, which have come.

        Raises:
            QuotaExceededError: There is no room for them.
        """
        if self._shares and size > self._held:
            wish = size + min(max(size, STEP), MAX_STEP)
            self._held = self._perform(self._hold(size, wish=wish))

    def settle(self, size: int, *, within: timedelta) -> None:
        """Count what has come, no more and no less.

        Args:
            size: In bytes.
            within: What was reserved longer ago may have been taken for that of a process that died.

        Raises:
            QuotaExceededError: It was, and there is no room any more.
        """
        late = time.monotonic() - self._reserved_at > within.total_seconds()
        if self._shares and (size != self._held or late):
            self._held = self._perform(self._hold(size))

    def give_back(self) -> None:
        """Count nothing; for what failed. Raises what the database does: then the reconcile finds it."""
        if self._begun and self._shares:
            self._perform(lambda: self._ledger.release([self._counted.location]))

    @property
    def is_joined(self) -> bool:
        """Whether it is counted in the transaction of a flush, which may be rolled back while the file stays."""
        return bool(self._shares) and self._ledger is not self._quotas.ledger

    def renew(self, size: int) -> None:
        """Count it in the transaction that is under way now; counted there already, it stays so.

        Args:
            size: In bytes.

        Raises:
            QuotaExceededError: There is no room any more.
        """
        self._ledger = self._quotas.ledger.here()
        self._held = self._perform(self._hold(size))

    def _start(self) -> None:
        self._ledger = self._quotas.ledger.here()
        self._reserved_at = time.monotonic()
        self._begun = True

    def _hold(self, size: int, *, wish: int | None = None) -> Callable[[], int]:
        field = self._announced.field
        beside = self._beside
        return lambda: self._ledger.hold(self._counted, self._shares, size=size, wish=wish, beside=beside, field=field)

    def _perform(self, call: Callable[[], T]) -> T:
        return self._quotas.perform(call, self._ledger)

    def _resolve(self, quota: Quota) -> Share | None:
        storage_key = self._counted.storage_key
        scope = _checked(_answer(quota.scope, self._announced, storage_key))
        if scope is None:
            return None
        limit = _answer(quota.limit, scope, storage_key) if callable(quota.limit) else quota.limit
        return Share(scope, limit_of(limit))

    @staticmethod
    def _merged(found: Sequence[Share | None]) -> Sequence[Share]:
        """In the order of their names, in which they are locked.

        Raises:
            ConfigurationError: Two quotas name the same scope.
        """
        shares = sorted((each for each in found if each is not None), key=lambda each: each.scope)
        if len({each.scope for each in shares}) < len(shares):
            raise ConfigurationError("two quotas of a policy name the same scope for one upload", field="quotas")
        return shares


def _answer(function: Callable[[Any], object], given: object, storage_key: str) -> object:
    answer = function(given)
    if not isawaitable(answer):
        return answer
    return run_to_end(cast("Awaitable[object]", answer), function, storage_key)


def _checked(scope: object) -> str | None:
    if scope is None:
        return None
    if not isinstance(scope, str) or not 0 < len(scope) <= MAX_SCOPE:
        raise ConfigurationError(
            f"the scope of a quota is a text of 1 to {MAX_SCOPE} characters, or None", field="scope", value=scope
        )
    return scope


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
