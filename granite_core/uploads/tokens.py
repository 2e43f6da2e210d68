"""What a client is given of a finished upload and hands back with a form: sealed; of one policy, purpose, subject."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from granite_core.errors import ConfigurationError, UploadGoneError
from granite_core.manager import StorageManager
from granite_core.signing import Opened, Sealer
from granite_core.uploads.sessions import UploadSession, UploadStatus

__all__ = ["UploadTokens"]


class UploadTokens:
    """Seals the ids of finished uploads into tokens, and opens them again. Pure.

    A token is good for the policy of its upload, for a purpose and for its subject, as long as the upload waits. It
    says nothing of whether the upload is still there: ask ``Uploads.find``.

    Args:
        sealer: With the application's secrets.
    """

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer: Final = sealer

    @classmethod
    def of(cls, manager: StorageManager) -> UploadTokens:
        """Return those that are sealed with a manager's secrets (``UrlSettings``)."""
        return cls(manager.links.sealer)

    def issue(self, session: UploadSession, *, purpose: str = "") -> str:
        """Return the token of a finished upload.

        Args:
            session: The upload.
            purpose: What the token is good for within its policy; whoever opens it names the same.

        Raises:
            ConfigurationError: The application has no secrets.
            UploadGoneError: The upload is not finished.
        """
        if session.status is not UploadStatus.FINISHED:
            raise UploadGoneError("the upload is not finished", operation="seal")
        bound = _bound(session.storage_key, purpose)
        return self._with().seal(bound, session.id, expires=session.expires_at, subject=session.subject)

    def open(self, token: str, storage_key: str, *, now: datetime, purpose: str = "", subject: str = "") -> str:
        """Return the id of the upload that a token is for; see ``read``."""
        return self.read(token, storage_key, now=now, purpose=purpose, subject=subject).value

    def read(self, token: str, storage_key: str, *, now: datetime, purpose: str = "", subject: str = "") -> Opened[str]:
        """Return the id of the upload that a token is for, and when the token ends.

        Args:
            token: As it came from a client.
            storage_key: The policy that the upload must have been made for.
            now: The time, with time zone.
            purpose: What it must be good for.
            subject: Whom it must belong to.

        Raises:
            ConfigurationError: The application has no secrets.
            TokenInvalidError: It is no token, or one for another policy, purpose or subject.
            TokenExpiredError: Its time has passed.
        """
        return self._with().open(_bound(storage_key, purpose), token, str, now=now, subject=subject)

    def _with(self) -> Sealer:
        if self._sealer is None:
            raise ConfigurationError("tokens need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))")
        return self._sealer


def _bound(storage_key: str, purpose: str) -> str:
    """What a token is sealed for, so written that no policy and purpose read as another two."""
    return json.dumps(["upload", storage_key, purpose])
