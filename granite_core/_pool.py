"""Threads of a bounded number, made at first use and anew after a fork."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

__all__ = ["ThreadPool"]


class ThreadPool:
    """Makes its executor when it is asked for: threads do not survive a fork, and a pool that lost its own hangs.

    Args:
        size: How many threads it has at most.
        name: What they are called.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._made: tuple[int, ThreadPoolExecutor] | None = None

    def executor(self) -> ThreadPoolExecutor:
        """Return the executor of this process."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                made = self._made
                if made is None or made[0] != os.getpid():
                    pool = ThreadPoolExecutor(self._size, thread_name_prefix=self._name)
                    self._made = made = (os.getpid(), pool)
        return made[1]
