"""Tokens of staged files: what a client is given of a file that no row has yet, and hands in with a form later.

The file is held by an upload session until a row takes it, or its time is over. The token is the session's id, sealed:
bound to the policy, to a purpose and to a subject. Whether it was used is known to the database alone: the flush that
puts the file into a row ends the session in the same transaction, so one of two wins, and a rollback gives it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from granite_core.errors import (
    ConfigurationError,
    TokenExpiredError,
    TokenInvalidError,
    UploadGoneError,
    UploadNotFoundError,
)
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.uploads.sessions import UploadSession
from granite_core.uploads.tokens import UploadTokens

if TYPE_CHECKING:
    from granite_core.uploads.aio import AsyncUploads
    from granite_core.uploads.uploads import Uploads

__all__ = ["AsyncStagedTokens", "StagedToken", "StagedTokens"]

KIND: Final = "token"
_PURPOSE: Final = "purpose"


class StagedToken(msgspec.Struct, frozen=True):
    """What a client is told of a file that waits for a form.

    Args:
        token: What it hands in where the file is expected.
        filename: Name the file came with.
        size: Its length in bytes.
        content_type: Its media type.
        expires: When the token stops being good.
    """

    token: Annotated[str, Meta(description="Hand it in where the file is expected.")]
    filename: Annotated[str | None, Meta(description="Name the file came with.")]
    size: Annotated[int, Meta(description="Length in bytes.", ge=0)]
    content_type: Annotated[str | None, Meta(description="Media type, judged on the bytes.")]
    expires: Annotated[datetime, Meta(description="When the token stops being good.")]


class StagedTokens:
    """Gives tokens for staged files, and takes them back. Safe to share.

    Args:
        uploads: Holds the files. Its manager's ``UrlSettings(secrets=…)`` seal the tokens.

    Raises:
        ConfigurationError: The manager has no secrets.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._rules: Final = _Rules(uploads)
        self._uploads: Final = uploads

    def issue(
        self, staged: StagedFile, *, purpose: str = "", subject: str = "", expires_in: timedelta | None = None
    ) -> StagedToken:
        """Keep a staged file past the end of its request, and return its token.

        A file that came by a token keeps its session, and gets a token of the same.

        Args:
            staged: The file, staged less than a quarter of the grace ago.
            purpose: What the token is good for beside its policy: whoever takes it names the same. Empty for nothing.
            subject: Whom it belongs to: whoever takes it names the same. Empty for nobody.
            expires_in: How long the file waits; what ``UploadSettings`` say where absent.

        Raises:
            StaleRefError: It was staged too long ago, or let go.
            UploadNotFoundError: It came by a token, and a row has taken it since.
        """
        if staged.upload is not None:
            return self._rules.told(self._uploads.find(staged.upload, subject=subject), purpose)
        details = {_PURPOSE: purpose}
        held = self._uploads.hold(staged, kind=KIND, subject=subject, details=details, expires_in=expires_in)
        return self._rules.told(held, purpose)

    def redeem(
        self, token: str, storage_key: str, *, purpose: str = "", subject: str = "", once: bool = True
    ) -> StagedFile:
        """Return the file that a token is for, to be assigned to a field.

        Args:
            token: As it came from a client.
            storage_key: The policy that the file must have been stored under.
            purpose: What the token must be good for.
            subject: Whom it must belong to.
            once: Whether the row that gets the file ends the token; otherwise it is good until it expires.

        Raises:
            TokenInvalidError: It is forged, expired, used, or of another policy, purpose or subject; which of these
                is nobody's business but the cause's.
        """
        with _alike():
            found = self._uploads.find(self._rules.id_of(token, storage_key, purpose, subject), subject=subject)
            return self._rules.file_of(found, storage_key, once=once)

    def describe(self, token: str, staged: StagedFile, *, purpose: str = "", subject: str = "") -> StagedToken:
        """Return what is told of a token whose file is known already, to hand it back. No I/O.

        Raises:
            TokenInvalidError: As ``redeem``, but for what only the database knows.
        """
        with _alike():
            expires = self._rules.expiry_of(token, staged.storage_key, purpose, subject)
        return StagedToken(token, staged.original_filename, staged.size, staged.content_type, expires)

    def discard(self, token: str, storage_key: str, *, purpose: str = "", subject: str = "") -> None:
        """End a token whose file is not wanted any more; the sweep deletes the file after the grace.

        Raises:
            TokenInvalidError: As ``redeem``.
        """
        with _alike():
            self._uploads.discard(self._rules.id_of(token, storage_key, purpose, subject), subject=subject)


class AsyncStagedTokens:
    """The verbs of ``StagedTokens`` for asynchronous code.

    Args:
        uploads: Holds the files.

    Raises:
        ConfigurationError: The manager has no secrets.
    """

    def __init__(self, uploads: AsyncUploads) -> None:
        self.sync: Final = StagedTokens(uploads.sync)
        self._rules: Final = self.sync._rules
        self._uploads: Final = uploads

    async def issue(
        self, staged: StagedFile, *, purpose: str = "", subject: str = "", expires_in: timedelta | None = None
    ) -> StagedToken:
        """Keep a staged file past the end of its request, and return its token; see ``StagedTokens.issue``."""
        if staged.upload is not None:
            return self._rules.told(await self._uploads.find(staged.upload, subject=subject), purpose)
        details = {_PURPOSE: purpose}
        held = await self._uploads.hold(staged, kind=KIND, subject=subject, details=details, expires_in=expires_in)
        return self._rules.told(held, purpose)

    async def redeem(
        self, token: str, storage_key: str, *, purpose: str = "", subject: str = "", once: bool = True
    ) -> StagedFile:
        """Return the file that a token is for; see ``StagedTokens.redeem``."""
        with _alike():
            found = await self._uploads.find(self._rules.id_of(token, storage_key, purpose, subject), subject=subject)
            return self._rules.file_of(found, storage_key, once=once)

    async def discard(self, token: str, storage_key: str, *, purpose: str = "", subject: str = "") -> None:
        """End a token whose file is not wanted any more; see ``StagedTokens.discard``."""
        with _alike():
            await self._uploads.discard(self._rules.id_of(token, storage_key, purpose, subject), subject=subject)


class _Rules:
    """What both colours decide alike. No I/O."""

    def __init__(self, uploads: Uploads) -> None:
        self._tokens: Final = UploadTokens.of(uploads.manager)
        if uploads.manager.links.sealer is None:
            raise ConfigurationError(
                "tokens for staged files need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))",
                field="secrets",
            )
        self._now: Final = uploads.manager.now

    def told(self, session: UploadSession, purpose: str) -> StagedToken:
        file = session.file
        token = self._tokens.issue(session, purpose=purpose)
        if file is None:
            raise UploadGoneError("the upload is not finished", operation="seal")
        expires = session.expires_at.replace(microsecond=0)  # as it is sealed
        return StagedToken(token, file.original_filename, file.size, file.content_type, expires)

    def id_of(self, token: str, storage_key: str, purpose: str, subject: str) -> str:
        return self._tokens.open(token, storage_key, now=self._now(), purpose=purpose, subject=subject)

    def expiry_of(self, token: str, storage_key: str, purpose: str, subject: str) -> datetime:
        opened = self._tokens.read(token, storage_key, now=self._now(), purpose=purpose, subject=subject)
        if opened.expires is None:
            raise TokenInvalidError("the token has no end", operation="open")
        return opened.expires

    def file_of(self, session: UploadSession, storage_key: str, *, once: bool) -> StagedFile:
        file = session.file
        if file is None or session.expired or session.storage_key != storage_key:
            raise UploadGoneError("the upload has ended", operation="redeem", location=session.location)
        return file if once else _unclaimed(file)


def _unclaimed(file: StagedFile) -> StagedFile:
    """The same file without its claim: it stays in its session, which is why a flush lets it into a row."""
    fields = file.storage_key, file.backend, file.location, file.size, file.checksum, file.content_type
    free = StagedFile(*fields, file.original_filename, file.created_at, file.extra, discard=_never)
    free.mark_used()
    return free


def _never(ref: StoredObjectRef) -> None:
    """What a session holds is deleted by the collector alone."""


@contextmanager
def _alike() -> Iterator[None]:
    """Refuse every token that is not good in one way, so that nobody learns what it once was."""
    try:
        yield
    except (TokenInvalidError, TokenExpiredError, UploadNotFoundError, UploadGoneError) as error:
        raise TokenInvalidError("the token is not good, or not any more", operation="redeem") from error
