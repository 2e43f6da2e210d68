"""How far a long piece of work has come, told now and then to whoever wants to know."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["Meter", "ProgressCallback"]

EVERY_SECONDS: Final = 0.25
"""How long is waited, at least, between two calls."""

ProgressCallback: TypeAlias = Callable[[int, int | None], object]
"""Is called with the bytes that are done and with all there are, None where that is not known.

First with none done, then four times a second at most, and for the last time when the file is stored. What it raises
ends the work, and nothing remains. Asynchronous managers call it on the event loop, and wait for one that is
asynchronous."""


class Meter:
    """Decides when to tell.

    Args:
        progress: Whom to tell; None for nobody.
        total: All the bytes there are, as far as that is known.
        clock: Tells the seconds.
    """

    def __init__(
        self, progress: ProgressCallback | None, total: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._total = total
        self._clock = clock
        self._told_at: float | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is anybody to tell."""
        return self._progress is not None

    def tell(self, done: int, *, at_end: bool = False) -> object:
        """Tell, if it is time.

        Args:
            done: Bytes that are done.
            at_end: Whether the work is: that is always told.

        Returns:
            What the callback returned, for asynchronous callers to wait for where it can be waited for.
        """
        if self._progress is None:
            return None
        now = self._clock()
        if not at_end and self._told_at is not None and now - self._told_at < EVERY_SECONDS:
            return None
        self._told_at = now
        return self._progress(done, done if at_end else self._total)

    async def tell_async(self, done: int, *, at_end: bool = False) -> None:
        """Tell, if it is time, and wait for an asynchronous callback."""
        told = self.tell(done, at_end=at_end)
        if inspect.isawaitable(told):
            await told

    def refuse_async(self) -> None:
        """Refuse an asynchronous callback, where nobody would wait for it.

        Raises:
            TypeError: It is one.
        """
        if inspect.iscoroutinefunction(self._progress):
            raise TypeError("progress must be a synchronous function here: the asynchronous manager waits for others")
