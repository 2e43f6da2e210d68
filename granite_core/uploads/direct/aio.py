"""Direct uploads for asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from granite_core.aio import AsyncStorageManager, accepted, hop, joined
from granite_core.errors import UploadGoneError, UploadNotFoundError
from granite_core.uploads.direct.finishing import Finishing
from granite_core.uploads.direct.verbs import KIND, Direct
from granite_core.uploads.uploads import announcement_of

if TYPE_CHECKING:
    from granite_core.uploads.aio import AsyncUploads
    from granite_core.uploads.direct.arriving import DirectWrite
    from granite_core.uploads.direct.plan import DirectSettings
    from granite_core.uploads.direct.told import Address, DirectInstructions
    from granite_core.uploads.sessions import UploadSession

__all__ = ["AsyncDirect", "AsyncDirectWrite"]


class AsyncDirect:
    """The verbs of ``Direct`` for asynchronous code.

    Args:
        uploads: Holds the sessions.
        address: As for ``Direct``.
        settings: How bytes are sent.

    Raises:
        ConfigurationError: The manager has no secrets.
    """

    def __init__(self, uploads: AsyncUploads, address: Address, settings: DirectSettings | None = None) -> None:
        self.sync: Final = Direct(uploads.sync, address, settings)
        self.uploads: Final = uploads

    async def begin(
        self,
        storage_key: str,
        *,
        filename: str | None = None,
        size: int | None = None,
        content_type: str | None = None,
        checksum: str | None = None,
        form: bool = False,
        subject: str = "",
        field: str | None = None,
        context: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> UploadSession:
        """Begin an upload; see ``Direct.begin``."""
        planned, plan = self.sync.plan(
            storage_key,
            filename=filename,
            size=size,
            content_type=content_type,
            checksum=checksum,
            form=form,
            subject=subject,
            field=field,
            context=context,
            details=details,
        )
        manager = AsyncStorageManager(self.uploads.sync.manager)
        announced = announcement_of(planned, field, context)
        await manager.ask_before(announced)
        async with self.uploads.counting(planned, announced):
            return await self.uploads._run(lambda: self.sync.make(planned, plan))

    async def find(self, upload_id: str, *, subject: str = "") -> UploadSession:
        """Return an upload of this kind; see ``Uploads.find``."""
        return await self.uploads.find(upload_id, kind=KIND, subject=subject)

    async def discard(self, upload_id: str, *, subject: str = "") -> None:
        """End an upload of this kind; see ``Uploads.discard``."""
        await self.uploads.discard(upload_id, kind=KIND, subject=subject)

    async def instructions(
        self, session: UploadSession, *, first: int = 1, redirect: str | None = None
    ) -> DirectInstructions:
        """Tell how a client sends the bytes of an upload; see ``Direct.instructions``."""
        backend = self.uploads.sync.manager.get_backend(session.backend)
        return await hop(backend, partial(self.sync.instructions, session, first=first, redirect=redirect))

    async def open(self, token: str) -> AsyncDirectWrite:
        """Begin to take the bytes that a token is for; see ``Direct.receive``. Close it on every way out."""
        claims = self.sync.opened(token)
        session = await self.find(claims.upload, subject=claims.subject)
        return AsyncDirectWrite(self, session, self.sync.write_for(claims, session))

    async def complete(self, upload_id: str, *, subject: str = "") -> UploadSession:
        """Take over what a client has written; see ``Direct.complete``.

        Once begun it goes on to its end, even when the caller is cancelled meanwhile.
        """
        return await joined(asyncio.ensure_future(self._complete(upload_id, subject)))

    async def _complete(self, upload_id: str, subject: str) -> UploadSession:
        sync, run = self.sync, self.uploads._run
        session, holder = await run(lambda: sync.take(upload_id, subject))
        if holder is None:
            return session
        finishing = Finishing(sync.uploads.manager, session)
        backend = finishing.backend
        try:
            async with self.uploads._kept(upload_id, holder):
                try:
                    await hop(backend, finishing.begin)
                    while await hop(backend, finishing.step):
                        pass
                    await run(lambda: sync.uploads.settle(session, finishing.write.size))
                    staged = await accepted(await hop(backend, finishing.write.store))
                finally:
                    await hop(backend, finishing.close)
        except BaseException as error:
            await run(partial(sync.gave_up, session, holder, error))
            raise
        return await run(lambda: sync.finished(session, holder, staged))


class AsyncDirectWrite:
    """One request's bytes on their way in. Made by ``AsyncDirect.open``."""

    def __init__(self, direct: AsyncDirect, session: UploadSession, write: DirectWrite) -> None:
        self._direct = direct
        self._session = session
        self._sync = write

    @property
    def redirect(self) -> str | None:
        """Where the client is sent at the end."""
        return self._sync.redirect

    def check_length(self, size: int) -> None:
        """Refuse an announced length in bytes that is over what may come.

        Raises:
            ContentTooLargeError: It is.
        """
        self._sync.check_length(size)

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ContentTooLargeError: They are more than were announced.
            BackendError: They cannot be stored.
        """
        if self._sync.admit(data):
            await hop(self._sync.backend, self._sync.drain)

    async def commit(self) -> None:
        """Make them the object under the key; see ``Direct.receive``."""
        await self._direct.find(self._session.id, subject=self._session.subject)
        await hop(self._sync.backend, self._sync.commit)
        try:
            await self._direct.find(self._session.id, subject=self._session.subject)
        except (UploadNotFoundError, UploadGoneError):
            await hop(self._sync.backend, self._sync.backend.delete, self._sync.key)
            raise

    async def close(self) -> None:
        """Give up what was not committed. Never raises."""
        await hop(self._sync.backend, self._sync.abort)
