"""The upload sessions of an application: which database keeps those of which policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import ImproperlyConfiguredException
from litestar.plugins import InitPlugin

from granite_core import ConfigurationError, StagedFile, StorageManager, UploadGoneError
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger, file_columns
from granite_core.uploads import AsyncUploads, Uploads, UploadSettings, UploadTokens
from granite_litestar._databases import alchemy_configs, find_databases
from granite_litestar._form_plan import storage_key_of
from granite_litestar._subjects import Subject, subject_of

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from litestar.connection import ASGIConnection
    from sqlalchemy import MetaData

__all__ = ["UPLOADS_STATE_KEY", "UploadSessions", "finished_upload", "uploads_of"]

UPLOADS_STATE_KEY: Final = "granite_uploads"
"""Key in ``app.state`` of the application's ``UploadSessions``."""


STOP_SECONDS: Final = 10.0
"""For so long uploads that a stopping server cut off may take to record what has come."""


class UploadSessions(InitPlugin):
    """Gives the uploads of a policy: in the database of the field that holds its files.

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
        self._manager = manager
        self._engines = engines
        self._metadatas = metadatas
        self._configs: Callable[[], Sequence[Any]] = tuple
        self._known: dict[tuple[str, UploadSettings, MetaData | None], AsyncUploads] = {}

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Remember where the application's databases are."""
        plugins = app_config.plugins
        self._configs = lambda: list(alchemy_configs(list(plugins)))
        return app_config

    def get(
        self, storage_key: str, settings: UploadSettings | None = None, *, metadata: MetaData | None = None
    ) -> AsyncUploads:
        """Return the uploads of a policy.

        Args:
            storage_key: The policy.
            settings: How long things may take.
            metadata: That of the row which gets the file, where it is known.

        Raises:
            ConfigurationError: There is no database, or it cannot be told which one.
        """
        settings = settings or UploadSettings()
        known = self._known.get((storage_key, settings, metadata))
        if known is None:
            ledger = SQLAlchemyUploadLedger(*self._place(storage_key, metadata))
            known = AsyncUploads(Uploads(self._manager, ledger, settings))
            self._known[storage_key, settings, metadata] = known
        return known

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        """Let uploads that end with the server record what has come, while there is a database to record it in."""
        yield
        await asyncio.gather(*(each.at_rest(STOP_SECONDS) for each in self._known.values()))

    def _place(self, storage_key: str, metadata: MetaData | None) -> tuple[Any, MetaData]:
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


async def finished_upload(
    connection: ASGIConnection[Any, Any, Any, Any], token: str, target: object, *, subject: str | None = None
) -> StagedFile:
    """Return the file that a token stands for: assign it to a field, and commit.

    It is taken out of its upload by the flush, once; until then the token is good again.

    Args:
        connection: The request.
        token: What the upload's last answer carried in ``Granite-Upload-Token``.
        target: The ``storage_key`` that the upload was made for, or the mapped attribute of the field that gets it.
        subject: Whom the upload must belong to, as ``ResumableUploads(subject=…)`` named them; where absent, whom
            ``TokenConfig(subject=…)`` tells that the connection belongs to, or nobody without that.

    Raises:
        TokenInvalidError: It is no token, or one for another policy or subject.
        TokenExpiredError: Its time has passed.
        UploadNotFoundError: A row has taken the file already, or its time has passed.
        UploadGoneError: The upload was discarded.
    """
    storage_key = storage_key_of(target, where="finished_upload")
    sessions = _sessions_of(connection.app)
    uploads = sessions.get(storage_key)
    if subject is None:
        subject = await subject_of(connection, sessions.subject)
    manager = uploads.sync.manager
    upload_id = UploadTokens.of(manager).open(token, storage_key, now=manager.now(), subject=subject)
    session = await uploads.find(upload_id, subject=subject)
    if session.file is None:
        raise UploadGoneError("the upload is not finished", operation="attach")
    return session.file


def uploads_of(app: Litestar, storage_key: str) -> AsyncUploads:
    """Return an application's uploads of a policy.

    Args:
        app: The application.
        storage_key: The policy.

    Raises:
        ImproperlyConfiguredException: The plugin is not among the application's plugins.
        ConfigurationError: There is no database, or it cannot be told which one.
    """
    return _sessions_of(app).get(storage_key)


def _sessions_of(app: Litestar) -> UploadSessions:
    sessions: Any = app.state.get(UPLOADS_STATE_KEY)
    if not isinstance(sessions, UploadSessions):
        raise ImproperlyConfiguredException("uploads need GranitePlugin among the plugins of the application")
    return sessions
