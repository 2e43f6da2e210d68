"""A go of an upload: what has come since somebody took it for their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from granite_core.backends.base import StorageBackend
from granite_core.errors import (
    BackendUnavailableError,
    ContentRejectedError,
    StorageError,
    UnfinishableError,
    UploadGoneError,
)
from granite_core.progress import Meter, ProgressCallback
from granite_core.quotas import Counted
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.uploads._arrival import Arrival
from granite_core.uploads.sessions import Progress, UploadSession
from granite_core.uploads.settings import milliseconds

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

    from granite_core.uploads.uploads import Uploads

__all__ = ["COPY_BYTES", "Reception"]

COPY_BYTES: Final = 1024 * 1024
STEP: Final = 16 * 1024 * 1024
"""An upload of no known length reserves so many bytes ahead."""


class Reception:
    """An upload that one has taken for one's own. Made by ``Uploads.receive``; used by one thread at a time.

    As a context manager it records what has come, whatever ends it, and gives the upload back.
    """

    def __init__(
        self,
        uploads: Uploads,
        session: UploadSession,
        holder: str,
        arrival: Arrival,
        *,
        field: str | None = None,
        counts: bool = False,
    ) -> None:
        self.session = session
        """The upload as it was recorded last."""
        self.holder: Final = holder
        self._uploads = uploads
        self._arrival = arrival
        self._lease = milliseconds(uploads.settings.lease)
        self._recorded = time.monotonic()
        self._opened = False
        self._unsure = False
        self._over = False
        self._field = field
        self._counts = counts
        self._covered = 0

    @property
    def offset(self) -> int:
        """How many bytes have come, recorded or not."""
        return self._arrival.size

    @property
    def room(self) -> int | None:
        """How many more may come; None where the length is not known."""
        return self._arrival.room

    @property
    def is_due(self) -> bool:
        """Whether it is time to record again."""
        return time.monotonic() - self._recorded >= self._uploads.settings.record_every.total_seconds()

    def write(self, data: Buffer, *, records: bool = True) -> None:
        """Take the next bytes; record from time to time how many have come.

        Args:
            data: The bytes.
            records: Whether to record; else the lease alone is renewed, and ``close`` with ``keep=False`` forgets them.

        Raises:
            UploadOffsetError: They are more than the upload's length; none of them was taken.
            UploadGoneError: The upload has ended, or the store has lost what was sent.
            UploadLostError: The upload is not ours any more.
            ContentRejectedError: The policy refuses it; nothing remains.
            BackendError: They cannot be stored now; go on later, from what was recorded.
        """
        with self._refusing():
            if self._arrival.admit(data):
                self._uploads.ledger.run(self.drain)
            if self.is_due:
                self._uploads.ledger.run(self.keep if records else self.renew)

    def copy(self, backend: StorageBackend, ref: StoredObjectRef, *, progress: ProgressCallback | None = None) -> None:
        """Take the content of a stored object as the next bytes; see ``write``.

        Args:
            backend: Where it is.
            ref: What it is.
            progress: Is told how many of its bytes are copied. What it raises ends that; the bytes that have come stay.

        Raises:
            ObjectNotFoundError: It is gone.
            BackendError: It cannot be read or stored.
        """
        call, meter, done = self._uploads.ledger.call, Meter(progress, ref.size), 0
        meter.refuse_async()
        meter.tell(0)
        with call(backend, lambda: backend.open_reader(ref.location)) as reader:
            while data := call(backend, lambda: reader.read(COPY_BYTES)):
                self.write(data)
                done += len(data)
                meter.tell(done)
        meter.tell(done, at_end=True)

    def drain(self) -> None:
        """Hand what was gathered to the store."""
        if self._begin():
            self._call(self._arrival.drain)

    def _begin(self, *, ends: bool = False) -> bool:
        """Record what a go leaves traces of before it does; whether what has come may be written."""
        arrival = self._arrival
        if arrival.content_type is None and not self._call(lambda: arrival.judge(ends=ends)):
            return False
        if self.must_cover:
            self._cover(ahead=STEP)
        if not self._opened:
            progress = self._call(arrival.open)
            if progress is not None:
                self._record(self.session.offset, progress, self._lease)
            self._opened = True
        return True

    @property
    def must_cover(self) -> bool:
        """Whether more has come than was reserved: it was not said how long the upload would be."""
        return self._counts and max(self._arrival.size, self._arrival.length or 0) > self._covered

    def _cover(self, *, ahead: int) -> None:
        need = max(self._arrival.size, self._arrival.length or 0)
        session, quotas = self.session, self._uploads.manager.quotas
        counted = Counted(session.location, session.backend, session.storage_key)
        wish = need if self._arrival.length is not None else need + ahead
        field = self._field or session.storage_key
        self._covered = quotas.perform(lambda: quotas.ledger.hold(counted, None, size=need, wish=wish, field=field))

    def record(self) -> None:
        """Make durable what has come, and record it; ``write`` does so by itself from time to time.

        Raises:
            UploadGoneError: The upload has ended, or the store has lost what was sent.
            UploadLostError: The upload is not ours any more.
            ContentRejectedError: The policy refuses it; nothing remains.
            BackendError: It cannot be stored now; go on later, from what was recorded.
        """
        with self._refusing():
            self._uploads.ledger.run(self.keep)

    def keep(self, *, ends: bool = False) -> None:
        """Do the work of ``record``.

        Args:
            ends: Whether nothing more comes; then the upload is given back, unless it is complete.
        """
        if self._unsure:  # what only the state before needs must not be removed: that may be the one that is kept
            raise BackendUnavailableError("it is not known what was recorded last", operation="receive")
        if not self._begin(ends=ends):
            self.renew()
            return
        offset, progress = self._call(lambda: self._arrival.checkpoint(ends=ends))
        complete = self._arrival.length == offset
        self._record(offset, progress, 0 if ends and not complete else self._lease)

    def renew(self) -> None:
        """Keep the upload without recording anything."""
        self._recorded = time.monotonic()
        if not self._uploads.ledger.renew(self.session.id, self.holder, lease=self._lease):
            raise self._gone()

    def finish(self, *, progress: ProgressCallback | None = None) -> UploadSession | None:
        """Record what has come; where that is all, make it a stored file that the policy accepts.

        Args:
            progress: Is told how far that is, where all has come: a store that cannot append joins pieces. What it
                raises ends this go; ``complete`` finishes the upload later.

        Returns:
            The finished session; None where more has to come.

        Raises:
            UploadGoneError: The upload has ended, or the store has lost what was sent.
            UploadLostError: The upload is not ours any more.
            ContentRejectedError: The policy, or one of its validators, refuses it; nothing remains.
            BackendError: It cannot be stored now; go on later, from what was recorded.
        """
        uploads, meter = self._uploads, Meter(progress, self._arrival.length)
        meter.refuse_async()
        with self._refusing():
            uploads.ledger.run(lambda: self.keep(ends=True))
            if self.stops_here():
                return None
            meter.tell(0)
            with uploads._kept(self.session.id, self.holder):
                staged = self._arrival.store(meter.tell if meter.is_wanted else None).accept()
        finished = uploads.ledger.run(lambda: self.finished(staged))
        meter.tell(finished.offset, at_end=True)
        return finished

    def stops_here(self) -> bool:
        """Whether more has to come; then this go is over."""
        if self.session.is_complete:
            return False
        self._over = True
        self._arrival.close()
        return True

    def finished(self, staged: StagedFile) -> UploadSession:
        """Let the session hold the file."""
        self._uploads.settle(self.session, staged.size, self._field)
        self.session = self._uploads.finish_as(self.session, self.holder, staged, self._arrival.leftovers)
        self._over = True
        return self.session

    def close(self, *, keep: bool = True) -> None:
        """Give the upload back; record what has come, unless told otherwise. Idempotent, never raises.

        Args:
            keep: Whether what has come is kept; else it must be sent again from where it was recorded last.
        """
        with suppress(Exception):
            self._uploads.ledger.run(lambda: self.leave(keep=keep))

    def leave(self, *, keep: bool) -> None:
        """Do the work of ``close``."""
        if self._over:
            return
        self._over = True
        end = self._arrival.close if keep else partial(self._arrival.withdraw, refused=False)
        try:
            if keep:
                self.keep(ends=True)
        except (ContentRejectedError, UnfinishableError):
            self.refuse()
            return
        except Exception:  # noqa: BLE001 S110 - what was recorded stays
            pass
        self._call(end)
        with suppress(Exception):
            self._uploads.ledger.renew(self.session.id, self.holder, lease=0)

    def refuse(self) -> bool:
        """End the upload, unless somebody else has taken it meanwhile: a refused file leaves nothing."""
        self._over = True
        self._call(lambda: self._arrival.withdraw(refused=False))
        return self._uploads._end(self.session.id, self.holder)

    def give_up(self) -> StorageError:
        """End an upload that can never be finished; return what to raise for it."""
        if self.refuse():
            return UploadGoneError("the store has lost what was sent: send it again", operation="receive")
        return self._uploads.lost(self.session, "receive")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, call: Callable[[], Any]) -> Any:
        return self._uploads.ledger.call(self._arrival.backend, call)

    def _record(self, offset: int, progress: Progress, lease: int) -> None:
        self._recorded = time.monotonic()
        length = self._arrival.length
        self._unsure = True
        expires_at = self._uploads.ledger.record(
            self.session.id,
            self.holder,
            offset=offset,
            length=length,
            progress=progress,
            lease=lease,
            expires_in=milliseconds(self._uploads.settings.expires_in),
        )
        if expires_at is None:
            raise self._gone(refused=True)
        self._unsure = False
        self.session = replace(self.session, offset=offset, length=length, progress=progress, expires_at=expires_at)

    def _gone(self, *, refused: bool = False) -> StorageError:
        self._over = True
        self._call(lambda: self._arrival.withdraw(refused=refused))
        return self._uploads.lost(self.session, "receive")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """End the upload when the policy refuses its content, or the store has lost it: nothing of it remains."""
        try:
            yield
        except ContentRejectedError:
            self._uploads.ledger.run(self.refuse)
            raise
        except UnfinishableError as error:
            raise self._uploads.ledger.run(self.give_up) from error
