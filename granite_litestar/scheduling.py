"""Runs the collector for as long as an application lives."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from granite_core.gc import Collector, ReconcileReport, SweepReport, jittered
from granite_core.logs import describe_error

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CollectorRunner"]

logger = logging.getLogger("granite.collected")

SETTLE: Final = 10.0
"""A worker's first sweep comes within so many seconds of its start; the workers of one host start together."""
RECONCILE_POLL: Final = 60.0
"""A reconcile is asked for at most so often, in seconds; whether one is due, the database knows."""


class CollectorRunner:
    """Sweeps and reconciles in the background while its ``async with`` block runs: one of an application's lifespans.

    Every worker has one; a lease in the database sees to it that one of them works at a time. Each run is an event
    ``Collected`` of the manager, and so a line of the logger ``granite.collected``. What goes wrong is tried again: it
    never ends the application. Leaving the block stops a run that
    is under way after its current step, and waits for that.

    Example::

        runner = CollectorRunner(Collector(manager, SQLAlchemyLedger([engine], Base.metadata)))
        app = Litestar(…, lifespan=[runner])

    The tables must be there when it starts: where ``SQLAlchemyPlugin`` creates them, let ``GranitePlugin`` run the
    collector, which begins after that.

    Args:
        collector: What to run; its configuration says how often.
    """

    def __init__(self, collector: Collector) -> None:
        self.collector: Final = collector
        self.last_sweep: SweepReport | None = None
        """The last sweep that this process made."""
        self.last_reconcile: ReconcileReport | None = None
        """The last reconcile that this process made."""
        self._errors: dict[str, Exception] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake_sweep = asyncio.Event()
        self._wake_reconcile = asyncio.Event()

    @property
    def last_error(self) -> Exception | None:
        """Why the last sweep, or else the last reconcile, failed; None when neither did."""
        return self._errors.get("sweep") or self._errors.get("reconcile")

    @property
    def running(self) -> bool:
        """Whether the block is entered."""
        return bool(self._tasks)

    def wake(self, *, reconcile: bool = False) -> None:
        """Sweep now, and not only when the time has come. From any thread; does nothing when not running.

        Args:
            reconcile: Reconcile now, whenever the last one was.
        """
        event = self._wake_reconcile if reconcile else self._wake_sweep
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has closed meanwhile
                self._loop.call_soon_threadsafe(event.set)

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise RuntimeError("this runner is running already")
        config = self.collector.config
        self._loop = asyncio.get_running_loop()
        self._wake_sweep, self._wake_reconcile = asyncio.Event(), asyncio.Event()
        sweep_every = config.sweep_every.total_seconds()
        # The database tells when a backend is due; asked more often, a run that was cut short is gone on with soon.
        poll = min(config.reconcile_every.total_seconds(), max(sweep_every, RECONCILE_POLL))
        self._tasks = [
            self._loop.create_task(
                self._repeat("sweep", self._sweep, self._wake_sweep, sweep_every), name="granite-sweep"
            ),
            self._loop.create_task(
                self._repeat("reconcile", self._reconcile, self._wake_reconcile, poll), name="granite-reconcile"
            ),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks, self._loop = self._tasks, [], None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _repeat(
        self, name: str, run: Callable[[bool], Awaitable[None]], wake: asyncio.Event, every: float
    ) -> None:
        wait = min(every, SETTLE) * random.random()  # noqa: S311 - no secret
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), wait)
            asked = wake.is_set()
            wake.clear()
            try:
                await run(asked)
                self._errors.pop(name, None)
            except Exception as error:  # noqa: BLE001 - a run that fails is tried again, whatever it was
                self._errors[name] = error
                logger.warning(
                    "the %s failed, and is tried again: %s",
                    *(name, describe_error(error)),
                    extra={"event": "tried_again", "kind": name, "error": type(error).__name__},
                )
            wait = jittered(every, random.random())  # noqa: S311 - no secret

    async def _sweep(self, asked: bool) -> None:
        report = await self.collector.asweep()
        if report.skipped is None or self.last_sweep is None:
            self.last_sweep = report

    async def _reconcile(self, asked: bool) -> None:
        not_within = None if asked else self.collector.config.reconcile_every
        report = await self.collector.areconcile(not_within=not_within)
        done = report.did_anything
        if done or self.last_reconcile is None:
            self.last_reconcile = report
