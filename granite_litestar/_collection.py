"""The collector as a part of an application: which databases it looks in, and when it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import MetaData

from granite_core import ConfigurationError, StorageManager
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_columns
from granite_litestar.scheduling import CollectorRunner

if TYPE_CHECKING:
    from litestar import Litestar

__all__ = ["NO_DATABASE", "Collection", "alchemy_configs", "find_databases"]

NO_DATABASE: Final = (
    "the collector needs a database: add SQLAlchemyPlugin to the application, or give engines= in GraniteConfig, or "
    "gc=None where another process collects"
)


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


def find_databases(
    engines: Sequence[Any], metadatas: Sequence[MetaData], configs: Sequence[Any]
) -> list[tuple[Any, MetaData]]:
    """Return every engine with the metadata of its models.

    Args:
        engines: Those of ``GraniteConfig``; they go before those of ``configs``.
        metadatas: Where file fields are declared.
        configs: The configurations of ``SQLAlchemyPlugin``.

    Raises:
        ConfigurationError: There is no engine, or it cannot be told which one holds what.
    """
    metadatas = [each for each in metadatas if file_columns(each)]
    if engines:
        pairs = [each if isinstance(each, tuple) else (each, None) for each in engines]
        return [
            (engine, metadata) for engine, only in pairs for metadata in ([only] if only is not None else metadatas)
        ]
    if not configs:
        raise ConfigurationError(NO_DATABASE)
    if len(configs) == 1:
        return [(configs[0].get_engine(), metadata) for metadata in metadatas or [configs[0].metadata]]
    known = [each.metadata for each in configs]
    for metadata in metadatas:
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
