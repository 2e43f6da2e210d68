"""How a download went, for those who listen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from granite_core.events import Served

if TYPE_CHECKING:
    from litestar.types import Scope

    from granite_core import AsyncStorageManager, StorageError, StoredObjectRef

__all__ = ["Outcome"]


class Outcome(msgspec.Struct):
    """How an answer went so far.

    Args:
        status: Its status.
        sent: Bytes of its body that were handed to the server.
        started: Whether the head was sent.
        complete: Whether all of it was handed over.
        error: The ``code`` of what went wrong.
        cause: What went wrong, unless the application's exception handler tells of it.
    """

    status: int
    sent: int = 0
    started: bool = False
    complete: bool = False
    error: str | None = None
    cause: StorageError | None = None
    _began: float = msgspec.field(default_factory=time.perf_counter)

    def fail(self, error: StorageError, status: int, *, told: bool = True) -> None:
        """Note what went wrong.

        Args:
            error: The error.
            status: What answers it, where the head was not sent.
            told: Whether the application's exception handler tells of it; it cannot once the head was sent.
        """
        self.error = error.code
        if not self.started:
            self.status = status
        if self.started or not told:
            self.cause = error

    def tell(self, manager: AsyncStorageManager, ref: StoredObjectRef, scope: Scope) -> None:
        """Tell of it, now that it has ended."""
        if not manager.sync.events.wanted(Served, routine=self.cause is None):
            return
        manager.sync.events.emit(
            Served(
                **manager.sync.name_of(ref),
                method=str(scope.get("method", "")),
                status=self.status,
                size=ref.size,
                sent=self.sent,
                seconds=time.perf_counter() - self._began,
                complete=self.complete,
                error=self.error,
                cause=self.cause,
            )
        )
