"""How much memory the parts of all uploads of this process may take together."""

from __future__ import annotations

import os
import threading

__all__ = ["BufferBudget", "buffer_budget"]


class BufferBudget:
    """How much memory the buffers of all uploads of this process may take together.

    Args:
        limit: In bytes. May be changed at any time.

    Attributes:
        limit: The same.
        used: Bytes taken at the moment.
        spilled: How many buffers have gone to a temporary file because there was no memory left.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.renew()

    def renew(self) -> None:
        """Begin anew: for a forked child, which owns none of its parent's buffers."""
        self.used = 0
        self.spilled = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take bytes from the budget, if there are as many."""
        with self._lock:
            if self.used + size > self.limit:
                return False
            self.used += size
            return True

    def give(self, size: int, *, spilled: bool = False) -> None:
        """Give bytes back."""
        with self._lock:
            self.used -= size
            self.spilled += spilled


buffer_budget = BufferBudget(32 * 1024 * 1024)
"""The budget of this process."""

os.register_at_fork(after_in_child=buffer_budget.renew)
