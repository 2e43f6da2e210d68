"""Connections of one's own: whoever holds one of the application's while it waits for another may wait for ever."""

from __future__ import annotations

import os

from sqlalchemy import Engine, event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import Pool, QueuePool

__all__ = ["beside"]


def beside(engine: Engine) -> Engine:
    """Return an engine that is the same but for its connections, which nobody else uses.

    SQLite keeps the application's: its memory may be in them, and there is one writer in any case. So does a pool that
    has no bounds.
    """
    if engine.dialect.name == "sqlite" or not isinstance(engine.pool, QueuePool):
        return engine
    return _Beside(engine)


class _Beside(OptionEngine):
    """Shares listeners, options and compiled statements with an engine, and is disposed of with it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, {})
        self._own, self._process = engine.pool.recreate(), os.getpid()
        event.listen(engine, "engine_disposed", self._follow)

    @property
    def pool(self) -> Pool:  # type: ignore[override]  # an attribute there
        """The connections."""
        if self._process != os.getpid():  # those of the parent are the parent's
            self._own, self._process = self._own.recreate(), os.getpid()
        return self._own

    def _follow(self, _: Engine) -> None:
        self.pool.dispose()
        self._own = self._own.recreate()
