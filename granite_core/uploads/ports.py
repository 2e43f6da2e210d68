"""What uploads need of a database: sessions as rows, whose refs count as held.

Each method is one short transaction; none is open when it returns, so no connection is held while bytes flow. Every
duration is in milliseconds, and every moment is the database's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar

from granite_core.backends.base import StorageBackend
from granite_core.manager import StorageManager
from granite_core.refs import StoredObjectRef
from granite_core.uploads.sessions import EndedUpload, NewUpload, Progress, UploadSession

__all__ = ["UploadLedger"]

P = ParamSpec("P")
T = TypeVar("T")


class UploadLedger(Protocol):
    """The rows beneath uploads. See the module's text for what holds of every method."""

    def add(self, upload: NewUpload, *, expires_in: int, manager: StorageManager) -> UploadSession:
        """Make a session.

        Args:
            upload: What it is. One that is finished is a row that gets a ref, and the rule for those applies.
            expires_in: When it ends unless something happens.
            manager: Whose grace and clock rule.

        Raises:
            StaleRefError: The object was stored too long ago.
        """
        ...

    def find(self, upload_id: str) -> UploadSession | None:
        """Return a session; None where there is none."""
        ...

    def lock(self, upload_id: str, holder: str, *, lease: int) -> UploadSession | None:
        """Take a session that receives, if nobody else holds it and it has not expired; None where that failed.

        The lease runs out by itself, so whoever dies does not keep it. Taking it again renews it.
        """
        ...

    def record(
        self,
        upload_id: str,
        holder: str,
        *,
        offset: int,
        length: int | None,
        progress: Progress,
        lease: int,
        expires_in: int,
    ) -> datetime | None:
        """Record what has come, renew the lease, and move the expiry.

        Args:
            upload_id: The session.
            holder: Who holds it.
            offset: How many bytes have come and are kept.
            length: How many there will be; None where that is not known.
            progress: How to go on.
            lease: For how long it is held from now on; 0 gives it back.
            expires_in: When it ends unless more comes.

        Returns:
            When it ends now; None where it is not the caller's any more, and then nothing was recorded.
        """
        ...

    def renew(self, upload_id: str, holder: str, *, lease: int) -> bool:
        """Hold a session for longer, or (0) give it back; False where it is not the caller's any more."""
        ...

    def finish(
        self,
        upload_id: str,
        holder: str,
        file: StoredObjectRef,
        *,
        expires_in: int,
        manager: StorageManager,
        leftovers: Sequence[str] = (),
    ) -> UploadSession | None:
        """Say that the object is there, whole and accepted; None where the session is not the caller's any more.

        It may be another one than was planned: then, as where a session is made of one, it was stored lately. What the
        session's progress names as left over gets tombstones in the same transaction.

        Args:
            upload_id: The session.
            holder: Who holds it.
            file: The object.
            expires_in: When it ends unless a row takes it.
            manager: Whose grace and clock rule.
            leftovers: Further keys that get tombstones.

        Raises:
            StaleRefError: It was stored too long ago.
        """
        ...

    def end(self, upload_id: str, holder: str | None = None) -> EndedUpload | None:
        """End a session, and leave a tombstone of its object in the same transaction.

        Args:
            upload_id: Which.
            holder: Who must hold it, and it must not be finished; where absent it is ended whoever holds it.

        Returns:
            What is to be removed from the store, before ``forget``; None where there is no such session.
        """
        ...

    def forget(self, ended: EndedUpload, *, leftovers: Sequence[str] = ()) -> None:
        """Remove the row of a session that has ended, once nothing of it is left.

        Args:
            ended: Which.
            leftovers: Keys that get tombstones in the same transaction: something may be written there yet.
        """
        ...

    # -- how calls are made

    def call(self, backend: StorageBackend | None, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that blocks without blocking an event loop beneath."""
        ...

    def run(self, call: Callable[[], T]) -> T:
        """Run what blocks, for a synchronous caller.

        Raises:
            ConfigurationError: The ledger needs an event loop, and there is none beneath.
        """
        ...

    async def arun(self, call: Callable[[], T], stop: threading.Event) -> T:
        """Run it for an asynchronous caller; joined when that is cancelled."""
        ...
