"""Keeps many threads together to one rate."""

from __future__ import annotations

import threading
import time

__all__ = ["Pace"]


class Pace:
    """Lets through so much a second, on average, for all threads that share it. What was not used is not saved up.

    Args:
        rate: How much a second; None for no limit.
        stop: Ends every wait when it is set.
    """

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._free_at = 0.0

    def spend(self, amount: float) -> None:
        """Wait until so much may have gone through."""
        if self._rate is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + amount / self._rate
            until = self._free_at
        self._stop.wait(max(0.0, until - time.monotonic()))
