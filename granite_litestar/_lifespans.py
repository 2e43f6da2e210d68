"""What of an application lives inside of everything that other plugins bring."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeAlias

from litestar import Litestar
from litestar.plugins import InitPlugin

if TYPE_CHECKING:
    from litestar.config.app import AppConfig

__all__ = ["InnermostLifespans", "Lifespan"]

Lifespan: TypeAlias = Callable[[Litestar], AbstractAsyncContextManager[None]]


class InnermostLifespans(InitPlugin):
    """Lifespans that begin after those of every other plugin, and end before them: they need the databases."""

    def __init__(self) -> None:
        self._lifespans: list[Lifespan] = []

    def add(self, lifespan: Lifespan) -> None:
        """Add one, inside of those before it."""
        self._lifespans.append(lifespan)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Append the lifespans, once every other plugin has appended its own."""
        if app_config.plugins[-1] is self:
            app_config.lifespan.extend(self._lifespans)
        else:
            app_config.plugins.append(self)
        return app_config
