"""The upload sessions of an application, for its own handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.exceptions import ImproperlyConfiguredException

from granite_core import StagedFile, UploadGoneError
from granite_core.uploads import UploadTokens
from granite_litestar._form_plan import storage_key_of
from granite_litestar._subjects import subject_of
from granite_litestar._upload_sessions import UPLOADS_STATE_KEY, UploadSessions
from granite_litestar._uploads_for import uploads_for

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.connection import ASGIConnection

    from granite_core.uploads import AsyncUploads

__all__ = ["finished_upload", "uploads_of"]


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
    uploads = uploads_for(sessions, storage_key)
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
    return uploads_for(_sessions_of(app), storage_key)


def _sessions_of(app: Litestar) -> UploadSessions:
    sessions: Any = app.state.get(UPLOADS_STATE_KEY)
    if not isinstance(sessions, UploadSessions):
        raise ImproperlyConfiguredException("uploads need GranitePlugin among the plugins of the application")
    return sessions
