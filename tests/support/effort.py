"""How much of the processor something takes: alike on an idle machine and a busy one, unlike the time that passes."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["cpu_seconds"]


def cpu_seconds(call: Callable[[], object], *, tries: int = 3) -> float:
    """Seconds of this thread's processor time for one call, the least of several."""
    found = []
    for _ in range(tries):
        began = time.thread_time()
        call()
        found.append(time.thread_time() - began)
    return min(found)
