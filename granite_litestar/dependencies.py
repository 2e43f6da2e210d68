"""The managers as dependencies of handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar.di import Provide

from granite_core import AsyncStorageManager, ConfigurationError, StorageManager

if TYPE_CHECKING:
    from litestar.config.app import AppConfig

__all__ = ["provide_managers"]


def provide_managers(
    app_config: AppConfig, sync: tuple[str, StorageManager], aio: tuple[str, AsyncStorageManager]
) -> None:
    """Register both managers as dependencies of an application that is being made.

    Args:
        app_config: The application's configuration.
        sync: Name and value of the one for synchronous handlers.
        aio: Name and value of the one for asynchronous handlers.

    Raises:
        ConfigurationError: The application has a dependency of that name already.
    """
    (sync_key, manager), (aio_key, async_manager) = sync, aio

    def provide_manager() -> StorageManager:
        return manager

    def provide_async_manager() -> AsyncStorageManager:
        return async_manager

    for key, provider in ((sync_key, provide_manager), (aio_key, provide_async_manager)):
        if key in app_config.dependencies:
            raise ConfigurationError(
                f"the application has a dependency {key!r} already: choose another manager_dependency_key or "
                "async_manager_dependency_key in GraniteConfig",
                value=key,
            )
        app_config.dependencies[key] = Provide(provider, sync_to_thread=False)
    app_config.signature_namespace.setdefault("StorageManager", StorageManager)
    app_config.signature_namespace.setdefault("AsyncStorageManager", AsyncStorageManager)
