"""The databases of an application, and what is kept in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import MetaData

from granite_core import ConfigurationError
from granite_core.integrations.sqlalchemy import file_columns

__all__ = ["NO_DATABASE", "alchemy_configs", "find_databases"]

NO_DATABASE: Final = (
    "the collector needs a database: add SQLAlchemyPlugin to the application, or give engines= in GraniteConfig, or "
    "gc=None where another process collects"
)


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
