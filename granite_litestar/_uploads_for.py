"""The uploads of a policy; apart from where they are kept, since not every application has any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger
from granite_core.uploads import AsyncUploads, Uploads, UploadSettings

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from granite_litestar._upload_sessions import UploadSessions

__all__ = ["uploads_for"]


def uploads_for(
    sessions: UploadSessions,
    storage_key: str,
    settings: UploadSettings | None = None,
    *,
    metadata: MetaData | None = None,
) -> AsyncUploads:
    """Return the uploads of a policy.

    Args:
        sessions: The application's.
        storage_key: The policy.
        settings: How long things may take.
        metadata: That of the row which gets the file, where it is known.

    Raises:
        ConfigurationError: There is no database, or it cannot be told which one.
    """
    settings = settings or UploadSettings()
    known = sessions.made.get((storage_key, settings, metadata))
    if known is None:
        ledger = SQLAlchemyUploadLedger(*sessions.place(storage_key, metadata))
        known = AsyncUploads(Uploads(sessions.manager, ledger, settings))
        sessions.made[storage_key, settings, metadata] = known
    return known
