"""Threads of a bounded number, made at first use and anew after a fork, and calls that are made in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ThreadPool", "begin", "submit"]

T = TypeVar("T")


def begin(executor: Executor, call: Callable[[], object]) -> None:
    """Have a thread make a call, or none at all.

    ``ThreadPoolExecutor`` queues a call before it starts a thread for it: where the system gives none, a thread that
    is free later would make it behind the back of whoever was refused.

    Args:
        executor: The threads.
        call: What is done; raises nothing.

    Raises:
        RuntimeError: There is no thread for it, or the executor was shut down. The call will never be made.
    """
    turn = threading.Lock()

    def make() -> None:
        if turn.acquire(blocking=False):
            call()

    try:
        executor.submit(make)
    except RuntimeError:
        if turn.acquire(blocking=False):
            raise
    except BaseException:  # an interrupt, say
        turn.acquire(blocking=False)
        raise


def submit(executor: Executor, call: Callable[[], T]) -> Future[T]:
    """Have a thread make a call, or none at all, and return what becomes of it; see ``begin``.

    Raises:
        RuntimeError: There is no thread for it, or the executor was shut down. The call will never be made.
    """
    made: Future[T] = Future()

    def make() -> None:
        made.set_running_or_notify_cancel()
        try:
            made.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            made.set_exception(error)

    begin(executor, make)
    return made


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
