"""Which database keeps the upload sessions of which policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from litestar.plugins import InitPlugin

from granite_core import ConfigurationError, StorageManager
from granite_core.integrations.sqlalchemy import file_columns
from granite_litestar._databases import alchemy_configs, find_databases

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from sqlalchemy import MetaData

    from granite_core.uploads import AsyncUploads, UploadSettings
    from granite_litestar._subjects import Subject

__all__ = ["UPLOADS_STATE_KEY", "UploadSessions"]

UPLOADS_STATE_KEY: Final = "granite_uploads"
"""Key in ``app.state`` of the application's ``UploadSessions``."""

STOP_SECONDS: Final = 10.0
"""For so long uploads that a stopping server cut off may take to record what has come."""


class UploadSessions(InitPlugin):
    """Tells where the uploads of a policy are: in the database of the field that holds its files.

    Args:
        manager: The application's.
        engines: The databases, where they are not those of ``SQLAlchemyPlugin``.
        metadatas: Tells where file fields are declared.
        subject: Tells whom a connection belongs to, where nothing else does; None where nobody says.
    """

    def __init__(
        self,
        manager: StorageManager,
        engines: Sequence[Any],
        metadatas: Callable[[], Sequence[MetaData]],
        subject: Subject | None = None,
    ) -> None:
        self.subject: Final = subject
        self.manager: Final = manager
        self._engines = engines
        self._metadatas = metadatas
        self._configs: Callable[[], Sequence[Any]] = tuple
        self.made: Final[dict[tuple[str, UploadSettings, MetaData | None], AsyncUploads]] = {}
        """By ``uploads_for``."""

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Remember where the application's databases are."""
        plugins = app_config.plugins
        self._configs = lambda: list(alchemy_configs(list(plugins)))
        return app_config

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        """Let uploads that end with the server record what has come, while there is a database to record it in."""
        yield
        await asyncio.gather(*(each.at_rest(STOP_SECONDS) for each in self.made.values()))

    def place(self, storage_key: str, metadata: MetaData | None) -> tuple[Any, MetaData]:
        """Return the engine and the metadata of the database that keeps the uploads of a policy.

        Args:
            storage_key: The policy.
            metadata: That of the row which gets the file, where it is known.

        Raises:
            ConfigurationError: There is no database, or it cannot be told which one.
        """
        places = find_databases(self._engines, self._metadatas(), self._configs())
        if metadata is not None:
            places = [place for place in places if place[1] is metadata] or places
        named = [
            place
            for place in places
            if any(getattr(column.type, "storage_key", None) == storage_key for column in file_columns(place[1]))
        ]
        found = {id(engine): (engine, metadata) for engine, metadata in reversed(named or places)}
        if len(found) != 1:
            raise ConfigurationError(
                f"which of {len(found)} databases keeps the uploads of the policy {storage_key!r}? Declare the field "
                f"that gets them with file_field({storage_key!r}), in one of them",
                value=storage_key,
            )
        return next(iter(found.values()))
