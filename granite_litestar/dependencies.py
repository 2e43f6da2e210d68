"""The managers as dependencies of handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request
from litestar.di import Provide

from granite_core import AsyncStorageManager, ConfigurationError, StorageManager

if TYPE_CHECKING:
    from litestar.config.app import AppConfig

    from granite_litestar._token_desk import TokenDesk

__all__ = ["provide_managers", "provide_tokens"]


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

    for name, key, provider in (
        ("manager_dependency_key", sync_key, provide_manager),
        ("async_manager_dependency_key", aio_key, provide_async_manager),
    ):
        _provide(app_config, name, key, Provide(provider, sync_to_thread=False))
    app_config.signature_namespace.setdefault("StorageManager", StorageManager)
    app_config.signature_namespace.setdefault("AsyncStorageManager", AsyncStorageManager)


def provide_tokens(app_config: AppConfig, key: str, desk: TokenDesk) -> None:
    """Register the tokens of a request as a dependency of an application that is being made.

    Args:
        app_config: The application's configuration.
        key: Name of the dependency.
        desk: The application's tokens.

    Raises:
        ConfigurationError: The application has a dependency of that name already.
    """
    from granite_litestar._request_tokens import RequestTokens, tokens_of  # where an application has tokens

    async def provide_request_tokens(request: Request[Any, Any, Any]) -> RequestTokens:
        return await tokens_of(desk, request)

    _provide(app_config, "tokens_dependency_key", key, Provide(provide_request_tokens))
    app_config.signature_namespace.setdefault("RequestTokens", RequestTokens)


def _provide(app_config: AppConfig, setting: str, key: str, provider: Provide) -> None:
    if key in app_config.dependencies:
        raise ConfigurationError(
            f"the application has a dependency {key!r} already: choose another {setting} in GraniteConfig", value=key
        )
    app_config.dependencies[key] = provider
