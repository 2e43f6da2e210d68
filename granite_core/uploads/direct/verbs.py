"""The verbs of direct uploads, for synchronous code; ``aio`` has them for asynchronous code."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from granite_core.errors import (
    ChecksumMismatchError,
    ContentRejectedError,
    StorageError,
    UnfinishableError,
    UploadGoneError,
    UploadNotFoundError,
    UploadOffsetError,
)
from granite_core.keys import unique_part
from granite_core.uploads.direct.arriving import DirectWrite
from granite_core.uploads.direct.finishing import CONTEXT, Finishing
from granite_core.uploads.direct.plan import DirectPlan, DirectSettings, DirectWay, plan_direct
from granite_core.uploads.direct.told import CHECKSUM, Address, Claims, DirectInstructions, Teller
from granite_core.uploads.sessions import NewUpload, Progress, UploadSession, UploadStatus
from granite_core.uploads.uploads import announcement_of

if TYPE_CHECKING:
    from granite_core.refs import StagedFile
    from granite_core.uploads.uploads import Uploads

__all__ = ["KIND", "Direct"]

KIND: Final = "direct"


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
        self._manager: Final = uploads.manager
        self._teller: Final = Teller(uploads.manager, self.settings, address)

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
        details: Mapping[str, Any] | None = None,
    ) -> UploadSession:
        """Begin an upload; ``instructions`` tell how to send its bytes.

        Args:
            storage_key: The policy whose rules apply.
            filename: Name of the file; it is cleaned.
            size: How many bytes there will be. Only a form may leave it open. Where the policy has quotas, that
                reserves what the form may send: the policy's ``max_size`` or the room that is left.
            content_type: Media type the sender claims; believed only where the bytes do not tell.
            checksum: ``"sha256:…"`` of the bytes, where it is known; checked.
            form: Whether the client is a plain form.
            subject: Whom it belongs to; whoever goes on names the same.
            field: Name for errors; the ``storage_key`` where absent.
            context: Values for the names in the policy's ``key_template``.
            details: What its maker wants to remember, JSON-compatible.

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
            details=details,
        )
        announced = announcement_of(planned, field, context)
        self._manager.ask_before(announced)
        with self.uploads.counting(planned, announced):
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
        details: Mapping[str, Any] | None = None,
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
        own = {**plan.to_details(), CHECKSUM: checksum, CONTEXT: dict(context or {})}
        return replace(planned, details={**(details or {}), **own}, progress=Progress(leftovers=plan.keys)), plan

    def make(self, planned: NewUpload, plan: DirectPlan) -> UploadSession:
        """Do the work of ``begin``, once the hooks have been asked."""
        if plan.size is None:
            limit = self.uploads.reserve(planned, wish=plan.limit)
            planned = replace(
                planned, details={**planned.details, **msgspec.structs.replace(plan, limit=limit).to_details()}
            )
        if not (plan.native and plan.way is DirectWay.PARTS):
            return self.uploads._create(planned, None)
        ledger, backend = self.uploads.ledger, self._manager.get_backend(planned.file.backend)
        # Should this process die before the session is there, the reconcile finds the parts that nobody waits for.
        begin = partial(backend.begin_parts, plan.key, content_type=planned.file.content_type)
        upload = ledger.call(backend, begin)
        try:
            return self.uploads._create(replace(planned, progress=replace(planned.progress, upload=upload)), None)
        except BaseException:
            with suppress(StorageError):
                ledger.call(backend, backend.discard_parts, plan.key, upload)
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
        return self._teller.tell(session, first=first, redirect=redirect)

    # -- bytes that the store cannot take ------------------------------------------------------------------------------

    def opened(self, token: str) -> Claims:
        """Return what the token of one of our own addresses is for. No I/O.

        Raises:
            TokenInvalidError: It is none of ours.
            TokenExpiredError: Its time has passed.
        """
        return self._teller.open(token)

    def write_for(self, claims: Claims, session: UploadSession) -> DirectWrite:
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
            # What is committed to a session that ended just now is under a tombstone: the sweep removes it, should this
            # process die before it does.
            self.uploads.find(claims.upload, kind=KIND, subject=claims.subject)
            write.commit()
        finally:
            write.abort()
        try:
            self.uploads.find(claims.upload, kind=KIND, subject=claims.subject)
        except (UploadNotFoundError, UploadGoneError):
            write.backend.delete(write.key)
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
            UploadLostError: Somebody else has taken it meanwhile.
            UnfinishableError: The store has lost the parts; nothing remains.
            StaleRefError: To copy and read it took longer than a quarter of the grace.
            BackendError: It cannot be done now; try again.
        """
        ledger = self.uploads.ledger
        session, holder = ledger.run(lambda: self.take(upload_id, subject))
        if holder is None:
            return session
        finishing = Finishing(self.uploads.manager, session)
        try:
            with self.uploads._kept(upload_id, holder):
                try:
                    finishing.begin()
                    while finishing.step():
                        pass
                    self.uploads.settle(session, finishing.write.size)
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
        session = uploads.checked(uploads.look(upload_id), kind=KIND, subject=subject)
        if session.status is UploadStatus.FINISHED:
            return session, None
        holder = secrets.token_hex(16)
        try:
            return uploads._lock(session, holder), holder
        except UploadOffsetError:  # somebody has finished it since it was found
            return uploads.checked(uploads.look(upload_id), kind=KIND, subject=subject), None

    def gave_up(self, session: UploadSession, holder: str, error: BaseException) -> None:
        """End an upload that was refused or can never be finished, and give back any other."""
        if isinstance(error, (ContentRejectedError, ChecksumMismatchError, UnfinishableError)):
            self.uploads._end(session.id, holder)
            return
        with suppress(Exception):  # the lease runs out by itself
            self.uploads.ledger.renew(session.id, holder, lease=0)

    def finished(self, session: UploadSession, holder: str, staged: StagedFile) -> UploadSession:
        """Let the session hold the copy."""
        if not staged.mark_used():
            raise UploadGoneError("this file was let go already", operation="finish", location=staged.location)
        return self.uploads.finish_as(session, holder, staged)
