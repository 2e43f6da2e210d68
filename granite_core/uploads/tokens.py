"""What a client is given of a finished upload, and hands back with a form: sealed, and bound to policy and subject."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from granite_core.errors import ConfigurationError, UploadGoneError
from granite_core.manager import StorageManager
from granite_core.signing import Sealer
from granite_core.uploads.sessions import UploadSession, UploadStatus

__all__ = ["UploadTokens"]

_PURPOSE: Final = "upload:"


class UploadTokens:
    """Seals the ids of finished uploads into tokens, and opens them again. Pure.

    A token is good for the policy of its upload and for its subject, as long as the upload waits. It says nothing of
    whether the upload is still there: ask ``Uploads.find``.

    Args:
        sealer: With the application's secrets.
    """

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer: Final = sealer

    @classmethod
    def of(cls, manager: StorageManager) -> UploadTokens:
        """Return those that are sealed with a manager's secrets (``UrlSettings``)."""
        return cls(manager.links.sealer)

    def issue(self, session: UploadSession) -> str:
        """Return the token of a finished upload.

        Raises:
            ConfigurationError: The application has no secrets.
            UploadGoneError: The upload is not finished.
        """
        if session.status is not UploadStatus.FINISHED:
            raise UploadGoneError("the upload is not finished", operation="seal")
        purpose = f"{_PURPOSE}{session.storage_key}"
        return self._with().seal(purpose, session.id, expires=session.expires_at, subject=session.subject)

    def open(self, token: str, storage_key: str, *, now: datetime, subject: str = "") -> str:
        """Return the id of the upload that a token is for.

        Args:
            token: As it came from a client.
            storage_key: The policy that the upload must have been made for.
            now: The time, with time zone.
            subject: Whom it must belong to.

        Raises:
            ConfigurationError: The application has no secrets.
            TokenInvalidError: It is no token, or one for another policy or subject.
            TokenExpiredError: Its time has passed.
        """
        return self._with().open(f"{_PURPOSE}{storage_key}", token, str, now=now, subject=subject).value

    def _with(self) -> Sealer:
        if self._sealer is None:
            raise ConfigurationError("tokens need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))")
        return self._sealer
