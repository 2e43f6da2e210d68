"""Direct uploads: a client sends its bytes to the store, and the application takes them over.

A client never holds a request for a key that a row may name. What it is given is signed for a reserved key, and may be
sent again as long as it is good, with other bytes even. ``complete`` has the store copy what lies there to a fresh key,
then reads the copy: size, SHA-256 and type of the copy are what the file's ref says, and the policy's validators look
at the copy. From then on nothing that the client holds reaches it.

Where the store takes no requests of others, as a disk or memory does, they go to the application, with the same
answers: a client cannot tell, and need not.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from granite_core.aio import AsyncStorageManager, accepted, hop, joined
from granite_core.errors import (
    ChecksumMismatchError,
    ConfigurationError,
    ContentRejectedError,
    ObjectNotFoundError,
    StorageError,
    UploadGoneError,
    UploadNotFoundError,
    UploadOffsetError,
)
from granite_core.keys import unique_part
from granite_core.uploads._direct_plan import DirectPlan, DirectSettings, DirectWay, plan_direct
from granite_core.uploads._direct_write import DirectWrite
from granite_core.uploads.sessions import NewUpload, Progress, UploadSession, UploadStatus
from granite_core.uploads.uploads import announcement_of

if TYPE_CHECKING:
    from granite_core.backends.base import ObjectReader, SignedRequest, StorageBackend
    from granite_core.refs import StagedFile
    from granite_core.signing import Sealer
    from granite_core.uploads.aio import AsyncUploads
    from granite_core.uploads.uploads import Uploads

__all__ = ["AsyncDirect", "AsyncDirectWrite", "Direct", "DirectInstructions", "DirectParts", "DirectRequest"]

T = TypeVar("T")

KIND: Final = "direct"
PURPOSE: Final = "direct"
_UPLOAD: Final = "upload"
_CHECKSUM: Final = "sha256"
_CONTEXT: Final = "context"

Address: TypeAlias = Callable[[str], str]
"""Gives the address at which the application takes the bytes that a token is for."""


class DirectRequest(msgspec.Struct, frozen=True):
    """A request by which a client sends bytes.

    Args:
        method: ``PUT``: the body is the bytes. ``POST``: a form, whose last part is the file.
        url: Where to; relative to the application where it has no host.
        headers: What must be sent with it, each as it is here.
        fields: Texts of the form; all come before the file, which is called ``file``.
    """

    method: Annotated[Literal["PUT", "POST"], Meta(description="`PUT`: the body is the bytes. `POST`: a form.")]
    url: Annotated[str, Meta(description="Where to; relative to this API where it has no host.")]
    headers: Annotated[dict[str, str], Meta(description="What to send with it, each as it is here.")]
    fields: Annotated[dict[str, str], Meta(description="Texts of the form, all before the file, called `file`.")]


class DirectParts(msgspec.Struct, frozen=True):
    """The requests for some of an upload's parts.

    Args:
        size: Length in bytes of each part but the last.
        count: How many parts there are.
        first: Number of the part that the first of the requests is for, from 1.
        requests: One for each part, in order; ask for those that follow.
    """

    size: Annotated[int, Meta(description="Length in bytes of each part but the last.")]
    count: Annotated[int, Meta(description="How many parts there are.")]
    first: Annotated[int, Meta(description="Number of the part that the first request is for, from 1.")]
    requests: Annotated[list[DirectRequest], Meta(description="One for each part, in order.")]


class DirectInstructions(msgspec.Struct, frozen=True):
    """What a client is told of an upload.

    Args:
        id: Its id.
        way: How the bytes are sent.
        expires: When the upload ends unless it is completed.
        requests_expire: When the requests stop being good; newer ones may be asked for.
        request: What to send, where it is one request.
        parts: What to send, where it is several.
    """

    id: Annotated[str, Meta(description="Names the upload.")]
    way: Annotated[Literal["put", "post", "parts"], Meta(description="How the bytes are sent.")]
    expires: Annotated[datetime, Meta(description="When the upload ends unless it is completed.")]
    requests_expire: Annotated[datetime, Meta(description="When the requests stop being good; ask for newer ones.")]
    request: Annotated[DirectRequest | None, Meta(description="What to send, where it is one request.")] = None
    parts: Annotated[DirectParts | None, Meta(description="What to send, where it is several.")] = None


class _Claims(msgspec.Struct, array_like=True, frozen=True):
    upload: str
    subject: str
    key: str
    min_size: int
    max_size: int
    checksum: str | None
    redirect: str | None


class Direct:
    """Uploads whose bytes a client sends to the store. Safe to share.

    Args:
        uploads: Holds the sessions.
        address: Gives the address at which the application takes what the store cannot: it calls ``receive``.
        settings: How bytes are sent.

    Raises:
        ConfigurationError: The manager has no secrets, which sign those addresses.
    """

    def __init__(self, uploads: Uploads, address: Address, settings: DirectSettings | None = None) -> None:
        self.uploads: Final = uploads
        self.settings: Final = settings or DirectSettings()
        self._address: Final = address
        self._manager: Final = uploads.manager
        sealer = uploads.manager.links.sealer
        if sealer is None:
            raise ConfigurationError(
                "direct uploads need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))", field="secrets"
            )
        self._sealer: Final[Sealer] = sealer

    # -- beginning -----------------------------------------------------------------------------------------------------

    def begin(
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
    ) -> UploadSession:
        """Begin an upload; ``instructions`` tell how to send its bytes.

        Args:
            storage_key: The policy whose rules apply.
            filename: Name of the file; it is cleaned.
            size: How many bytes there will be. Only a form may leave it open.
            content_type: Media type the sender claims; believed only where the bytes do not tell.
            checksum: ``"sha256:…"`` of the bytes, where it is known; checked.
            form: Whether the client is a plain form.
            subject: Whom it belongs to; whoever goes on names the same.
            field: Name for errors; the ``storage_key`` where absent.
            context: Values for the names in the policy's ``key_template``.

        Raises:
            ContentRejectedError: The policy refuses the size, or a hook of it the upload.
            ConfigurationError: There is no such policy, or no size.
            BackendError: It cannot be begun now.
        """
        planned, plan = self.plan(
            storage_key,
            filename=filename,
            size=size,
            content_type=content_type,
            checksum=checksum,
            form=form,
            subject=subject,
            field=field,
            context=context,
        )
        self._manager.ask_before(announcement_of(planned, field, context))
        return self.uploads.ledger.run(lambda: self.make(planned, plan))

    def plan(
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
    ) -> tuple[NewUpload, DirectPlan]:
        """Return what ``begin`` would make, and refuse what it would refuse. No I/O."""
        policy = self._manager.get_policy(storage_key)
        backend = self._manager.get_backend_for_policy(policy)
        planned = self.uploads.plan(
            storage_key,
            kind=KIND,
            subject=subject,
            length=size,
            filename=filename,
            content_type=content_type,
            field=field,
            context=context,
        )
        plan = plan_direct(
            size,
            unique_part(),
            self.settings,
            backend.capabilities,
            form=form,
            max_size=policy.max_size,
            put_limit=backend.put_limit,
        )
        details = {**plan.to_details(), _CHECKSUM: checksum, _CONTEXT: dict(context or {})}
        return replace(planned, details=details, progress=Progress(leftovers=plan.keys)), plan

    def make(self, planned: NewUpload, plan: DirectPlan) -> UploadSession:
        """Do the work of ``begin``, once the hooks have been asked."""
        if not (plan.native and plan.way is DirectWay.PARTS):
            return self.uploads._create(planned, None)
        ledger, backend = self.uploads.ledger, self._manager.get_backend(planned.file.backend)
        # Should this process die before the session is there, the reconcile finds the parts that nobody waits for.
        begin = partial(backend.begin_parts, plan.key, content_type=planned.file.content_type)
        upload = ledger.call(backend, begin)
        try:
            return self.uploads._create(replace(planned, details={**planned.details, _UPLOAD: upload}), None)
        except BaseException:
            with suppress(StorageError):
                ledger.call(backend, backend.discard_parts, plan.key)
            raise

    # -- what to send --------------------------------------------------------------------------------------------------

    def instructions(
        self, session: UploadSession, *, first: int = 1, redirect: str | None = None
    ) -> DirectInstructions:
        """Tell how a client sends the bytes of an upload. May block, where credentials must be renewed.

        Args:
            session: The upload; of this kind, and not finished.
            first: Number of the part to begin with, where it is sent in parts.
            redirect: Where a form leads the browser when the store has the file.

        Raises:
            UploadOffsetError: It is finished, or has no such part.
            BackendError: The store's credentials cannot be had.
        """
        if session.status is not UploadStatus.RECEIVING or session.planned is None:
            raise UploadOffsetError("the upload is finished", operation="direct", limit=session.length)
        plan = DirectPlan.from_details(session.details)
        starts = self._manager.now().replace(microsecond=0)
        backend = self._manager.get_backend(session.backend)
        lasts = min(self.settings.requests_expire_in, session.expires_at - starts)
        if plan.native:
            lasts = min(lasts, backend.presign_limit)
        lasts = timedelta(seconds=max(1, int(lasts.total_seconds())))
        signed = partial(self._signed, session, plan, backend, starts, lasts)
        told = DirectInstructions(session.id, plan.way.value, session.expires_at, starts + lasts)
        if plan.way is not DirectWay.PARTS:
            return msgspec.structs.replace(told, request=signed(None, redirect))
        if not 1 <= first <= plan.count:
            raise UploadOffsetError(
                f"there are parts 1 to {plan.count}", operation="direct", limit=plan.count, value=first
            )
        numbers = range(first, min(first + self.settings.page, plan.count + 1))
        requests = [signed(number, None) for number in numbers]
        return msgspec.structs.replace(told, parts=DirectParts(plan.part_size, plan.count, first, requests))

    def _signed(
        self,
        session: UploadSession,
        plan: DirectPlan,
        backend: StorageBackend,
        starts: datetime,
        lasts: timedelta,
        number: int | None,
        redirect: str | None,
    ) -> DirectRequest:
        checksum = session.details.get(_CHECKSUM)
        kind = None if session.planned is None else session.planned.content_type
        if number is not None:
            size = plan.length_of(number)
            if plan.native:
                upload = session.details[_UPLOAD]
                return _told(backend.presign_part(plan.key, upload, number, starts=starts, expires_in=lasts, size=size))
            claims = _Claims(session.id, session.subject, plan.part_key(number), size, size, None, None)
            return DirectRequest("PUT", self._sealed(claims, starts + lasts), {}, {})
        if plan.native and plan.way is DirectWay.PUT:
            return _told(
                backend.presign_put(
                    plan.key,
                    starts=starts,
                    expires_in=lasts,
                    size=plan.limit,
                    content_type=kind,
                    checksum=checksum,
                )
            )
        at_least = plan.size or 0
        if plan.native:
            return _told(
                backend.presign_post(
                    plan.key,
                    starts=starts,
                    expires_in=lasts,
                    min_size=at_least,
                    max_size=plan.limit,
                    content_type=kind,
                    checksum=checksum,
                    redirect=redirect,
                )
            )
        page = redirect if plan.way is DirectWay.POST else None
        claims = _Claims(session.id, session.subject, plan.key, at_least, plan.limit, checksum, page)
        url = self._sealed(claims, starts + lasts)
        described = {} if kind is None else {"Content-Type": kind}
        if plan.way is DirectWay.PUT:
            return DirectRequest("PUT", url, described, {})
        return DirectRequest("POST", url, {}, described)

    def _sealed(self, claims: _Claims, expires: datetime) -> str:
        return self._address(self._sealer.seal(PURPOSE, claims, expires=expires))

    # -- bytes that the store cannot take ------------------------------------------------------------------------------

    def opened(self, token: str) -> _Claims:
        """Return what the token of one of our own addresses is for. No I/O.

        Raises:
            TokenInvalidError: It is none of ours.
            TokenExpiredError: Its time has passed.
        """
        return self._sealer.open(PURPOSE, token, _Claims, now=self._manager.now()).value

    def write_for(self, claims: _Claims, session: UploadSession) -> DirectWrite:
        """Return what takes the bytes that a token is for. No I/O.

        Raises:
            UploadOffsetError: The upload is finished.
        """
        if session.status is not UploadStatus.RECEIVING:
            raise UploadOffsetError("the upload is finished", operation="direct", limit=session.length)
        return DirectWrite(
            self._manager.get_backend(session.backend),
            claims.key,
            min_size=claims.min_size,
            max_size=claims.max_size,
            checksum=claims.checksum,
            redirect=claims.redirect,
        )

    def receive(self, token: str, chunks: Iterable[bytes]) -> None:
        """Take the bytes that a token is for, as they come.

        Args:
            token: The last piece of the address that the instructions told.
            chunks: An iterable of bytes.

        Raises:
            TokenInvalidError: It is none of ours.
            TokenExpiredError: Its time has passed.
            UploadNotFoundError: The upload is gone.
            UploadGoneError: It has ended.
            UploadOffsetError: It is finished.
            ContentTooLargeError: They are more than were announced; nothing of them remains.
            ChecksumMismatchError: They are too few, or others; nothing of them remains.
            BackendError: They cannot be stored; nothing of them remains.
        """
        claims = self.opened(token)
        write = self.write_for(claims, self.uploads.find(claims.upload, kind=KIND, subject=claims.subject))
        try:
            for data in chunks:
                if write.admit(data):
                    write.drain()
            write.commit()
        finally:
            write.abort()
        try:
            self.uploads.find(claims.upload, kind=KIND, subject=claims.subject)
        except (UploadNotFoundError, UploadGoneError):
            write.backend.delete(write.key)  # nobody else will: what the session left was removed before
            raise

    # -- finishing -----------------------------------------------------------------------------------------------------

    def complete(self, upload_id: str, *, subject: str = "") -> UploadSession:
        """Take over what a client has written: copied, measured, judged. Returns a finished session as it is.

        Args:
            upload_id: Its id.
            subject: Whom it must belong to.

        Raises:
            UploadNotFoundError: There is none of that subject.
            UploadGoneError: It has ended.
            UploadBusyError: Somebody else is at it.
            UploadOffsetError: Not all bytes have come.
            ContentRejectedError: The policy, or one of its validators, refuses it; nothing remains.
            ChecksumMismatchError: Size or SHA-256 are not what was announced; nothing remains.
            StaleRefError: To copy and read it took longer than a quarter of the grace.
            BackendError: It cannot be done now; try again.
        """
        ledger = self.uploads.ledger
        session, holder = ledger.run(lambda: self.take(upload_id, subject))
        if holder is None:
            return session
        finishing = Finishing(self, session)
        try:
            with self.uploads._kept(upload_id, holder):
                try:
                    finishing.begin()
                    while finishing.step():
                        pass
                    staged = finishing.write.commit()
                finally:
                    finishing.close()
        except BaseException as error:
            ledger.run(partial(self.gave_up, session, holder, error))
            raise
        return ledger.run(lambda: self.finished(session, holder, staged))

    def take(self, upload_id: str, subject: str) -> tuple[UploadSession, str | None]:
        """Take an upload for one's own, and return it with the holder's name; None for one that is finished."""
        uploads = self.uploads
        session = uploads.checked(uploads.ledger.find(upload_id), kind=KIND, subject=subject)
        if session.status is UploadStatus.FINISHED:
            return session, None
        holder = secrets.token_hex(16)
        return uploads._lock(session, holder), holder

    def gave_up(self, session: UploadSession, holder: str, error: BaseException) -> None:
        """End an upload that was refused, and give back one that was not."""
        if isinstance(error, (ContentRejectedError, ChecksumMismatchError)):
            self.uploads._end(session.id, holder)
            return
        with suppress(Exception):  # the lease runs out by itself
            self.uploads.ledger.renew(session.id, holder, lease=0)

    def finished(self, session: UploadSession, holder: str, staged: StagedFile) -> UploadSession:
        """Let the session hold the copy."""
        if not staged.mark_used():
            raise UploadGoneError("this file was let go already", operation="finish", location=staged.location)
        return self.uploads.finish_as(session, holder, staged)


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
        )
        manager = AsyncStorageManager(self.uploads.sync.manager)
        await manager.ask_before(announcement_of(planned, field, context))
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
        finishing = Finishing(sync, session)
        backend = finishing.backend
        try:
            async with self.uploads._kept(upload_id, holder):
                try:
                    await hop(backend, finishing.begin)
                    while await hop(backend, finishing.step):
                        pass
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
        await hop(self._sync.backend, self._sync.commit)
        try:
            await self._direct.find(self._session.id, subject=self._session.subject)
        except (UploadNotFoundError, UploadGoneError):
            await hop(self._sync.backend, self._sync.backend.delete, self._sync.key)
            raise

    async def close(self) -> None:
        """Give up what was not committed. Never raises."""
        await hop(self._sync.backend, self._sync.abort)


class Finishing:
    """What a client wrote, on its way to a fresh key. Used by one thread at a time; everything blocks.

    Args:
        direct: The verbs.
        session: The upload, which is held by whoever does this.
    """

    def __init__(self, direct: Direct, session: UploadSession) -> None:
        manager = direct.uploads.manager
        self._session = session
        self._plan = DirectPlan.from_details(session.details)
        planned = session.planned
        self.write: Final = manager.stage(
            session.storage_key,
            filename=None if planned is None else planned.original_filename,
            content_type=None if planned is None else planned.content_type,
            expected_size=session.length,
            checksum=session.details.get(_CHECKSUM),
            context=session.details.get(_CONTEXT) or None,
        )
        self.write.hooks_to_ask()  # they were, when the upload began
        self.backend: Final = manager.get_backend(session.backend)
        self._stream: _Chain | None = None

    def begin(self) -> None:
        """See that everything is there, and begin to copy it."""
        plan = self._plan
        if plan.native and plan.way is DirectWay.PARTS:
            self._join()
        sizes = []
        try:
            sizes = [self.backend.stat(key).size for key in plan.keys]
        except ObjectNotFoundError as error:
            raise self._incomplete(0) from error
        if plan.way is DirectWay.PARTS and sum(sizes) != plan.limit:
            raise self._incomplete(sum(sizes))
        if len(plan.keys) == 1 and self.write.copies_by_itself(self.backend):
            self.write.copy_foreign(plan.key)
        else:
            self._stream = _Chain(self.backend, plan.keys)

    def step(self) -> bool:
        """Take the next piece; False at the end."""
        return self.write.judge_piece() if self._stream is None else self.write.write_piece(self._stream)

    def close(self) -> None:
        """End it; what was not committed is removed."""
        if self._stream is not None:
            self._stream.close()
        self.write.abort()

    def _join(self) -> None:
        backend, key, upload = self.backend, self._plan.key, self._session.details[_UPLOAD]
        try:
            arrived = sum(backend.list_parts(key, upload).values())
        except ObjectNotFoundError:
            return  # joined before, by somebody who died then; or it is not there at all, which is asked next
        if arrived != self._plan.limit:
            raise self._incomplete(arrived)
        backend.join_parts(key, upload)

    def _incomplete(self, arrived: int) -> UploadOffsetError:
        return UploadOffsetError(
            f"{arrived} of the upload's bytes are there", operation="direct", limit=self._plan.size, value=arrived
        )


class _Chain:
    """Objects read one after the other, as one stream."""

    def __init__(self, backend: StorageBackend, keys: Sequence[str]) -> None:
        self._backend = backend
        self._keys = [*keys]
        self._reader: ObjectReader | None = None

    def read(self, size: int, /) -> bytes:
        while True:
            if self._reader is None:
                if not self._keys:
                    return b""
                self._reader = self._backend.open_reader(self._keys.pop(0))
            if data := self._reader.read(size):
                return data
            self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _told(signed: SignedRequest) -> DirectRequest:
    return DirectRequest(signed.method, signed.url, dict(signed.headers), dict(signed.fields))
