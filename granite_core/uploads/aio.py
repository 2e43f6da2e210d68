"""The verbs of uploads for asynchronous code: the synchronous ones, with nothing that blocks the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from granite_core._hops import open_reader
from granite_core.aio import AsyncStorageManager, accepted, answer, hop, joined
from granite_core.backends.base import StorageBackend
from granite_core.errors import ContentRejectedError, StorageError, UnfinishableError
from granite_core.progress import Meter, ProgressCallback
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.uploads.reception import COPY_BYTES, Reception
from granite_core.uploads.sessions import NewUpload, Progress, UploadSession, UploadStatus
from granite_core.uploads.settings import milliseconds
from granite_core.uploads.uploads import Uploads, announcement_of

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

    from granite_core.hooks import Announcement

__all__ = ["AsyncReception", "AsyncUploads"]

T = TypeVar("T")


class AsyncUploads:
    """The verbs of ``Uploads`` for asynchronous code.

    Args:
        uploads: The synchronous ones.
    """

    def __init__(self, uploads: Uploads) -> None:
        self.sync: Final = uploads
        self._under_way: WeakSet[AsyncReception] = WeakSet()

    async def create(
        self,
        storage_key: str,
        *,
        kind: str,
        subject: str = "",
        length: int | None = None,
        filename: str | None = None,
        content_type: str | None = None,
        field: str | None = None,
        context: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        expires_in: timedelta | None = None,
        parts: Sequence[UploadSession] = (),
    ) -> UploadSession:
        """Begin an upload; see ``Uploads.create``."""
        planned = self.sync.plan(
            storage_key,
            kind=kind,
            subject=subject,
            length=length,
            filename=filename,
            content_type=content_type,
            field=field,
            context=context,
            details=details,
            progress=progress,
        )
        announced = announcement_of(planned, field, context)
        await AsyncStorageManager(self.sync.manager).ask_before(announced)
        async with self.counting(planned, announced, parts):
            return await self._run(lambda: self.sync._create(planned, expires_in))

    @asynccontextmanager
    async def counting(
        self, upload: NewUpload, announced: Announcement, parts: Sequence[UploadSession] = ()
    ) -> AsyncIterator[None]:
        """Reserve what an upload needs; see ``Uploads.counting``."""
        claim = self.sync.claim_for(upload, announced, parts)
        if claim is None:
            yield
            return
        manager = self.sync.manager
        backend = manager.get_backend(upload.file.backend)
        try:
            with manager.telling_of_refusals(announced.storage_key, announced.field):
                await claim.begin_async(partial(answer, backend))
            yield
        except BaseException:
            with suppress(Exception):  # what is not given back now is found by the reconcile
                await hop(backend, claim.give_back)
            raise

    async def hold(
        self,
        staged: StagedFile,
        *,
        kind: str,
        subject: str = "",
        details: Mapping[str, Any] | None = None,
        expires_in: timedelta | None = None,
    ) -> UploadSession:
        """Keep a file that was staged in a finished session; see ``Uploads.hold``."""
        return await self._run(
            lambda: self.sync._hold(staged, kind=kind, subject=subject, details=details, expires_in=expires_in)
        )

    async def find(self, upload_id: str, *, kind: str | None = None, subject: str = "") -> UploadSession:
        """Return an upload; see ``Uploads.find``."""
        found = await self._run(lambda: self.sync.look(upload_id))
        return self.sync.checked(found, kind=kind, subject=subject)

    async def receive(
        self,
        upload_id: str,
        *,
        offset: int,
        kind: str | None = None,
        subject: str = "",
        length: int | None = None,
        field: str | None = None,
    ) -> AsyncReception:
        """Take an upload for one's own, to write to it; see ``Uploads.receive``."""
        reception = await self._run(
            lambda: self.sync._receive(upload_id, offset=offset, kind=kind, subject=subject, length=length, field=field)
        )
        return AsyncReception(self, reception)

    async def complete(
        self,
        upload_id: str,
        *,
        kind: str | None = None,
        subject: str = "",
        progress: ProgressCallback | None = None,
    ) -> UploadSession:
        """Finish an upload whose bytes have all come; see ``Uploads.complete``."""
        session = await self.find(upload_id, kind=kind, subject=subject)
        if session.status is UploadStatus.FINISHED or not session.is_complete:
            return session
        async with await self.receive(upload_id, offset=session.offset, kind=kind, subject=subject) as reception:
            return await reception.finish(progress=progress) or session

    async def finish_with(
        self, upload_id: str, staged: StagedFile, *, kind: str | None = None, subject: str = ""
    ) -> UploadSession:
        """Finish an upload with a file that was staged elsewhere; see ``Uploads.finish_with``."""
        return await self._run(lambda: self.sync._finish_with(upload_id, staged, kind=kind, subject=subject))

    async def discard(self, upload_id: str, *, kind: str | None = None, subject: str = "") -> None:
        """End an upload; see ``Uploads.discard``."""
        await self._run(partial(self.sync._discard, upload_id, kind=kind, subject=subject))

    async def at_rest(self, patience: float) -> bool:
        """Wait until nobody on this event loop writes to an upload: only then may the database be closed.

        Args:
            patience: For how many seconds at most.

        Returns:
            Whether that is so.
        """
        here = asyncio.get_running_loop()
        under_way = [each._ended for each in self._under_way if each._ended.get_loop() is here]
        return not under_way or not (await asyncio.wait(under_way, timeout=patience))[1]

    async def _run(self, call: Callable[[], T]) -> T:
        return await self.sync.ledger.arun(call, threading.Event())

    @asynccontextmanager
    async def _kept(self, upload_id: str, holder: str) -> AsyncIterator[None]:
        """Renew the lease from time to time, while something takes long."""

        async def keep() -> None:
            lease = milliseconds(self.sync.settings.lease)
            while True:
                await asyncio.sleep(self.sync.settings.record_every.total_seconds())
                with suppress(Exception):  # it runs out by itself; whoever works finds out at the end
                    await self._run(lambda: self.sync.ledger.renew(upload_id, holder, lease=lease))

        task = asyncio.ensure_future(keep())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class AsyncReception:
    """An upload that one has taken for one's own. Made by ``AsyncUploads.receive``; see ``Reception``."""

    def __init__(self, uploads: AsyncUploads, reception: Reception) -> None:
        self._uploads = uploads
        self._sync = reception
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        uploads._under_way.add(self)

    @property
    def session(self) -> UploadSession:
        """The upload as it was recorded last."""
        return self._sync.session

    @property
    def offset(self) -> int:
        """How many bytes have come, recorded or not."""
        return self._sync.offset

    @property
    def room(self) -> int | None:
        """How many more may come; None where the length is not known."""
        return self._sync.room

    async def write(self, data: Buffer, *, records: bool = True) -> None:
        """Take the next bytes; see ``Reception.write``."""
        sync = self._sync
        try:
            if sync._arrival.admit(data):
                if sync._opened and not sync.must_cover:
                    await hop(sync._arrival.backend, sync._arrival.drain)
                else:
                    await self._run(sync.drain)
            if sync.is_due:
                await self._run(sync.keep if records else sync.renew)
        except ContentRejectedError:
            await self._refuse()
            raise
        except UnfinishableError as error:
            raise await self._give_up() from error

    async def renew(self) -> None:
        """Keep the upload without recording anything; see ``Reception.renew``."""
        await self._run(self._sync.renew)

    async def copy(
        self, backend: StorageBackend, ref: StoredObjectRef, *, progress: ProgressCallback | None = None
    ) -> None:
        """Take the content of a stored object as the next bytes; see ``Reception.copy``.

        ``progress`` is called on the event loop, and may be asynchronous.
        """
        opening, meter, done = partial(backend.open_reader, ref.location), Meter(progress, ref.size), 0
        await meter.tell_async(0)
        async with await open_reader(backend, opening, wanted=ref.size) as reader:
            while data := await reader.read(COPY_BYTES):
                await self.write(data)
                done += len(data)
                await meter.tell_async(done)
        await meter.tell_async(done, at_end=True)

    async def finish(self, *, progress: ProgressCallback | None = None) -> UploadSession | None:
        """Record what has come; where that is all, make it a stored file; see ``Reception.finish``.

        Once begun it goes on to its end, even when the caller is cancelled meanwhile. ``progress`` is called on the
        event loop, and may be asynchronous.
        """
        finishing = self._finish(Meter(progress, self._sync._arrival.length))
        finished = await joined(asyncio.ensure_future(finishing))
        self._end()
        return finished

    async def _finish(self, meter: Meter) -> UploadSession | None:
        sync, loop = self._sync, asyncio.get_running_loop()

        def tell(done: int) -> None:
            asyncio.run_coroutine_threadsafe(meter.tell_async(done), loop).result()

        try:
            await self._run(partial(sync.keep, ends=True))
            if sync.stops_here():
                return None
            await meter.tell_async(0)
            async with self._uploads._kept(sync.session.id, sync.holder):
                storing = partial(sync._arrival.store, tell if meter.is_wanted else None)
                staged = await accepted(await hop(sync._arrival.backend, storing))
        except ContentRejectedError:
            await self._refuse()
            raise
        except UnfinishableError as error:
            raise await self._give_up() from error
        finished = await self._run(partial(sync.finished, staged))
        await meter.tell_async(finished.offset, at_end=True)
        return finished

    async def close(self, *, keep: bool = True) -> None:
        """Give the upload back; see ``Reception.close``. Runs to its end even when cancelled."""
        try:
            await joined(asyncio.ensure_future(self._run(partial(self._sync.leave, keep=keep))))
        finally:
            self._end()

    def _end(self) -> None:
        self._uploads._under_way.discard(self)
        if not self._ended.done():
            self._ended.set_result(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Callable[[], T]) -> T:
        return await self._uploads._run(call)

    async def _give_up(self) -> StorageError:
        return await joined(asyncio.ensure_future(self._run(self._sync.give_up)))

    async def _refuse(self) -> None:
        await joined(asyncio.ensure_future(self._run(self._sync.refuse)))
