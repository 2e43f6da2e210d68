"""How blocking work is done for callers of either colour, over engines of either colour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.util import await_only, greenlet_spawn

from granite_core.aio import joined
from granite_core.backends.base import StorageBackend
from granite_core.errors import ConfigurationError
from granite_core.integrations.sqlalchemy._database import in_thread
from granite_core.integrations.sqlalchemy._greenlet import in_greenlet, run_blocking

__all__ = ["Calls"]

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """What ledgers have in common: see ``Ledger``, "how calls are made"."""

    @property
    def _needs_loop(self) -> bool:
        """Whether an engine is asynchronous."""
        raise NotImplementedError

    def call(self, backend: StorageBackend | None, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that blocks without blocking an event loop beneath."""
        if backend is not None:
            return run_blocking(backend, call, *args, **kwargs)
        if in_greenlet():
            return await_only(in_thread(lambda: call(*args, **kwargs)))
        return call(*args, **kwargs)

    def run(self, call: Callable[[], T]) -> T:
        """Run what blocks for a synchronous caller.

        Raises:
            ConfigurationError: An engine is asynchronous.
        """
        if self._needs_loop and not in_greenlet():
            raise ConfigurationError(
                "an engine is asynchronous: await the asynchronous verb (asweep(), areconcile(), AsyncUploads)"
            )
        return call()

    async def arun(self, call: Callable[[], T], stop: threading.Event) -> T:
        """Run it for an asynchronous caller; when that is cancelled, stop it and join it."""
        if self._needs_loop:
            # A task of its own: cancelled in the middle of a step, a driver would leave its connection in disorder.
            return await joined(asyncio.ensure_future(greenlet_spawn(call)), stop.set)
        return await in_thread(call, stop.set)
