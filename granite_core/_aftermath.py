"""Hooks that are called once a COMMIT is done: in the background, so that no commit waits for them or fails by them."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from datetime import timedelta
from inspect import isawaitable
from typing import Final

from granite_core._pool import ThreadPool
from granite_core.events import object_id
from granite_core.hooks import AfterCommit, Committed
from granite_core.validation import is_async

__all__ = ["Aftermath"]

logger = logging.getLogger("granite.hooks")

THREADS: Final = 4
POLL_SECONDS: Final = 0.01


class Aftermath:
    """Calls hooks in threads of its own, asynchronous ones on the loop that runs where they are due."""

    def __init__(self) -> None:
        self._threads = ThreadPool(THREADS, "granite-after-commit")
        self._lock = threading.Lock()
        self._under_way: set[Future[None] | asyncio.Task[None]] = set()

    def begin(self, hooks: Sequence[AfterCommit], committed: Committed) -> None:
        """Call hooks, soon. Never raises, and waits for nothing."""
        for hook in hooks:
            try:
                work = self._start(hook, committed)
            except Exception as error:  # noqa: BLE001 - the commit is done: nothing may be raised into it
                _log(hook, committed, error)
                continue
            with self._lock:
                self._under_way.add(work)
            work.add_done_callback(self._ended)

    def _start(self, hook: AfterCommit, committed: Committed) -> Future[None] | asyncio.Task[None]:
        if is_async(hook):
            try:
                return asyncio.get_running_loop().create_task(_awaited(hook, committed))
            except RuntimeError:
                pass  # no loop runs here: it is given one of its own, in a thread
        return self._threads.executor().submit(copy_context().run, _called, hook, committed)

    def _ended(self, work: Future[None] | asyncio.Task[None]) -> None:
        with self._lock:
            self._under_way.discard(work)

    @property
    def is_idle(self) -> bool:
        """Whether no hook is under way."""
        with self._lock:
            return not self._under_way

    def wait(self, at_most: timedelta | None = None) -> bool:
        """Wait for every hook that is under way; False when some still are. Blocks: not for an event loop."""
        ends = _end(at_most)
        while not self.is_idle and time.monotonic() < ends:
            time.sleep(POLL_SECONDS)
        return self.is_idle

    async def wait_async(self, at_most: timedelta | None = None) -> bool:
        """Wait as ``wait`` does, and let the loop go on."""
        ends = _end(at_most)
        while not self.is_idle and time.monotonic() < ends:  # noqa: ASYNC110 - threads and tasks of several loops end it
            await asyncio.sleep(POLL_SECONDS)
        return self.is_idle


def _end(at_most: timedelta | None) -> float:
    return math.inf if at_most is None else time.monotonic() + at_most.total_seconds()


def _called(hook: AfterCommit, committed: Committed) -> None:
    try:
        result = hook(committed)
        if isawaitable(result):
            asyncio.run(_finished(result))
    except Exception as error:  # noqa: BLE001 - whatever a hook raises is its own business
        _log(hook, committed, error)


async def _awaited(hook: AfterCommit, committed: Committed) -> None:
    try:
        await _finished(hook(committed))  # type: ignore[arg-type]  # it is an asynchronous function
    except Exception as error:  # noqa: BLE001 - whatever a hook raises is its own business
        _log(hook, committed, error)


async def _finished(result: Awaitable[object]) -> None:
    await result


def _log(hook: AfterCommit, committed: Committed, error: Exception) -> None:
    name = getattr(hook, "__qualname__", type(hook).__qualname__)
    logger.error(
        "the hook %s failed after the commit of %s",
        *(name, object_id(committed.ref.location)),
        extra={"event": "hook_failed", "hook": name, "object_id": object_id(committed.ref.location)},
        exc_info=error,
    )
