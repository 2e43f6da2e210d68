"""The verbs of uploads, for synchronous code; ``aio`` has them for asynchronous code."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from granite_core.claims import Claim
from granite_core.errors import (
    ConfigurationError,
    ContentRejectedError,
    ContentTooLargeError,
    StorageError,
    UploadBusyError,
    UploadGoneError,
    UploadLostError,
    UploadNotFoundError,
    UploadOffsetError,
)
from granite_core.hooks import Announcement
from granite_core.keys import is_unique_part, suffix_of, unique_part
from granite_core.manager import StorageManager
from granite_core.media import clean_content_type, clean_filename
from granite_core.progress import ProgressCallback
from granite_core.quotas import Counted
from granite_core.refs import StagedFile, StoredObjectRef, timestamp
from granite_core.uploads._arrival import Arrival
from granite_core.uploads.clearing import clear_away
from granite_core.uploads.ports import UploadLedger
from granite_core.uploads.reception import Reception
from granite_core.uploads.sessions import NewUpload, Progress, UploadSession, UploadStatus
from granite_core.uploads.settings import UploadSettings, milliseconds

if TYPE_CHECKING:
    pass

__all__ = ["PARTIAL", "Uploads", "announcement_of"]

MAX_KIND: Final = 32
MAX_SUBJECT: Final = 255
MAX_LENGTH: Final = 2**53 - 1
"""Bytes: every program reads such a number as it is, and a thousand of them are counted in 64 bits."""
PARTIAL: Final = "partial"
"""In the details of an upload that is a piece of a larger one: nobody judges its type."""


def announcement_of(upload: NewUpload, field: str | None, context: Mapping[str, str] | None) -> Announcement:
    """Return what the policy's hooks are told of an upload that is to begin."""
    planned = upload.file
    return Announcement(
        storage_key=planned.storage_key,
        field=field or planned.storage_key,
        filename=planned.original_filename,
        content_type=planned.content_type,
        size=upload.length,
        context=dict(context or {}),
    )


class Uploads:
    """Uploads that outlive their request: made, received piece by piece, finished, taken by a row, or ended.

    Safe to share between threads and processes: all state is in the database and the store.

    Args:
        manager: Whose policies and backends are used.
        ledger: Where sessions are kept, ``SQLAlchemyUploadLedger(engine, Base.metadata)``: the database of the rows
            that will take the files.
        settings: How long things may take.
    """

    def __init__(self, manager: StorageManager, ledger: UploadLedger, settings: UploadSettings | None = None) -> None:
        self.manager: Final = manager
        self.ledger: Final = ledger
        self.settings: Final = settings or UploadSettings()

    # -- beginning -----------------------------------------------------------------------------------------------------

    def create(
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
        """Begin an upload. Where its object will be is planned now, and told to nobody.

        Args:
            storage_key: The policy whose rules apply.
            kind: What makes it: ``"tus"``, ``"direct"``, …; whoever goes on names the same.
            subject: Whom it belongs to; whoever goes on names the same. Empty for nobody.
            length: How many bytes it will have; None where that is not known.
            filename: Name the content came with; it is cleaned.
            content_type: Media type the sender claims; believed only where the bytes do not tell.
            field: Name for errors; the ``storage_key`` where absent.
            context: Values for the names in the policy's ``key_template``.
            details: What its maker wants to remember, JSON-compatible.
            progress: Where it begins, for what writes to the store past ``receive``: keys that go with it.
            expires_in: When it ends unless bytes arrive; what the settings say where absent.
            parts: Uploads that it is put together from: quotas do not count them against it.

        Raises:
            ConfigurationError: There is no such policy, a name in its ``key_template`` has no value, or kind (32
                characters) or subject (255) are too long.
            ContentTooLargeError: The announced length is over the limit.
            InvalidKeyError: A part of the key is no safe one.
            ContentRejectedError: A hook of the policy refuses it before it begins.
        """
        planned = self.plan(
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
        self.manager.ask_before(announced)
        with self.counting(planned, announced, parts):
            return self.ledger.run(lambda: self._create(planned, expires_in))

    @contextmanager
    def counting(
        self, upload: NewUpload, announced: Announcement, parts: Sequence[UploadSession] = ()
    ) -> Iterator[None]:
        """Reserve what an upload needs by its policy's quotas, and give it back where it could not be made.

        Args:
            upload: What is to be made within the block.
            announced: What the policy's functions are told.
            parts: As for ``create``.

        Raises:
            QuotaExceededError: There is no room.
        """
        claim = self.claim_for(upload, announced, parts)
        if claim is None:
            yield
            return
        try:
            with self.manager.telling_of_refusals(announced.storage_key, announced.field):
                claim.begin()
            yield
        except BaseException:
            with suppress(Exception):  # what is not given back now is found by the reconcile
                claim.give_back()
            raise

    def reserve(self, upload: NewUpload, *, wish: int) -> int:
        """Reserve for an upload of no known length what there is room for, once it counts.

        Args:
            upload: What ``counting`` counts.
            wish: How many bytes it may have.

        Returns:
            How many it may have now; all of them where its policy has no quotas.

        Raises:
            QuotaExceededError: There is no room for a single one.
        """
        key, planned = upload.file.storage_key, upload.file
        if not self.manager.get_policy(key).quotas:
            return wish
        quotas, counted = self.manager.quotas, Counted(planned.location, planned.backend, key)
        with self.manager.telling_of_refusals(key, None):
            return quotas.perform(lambda: quotas.ledger.hold(counted, None, size=1, wish=wish, field=key))

    def settle(self, session: UploadSession, size: int, field: str | None = None) -> None:
        """Count an upload with what has come, no more and no less.

        Args:
            session: The upload.
            size: In bytes.
            field: Name for errors.

        Raises:
            QuotaExceededError: There is no room.
        """
        if self.manager.get_policy(session.storage_key).quotas:
            quotas = self.manager.quotas
            counted = Counted(session.location, session.backend, session.storage_key)
            name = field or session.storage_key
            quotas.perform(lambda: quotas.ledger.hold(counted, None, size=size, field=name))

    def claim_for(
        self, upload: NewUpload, announced: Announcement, parts: Sequence[UploadSession] = ()
    ) -> Claim | None:
        """Return what counts an upload that is to begin; None where its policy has no quotas. No I/O."""
        policy, planned = self.manager.get_policy(announced.storage_key), upload.file
        if not policy.quotas:
            return None
        counted = Counted(planned.location, planned.backend, planned.storage_key)
        return self.manager.quotas.claim(policy.quotas, announced, counted, beside=[each.location for each in parts])

    def plan(
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
    ) -> NewUpload:
        """Return what ``create`` would make, and refuse what it would refuse. No I/O."""
        policy = self.manager.get_policy(storage_key)
        if length is not None:
            try:
                policy.check_size(length, field=field)
                _check_length(length, field or storage_key)
            except ContentRejectedError as error:
                self.manager.events.refused(error, storage_key)
                raise
        _check_names(kind, subject)
        name = clean_filename(filename)
        location = policy.new_key(unique_part(), suffix=suffix_of(name), context=context)
        planned = StoredObjectRef(
            storage_key,
            policy.backend_key,
            location,
            0,
            "",
            clean_content_type(content_type),
            name,
            timestamp(self.manager.now()),
        )
        return NewUpload(
            unique_part(),
            kind,
            subject,
            planned,
            length=length,
            details=dict(details or {}),
            progress=progress or Progress(),
        )

    def _create(self, upload: NewUpload, expires_in: timedelta | None) -> UploadSession:
        wanted = milliseconds(expires_in or self.settings.expires_in)
        return self.ledger.add(upload, expires_in=wanted, manager=self.manager)

    def hold(
        self,
        staged: StagedFile,
        *,
        kind: str,
        subject: str = "",
        details: Mapping[str, Any] | None = None,
        expires_in: timedelta | None = None,
    ) -> UploadSession:
        """Keep a file that was staged, past the end of its request, in a finished session of its own.

        From then on only a row takes it, or the sweep after its time.

        Args:
            staged: The file, staged less than a quarter of the grace ago.
            kind: What keeps it: ``"token"``, …
            subject: Whom it belongs to; empty for nobody.
            details: What its maker wants to remember, JSON-compatible.
            expires_in: When it ends unless a row takes it; what the settings say where absent.

        Raises:
            StaleRefError: It was staged too long ago, or let go.
        """
        return self.ledger.run(
            lambda: self._hold(staged, kind=kind, subject=subject, details=details, expires_in=expires_in)
        )

    def _hold(
        self,
        staged: StagedFile,
        *,
        kind: str,
        subject: str,
        details: Mapping[str, Any] | None,
        expires_in: timedelta | None,
    ) -> UploadSession:
        _check_names(kind, subject)
        if not staged.mark_used():
            raise UploadGoneError("this file was let go already", operation="hold", location=staged.location)
        upload = NewUpload(
            unique_part(),
            kind,
            subject,
            staged,
            status=UploadStatus.FINISHED,
            length=staged.size,
            details=dict(details or {}),
        )
        wanted = milliseconds(expires_in or self.settings.finished_for)
        try:
            return self.ledger.add(upload, expires_in=wanted, manager=self.manager)
        except BaseException:
            self.manager.note([staged])  # whether a session holds it is not known: the sweep looks
            raise

    # -- looking -------------------------------------------------------------------------------------------------------

    def find(self, upload_id: str, *, kind: str | None = None, subject: str = "") -> UploadSession:
        """Return an upload.

        Args:
            upload_id: Its id.
            kind: What must have made it; anything where absent.
            subject: Whom it must belong to.

        Raises:
            UploadNotFoundError: There is none of that kind and subject.
            UploadGoneError: It has ended, or expired unfinished.
        """
        return self.checked(self.ledger.run(lambda: self.look(upload_id)), kind=kind, subject=subject)

    def look(self, upload_id: str) -> UploadSession | None:
        """Return the upload of an id that a client may have made up: a database refuses some of such texts."""
        return self.ledger.find(upload_id) if is_unique_part(upload_id) else None

    @staticmethod
    def checked(session: UploadSession | None, *, kind: str | None, subject: str) -> UploadSession:
        """Return a session, or refuse it as ``find`` does. Pure."""
        if session is None or (kind is not None and session.kind != kind):
            raise UploadNotFoundError("there is no such upload", operation="find")
        if not secrets.compare_digest(session.subject.encode(), subject.encode()):
            raise UploadNotFoundError("the upload belongs to somebody else", operation="find")
        if session.status is UploadStatus.ENDING or (session.expired and session.status is UploadStatus.RECEIVING):
            raise UploadGoneError("the upload has ended", operation="find", location=session.location)
        return session

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(
        self,
        upload_id: str,
        *,
        offset: int,
        kind: str | None = None,
        subject: str = "",
        length: int | None = None,
        field: str | None = None,
    ) -> Reception:
        """Take an upload for one's own, to write to it. Close what is returned, on every way out.

        Args:
            upload_id: Its id.
            offset: Where the bytes belong that will come.
            kind: What must have made it; anything where absent.
            subject: Whom it must belong to.
            length: How many bytes it will have, where that was not said yet.
            field: Name for errors; the ``storage_key`` where absent.

        Raises:
            UploadNotFoundError: There is none of that kind and subject.
            UploadGoneError: It has ended, or expired.
            UploadBusyError: Somebody else is writing to it.
            UploadOffsetError: It stands at another offset, is finished, or has another length.
            ContentTooLargeError: The length is over the limit.
        """
        return self.ledger.run(
            lambda: self._receive(upload_id, offset=offset, kind=kind, subject=subject, length=length, field=field)
        )

    def _receive(
        self, upload_id: str, *, offset: int, kind: str | None, subject: str, length: int | None, field: str | None
    ) -> Reception:
        holder = secrets.token_hex(16)
        found = self.checked(self.look(upload_id), kind=kind, subject=subject)
        self._check_place(found, offset, length, field)
        session = self._lock(found, holder)
        try:
            self._check_place(session, offset, length, field)  # somebody may have been faster
            counts = session.length is None and bool(self.manager.get_policy(session.storage_key).quotas)
            if length is not None:
                session = replace(session, length=length)
            return Reception(self, session, holder, self._arrival(session, field), field=field, counts=counts)
        except BaseException:
            self.ledger.renew(upload_id, holder, lease=0)
            raise

    def _check_place(self, session: UploadSession, offset: int, length: int | None, field: str | None) -> None:
        if session.status is UploadStatus.FINISHED or session.offset != offset:
            raise UploadOffsetError(
                f"the upload stands at {session.offset}, not at {offset}",
                operation="receive",
                limit=session.offset,
                value=offset,
            )
        if length is None or length == session.length:
            return
        if session.length is not None or length < session.offset:
            raise UploadOffsetError(
                "the length of an upload cannot be changed", operation="receive", limit=session.length, value=length
            )
        self.manager.get_policy(session.storage_key).check_size(length, field=field)
        _check_length(length, field or session.storage_key)

    def _lock(self, session: UploadSession, holder: str) -> UploadSession:
        locked = self.ledger.lock(session.id, holder, lease=milliseconds(self.settings.lease))
        if locked is not None:
            return locked
        now = self.checked(self.ledger.find(session.id), kind=session.kind, subject=session.subject)
        if now.status is UploadStatus.FINISHED:
            raise UploadOffsetError("the upload is finished", operation="receive", limit=now.offset)
        raise UploadBusyError("somebody else is writing to the upload", operation="receive")

    def _arrival(self, session: UploadSession, field: str | None) -> Arrival:
        manager = self.manager
        if session.planned is None:
            raise UploadGoneError("the upload has ended", operation="receive")
        return Arrival(
            session,
            session.planned,
            manager.get_policy(session.storage_key),
            manager.get_backend(session.backend),
            now=manager.now,
            discard=manager._let_go,
            events=manager.events,
            field=field,
            sniffs=not session.details.get(PARTIAL),
        )

    # -- finishing -----------------------------------------------------------------------------------------------------

    def complete(
        self,
        upload_id: str,
        *,
        kind: str | None = None,
        subject: str = "",
        progress: ProgressCallback | None = None,
    ) -> UploadSession:
        """Finish an upload whose bytes have all come, where that was not done, for the process that received them died.

        Returns the session as it is where there is nothing to do.

        Args:
            upload_id: Its id.
            kind: What must have made it; anything where absent.
            subject: Whom it must belong to.
            progress: Is told how far it is; see ``Reception.finish``.

        Raises:
            UploadNotFoundError: There is none of that kind and subject.
            UploadGoneError: It has ended.
            UploadBusyError: Somebody else is doing it.
            ContentRejectedError: The policy, or one of its validators, refuses it; nothing remains.
            BackendError: It cannot be stored now; try again.
        """
        session = self.find(upload_id, kind=kind, subject=subject)
        if session.status is UploadStatus.FINISHED or not session.is_complete:
            return session
        with self.receive(upload_id, offset=session.offset, kind=kind, subject=subject) as reception:
            return reception.finish(progress=progress) or session

    def finish_with(
        self, upload_id: str, staged: StagedFile, *, kind: str | None = None, subject: str = ""
    ) -> UploadSession:
        """Finish an upload with a file that was staged elsewhere: a copy of what a client wrote to the store itself.

        Args:
            upload_id: Its id.
            staged: The file, staged less than a quarter of the grace ago; judged as any file when it was staged.
            kind: What must have made it; anything where absent.
            subject: Whom it must belong to.

        Raises:
            UploadNotFoundError: There is none of that kind and subject.
            UploadGoneError: It has ended, or the file was let go.
            UploadBusyError: Somebody else is at it.
            UploadOffsetError: It is finished already.
            StaleRefError: The file was staged too long ago.
        """
        return self.ledger.run(lambda: self._finish_with(upload_id, staged, kind=kind, subject=subject))

    def _finish_with(self, upload_id: str, staged: StagedFile, *, kind: str | None, subject: str) -> UploadSession:
        holder = secrets.token_hex(16)
        session = self._lock(self.checked(self.look(upload_id), kind=kind, subject=subject), holder)
        if not staged.mark_used():
            self.ledger.renew(upload_id, holder, lease=0)
            raise UploadGoneError("this file was let go already", operation="finish", location=staged.location)
        return self.finish_as(session, holder, staged)

    def finish_as(
        self, session: UploadSession, holder: str, staged: StoredObjectRef, leftovers: Sequence[str] = ()
    ) -> UploadSession:
        """Say that the object is there and accepted: the session holds it from now on.

        Args:
            session: The session.
            holder: Who holds it.
            staged: Its ref; at the planned location.
            leftovers: Keys that the sweep shall look after, since the session forgets them.

        Raises:
            UploadGoneError: The session has ended.
            UploadLostError: The session is not the holder's any more.
        """
        expires_in = milliseconds(self.settings.finished_for)
        try:
            finished = self.ledger.finish(
                session.id, holder, staged, expires_in=expires_in, manager=self.manager, leftovers=leftovers
            )
        except BaseException:
            self.manager.note([staged])  # whether the session holds it is not known: the sweep looks
            raise
        if finished is None:
            self.manager.note([staged])
            raise self.lost(session, "finish")
        if staged.location != session.location and self.manager.get_policy(session.storage_key).quotas:
            quotas = self.manager.quotas
            with suppress(Exception):  # done already, but where quotas are counted in another database
                quotas.perform(lambda: quotas.ledger.move(session.location, staged.location))
        return finished

    def lost(self, session: UploadSession, operation: str) -> StorageError:
        """Return the error for whoever held a session that is not theirs any more: it has ended, or is another's."""
        found = self.ledger.find(session.id)
        over = found is None or found.status is UploadStatus.ENDING
        if found is None or over or (found.expired and found.status is UploadStatus.RECEIVING):
            return UploadGoneError("the upload has ended", operation=operation, location=session.location)
        return UploadLostError("somebody else has taken the upload", operation=operation, location=session.location)

    def _end(self, upload_id: str, holder: str | None = None) -> bool:
        """End a session, and remove what it left as far as that can be done now."""
        ended = self.ledger.end(upload_id, holder)
        if ended is None:
            return False
        with suppress(StorageError):  # the sweep goes on with it
            backend = self.manager.get_backend(ended.backend)
            late = self.ledger.call(backend, clear_away, backend, ended)
            if holder is not None:  # it was never finished: no row can have its object
                self.ledger.call(backend, backend.delete, ended.location)
            self.ledger.forget(ended, leftovers=late)
        return True

    def discard(self, upload_id: str, *, kind: str | None = None, subject: str = "") -> None:
        """End an upload, finished or not, whoever is writing to it. What a row has taken is not touched.

        Raises:
            UploadNotFoundError: There is none of that kind and subject.
            UploadGoneError: It has ended already.
        """
        self.ledger.run(lambda: self._discard(upload_id, kind=kind, subject=subject))

    def _discard(self, upload_id: str, *, kind: str | None, subject: str) -> None:
        self.checked(self.look(upload_id), kind=kind, subject=subject)
        if not self._end(upload_id):
            raise UploadGoneError("the upload has ended already", operation="discard")

    @contextmanager
    def _kept(self, upload_id: str, holder: str) -> Iterator[None]:
        """Renew the lease from time to time, from a thread of its own, while something takes long."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self.settings.record_every.total_seconds()):
                with suppress(Exception):  # it runs out by itself; whoever works finds out at the end
                    self.ledger.run(
                        lambda: self.ledger.renew(upload_id, holder, lease=milliseconds(self.settings.lease))
                    )

        thread = threading.Thread(target=keep, name="granite-upload", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _check_length(length: int, field: str) -> None:
    if length > MAX_LENGTH:
        raise ContentTooLargeError(
            f"{field}: more than the {MAX_LENGTH} bytes that any file may have",
            operation="put",
            field=field,
            limit=MAX_LENGTH,
            value=length,
        )


def _check_names(kind: str, subject: str) -> None:
    for name, value, limit in (("kind", kind, MAX_KIND), ("subject", subject, MAX_SUBJECT)):
        if len(value) > limit:
            raise ConfigurationError(
                f"the {name} of an upload has at most {limit} characters", field=name, limit=limit, value=len(value)
            )
