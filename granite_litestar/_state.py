"""Where the plugin leaves what the other modules need at request time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import ImproperlyConfiguredException

from granite_core import AsyncStorageManager, Offload

if TYPE_CHECKING:
    from litestar import Litestar

__all__ = ["MANAGER_STATE_KEY", "OFFLOAD_STATE_KEY", "async_manager_of", "offload_of"]

MANAGER_STATE_KEY: Final = "granite_manager"
"""Key in ``app.state`` of the application's ``AsyncStorageManager``."""

OFFLOAD_STATE_KEY: Final = "granite_offload"
"""Key in ``app.state`` of how the web server in front sends files, where it does."""


def async_manager_of(app: Litestar) -> AsyncStorageManager:
    """Return the application's manager.

    Raises:
        ImproperlyConfiguredException: The plugin is not among the application's plugins.
    """
    manager: Any = app.state.get(MANAGER_STATE_KEY)
    if not isinstance(manager, AsyncStorageManager):
        raise ImproperlyConfiguredException("files need GranitePlugin among the plugins of the application")
    return manager


def offload_of(app: Litestar) -> Offload | None:
    """Return how the web server in front of the application sends files; None where it does not."""
    offload: Any = app.state.get(OFFLOAD_STATE_KEY)
    return offload if isinstance(offload, Offload) else None
