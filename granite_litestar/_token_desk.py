"""Which database keeps the files that tokens stand for, and whom a token belongs to."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import MetaData

from granite_core import ConfigurationError, StorageManager
from granite_core.uploads import AsyncStagedTokens, AsyncUploads, UploadSettings
from granite_litestar._form_plan import storage_key_of
from granite_litestar._subjects import Subject, subject_of
from granite_litestar._uploads_for import uploads_for

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection

    from granite_litestar._upload_sessions import UploadSessions

__all__ = ["TokenConfig", "TokenDesk"]


@dataclass(frozen=True)
class TokenConfig:
    """How an application gives tokens for files that wait for a form. ``UrlSettings(secrets=…)`` seal them.

    Args:
        subject: Called with the connection; returns whom it belongs to: a user's id, text or what ``str`` makes one of,
            None for nobody. A token is good for the same subject alone. Asynchronous, or quick. None says aloud that
            whoever has a token may use it.
        expires_in: How long a file waits.

    Raises:
        ConfigurationError: ``expires_in`` is no time.
    """

    subject: Subject | None
    _: KW_ONLY
    expires_in: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        UploadSettings(finished_for=self.expires_in)


class TokenDesk:
    """The application's tokens: finds the database that keeps a file, and the subject of a request.

    Args:
        manager: Stores the files; its secrets seal the tokens.
        config: How.
        sessions: The application's.

    Raises:
        ConfigurationError: The manager has no secrets.
    """

    def __init__(self, manager: StorageManager, config: TokenConfig, sessions: UploadSessions) -> None:
        if manager.links.sealer is None:
            raise ConfigurationError(
                "GraniteConfig(tokens=…) needs a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))",
                field="secrets",
            )
        self.config: Final = config
        self._sessions: Final = sessions
        self._settings: Final = UploadSettings(finished_for=config.expires_in)
        self._expected: Final[list[tuple[object, str]]] = []
        self._made: Final[dict[AsyncUploads, AsyncStagedTokens]] = {}

    def expect(self, target: object, where: str) -> None:
        """Remember what will be asked for, so that ``check`` finds out early whether it can be had."""
        self._expected.append((target, where))

    def check(self) -> None:
        """Find the database of everything that was announced: when the application starts, its engines are there.

        Raises:
            ConfigurationError: There is none, or it cannot be told which.
        """
        for target, where in self._expected:
            try:
                self.tokens_for(target)
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}: {error}") from error

    def tokens_for(self, target: object) -> AsyncStagedTokens:
        """Return the tokens of the database whose rows will take the files.

        Args:
            target: The ``storage_key`` of a policy, or a mapped attribute.

        Raises:
            ConfigurationError: There is no such database, or it cannot be told which.
        """
        key = storage_key_of(target, where="tokens")
        uploads = uploads_for(self._sessions, key, self._settings, metadata=_metadata_of(target))
        if (made := self._made.get(uploads)) is None:
            made = self._made[uploads] = AsyncStagedTokens(uploads)
        return made

    async def subject_of(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        """Return whom a connection belongs to; empty for nobody.

        Raises:
            MalformedBodyError: The application made too long a name of what the client sent.
        """
        return await subject_of(connection, self.config.subject)


def _metadata_of(target: object) -> MetaData | None:
    """The metadata that a mapped attribute belongs to; None for a policy's name."""
    columns = getattr(getattr(target, "property", None), "columns", None)
    metadata = getattr(getattr(columns[0], "table", None), "metadata", None) if columns else None
    return metadata if isinstance(metadata, MetaData) else None
