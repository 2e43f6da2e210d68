"""The collector as a part of an application: which databases it looks in, and when it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar.plugins import InitPlugin
from sqlalchemy import MetaData

from granite_core import ConfigurationError, StorageManager
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_columns
from granite_litestar.scheduling import CollectorRunner

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.config.app import AppConfig

__all__ = ["CollectionPlugin", "alchemy_configs"]


class CollectionPlugin(InitPlugin):
    """Runs the collector in an application's lifespan, inside that of the databases it works on.

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
        self._metadatas = [each for each in metadatas if file_columns(each)]
        self._started = started

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Append the lifespan, once every other plugin has appended its own: it must end before the engines do."""
        if app_config.plugins[-1] is self:
            app_config.lifespan.append(self._lifespan)
        else:
            app_config.plugins.append(self)
        return app_config

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncIterator[None]:
        databases = self._databases(list(alchemy_configs(list(app.plugins))))
        async with CollectorRunner(Collector(self._manager, SQLAlchemyLedger(databases), self._config)) as runner:
            self._started(runner)
            yield

    def _databases(self, configs: Sequence[Any]) -> list[tuple[Any, MetaData]]:
        """Every engine with the metadata of its models."""
        if self._engines:
            pairs = [each if isinstance(each, tuple) else (each, None) for each in self._engines]
            return [
                (engine, metadata)
                for engine, only in pairs
                for metadata in ([only] if only is not None else self._metadatas)
            ]
        if len(configs) == 1:
            return [(configs[0].get_engine(), metadata) for metadata in self._metadatas or [configs[0].metadata]]
        known = [each.metadata for each in configs]
        for metadata in self._metadatas:
            if not any(metadata is each for each in known):
                tables = ", ".join(sorted({column.table.name for column in file_columns(metadata)}))
                raise ConfigurationError(
                    f"which of the {len(configs)} databases holds {tables}? Set metadata= in its configuration of "
                    "SQLAlchemyPlugin, or engines=[(engine, Base.metadata)] in GraniteConfig"
                )
        return [(each.get_engine(), each.metadata) for each in configs]


def alchemy_configs(plugins: Sequence[Any]) -> Iterator[Any]:
    """Yield the database configurations of ``SQLAlchemyPlugin``, wherever among the plugins it is."""
    try:
        from advanced_alchemy.extensions.litestar import SQLAlchemyInitPlugin, SQLAlchemyPlugin
    except ImportError:
        return
    seen: set[int] = set()
    for plugin in plugins:
        if isinstance(plugin, (SQLAlchemyPlugin, SQLAlchemyInitPlugin)):
            for config in plugin.config:
                if id(config) not in seen:
                    seen.add(id(config))
                    yield config
