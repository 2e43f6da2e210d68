"""The collector as a part of an application: when it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData

from granite_core import StorageManager
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from granite_litestar._databases import alchemy_configs, find_databases
from granite_litestar.scheduling import CollectorRunner

if TYPE_CHECKING:
    from litestar import Litestar

__all__ = ["Collection"]


class Collection:
    """Runs the collector in an application's lifespan, which has to be inside that of the databases it works on.

    Args:
        manager: Whose backends are collected.
        config: How often and how carefully.
        engines: The databases, where they are not those of ``SQLAlchemyPlugin``.
        metadatas: Where the file fields are declared.
        started: Called with the runner when the application starts.
    """

    def __init__(
        self,
        manager: StorageManager,
        config: GCConfig,
        engines: Sequence[Any],
        metadatas: Sequence[MetaData],
        started: Callable[[CollectorRunner], None],
    ) -> None:
        self._manager = manager
        self._config = config
        self._engines = engines
        self._metadatas = metadatas
        self._started = started

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        """Collect meanwhile."""
        databases = find_databases(self._engines, self._metadatas, list(alchemy_configs(list(app.plugins))))
        async with CollectorRunner(Collector(self._manager, SQLAlchemyLedger(databases), self._config)) as runner:
            self._started(runner)
            yield
