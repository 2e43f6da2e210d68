"""Upload sessions in the tables that lie beside the models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, MetaData
from sqlalchemy.util import greenlet_spawn

from granite_core._hops import hop_to
from granite_core.aio import joined
from granite_core.errors import ConfigurationError, StaleRefError, UploadBusyError
from granite_core.gc.ports import LedgerBusyError
from granite_core.integrations.sqlalchemy import _upload_rows as rows
from granite_core.integrations.sqlalchemy._admitting import is_fresh
from granite_core.integrations.sqlalchemy._calls import Calls
from granite_core.integrations.sqlalchemy._database import AnyEngine, Database
from granite_core.integrations.sqlalchemy._graces import quarter_on
from granite_core.integrations.sqlalchemy._quota_rows import move_usage
from granite_core.integrations.sqlalchemy._rows import register_column
from granite_core.integrations.sqlalchemy.tables import GraniteTables, tables_of
from granite_core.manager import StorageManager
from granite_core.refs import StoredObjectRef
from granite_core.uploads.sessions import EndedUpload, NewUpload, Progress, UploadSession, UploadStatus

__all__ = ["SQLAlchemyUploadLedger"]

T = TypeVar("T")

HOLD: Final = 300_000
"""For so many milliseconds a sweep leaves it to whoever ended a session to clear it away."""


class SQLAlchemyUploadLedger(Calls):
    """Upload sessions as rows of ``granite_upload``, in the database of the rows that will take the files.

    Args:
        engine: An engine of either colour; a tenant's schema is one with a ``schema_translate_map``.
        metadata: The metadata of the models there.

    Raises:
        ConfigurationError: The metadata has opted out of Granite's tables.
    """

    def __init__(self, engine: AnyEngine, metadata: MetaData) -> None:
        tables = tables_of(metadata)
        if tables is None:
            raise ConfigurationError("uploads that outlive their request need Granite's tables: do not opt out of them")
        self._tables: Final[GraniteTables] = tables
        self._metadata: Final = metadata
        self._database: Final = Database(engine, [metadata])

    @property
    def _needs_loop(self) -> bool:
        return self._database.is_async

    def add(self, upload: NewUpload, *, expires_in: int, manager: StorageManager) -> UploadSession:
        """Make a session; see ``UploadLedger.add``."""
        t = self._tables

        def step(connection: Connection) -> UploadSession:
            if upload.status is UploadStatus.FINISHED:
                self._check_age(connection, upload.file, manager)
            register_column(connection, t, t.upload.c.file)
            rows.add_upload(connection, t.upload, upload, expires_in=expires_in)
            found = rows.find_upload(connection, t.upload, upload.id, self._discard)
            if found is None:
                raise ConfigurationError("a row that was just written cannot be read")
            return found

        return self._write(step)

    def find(self, upload_id: str) -> UploadSession | None:
        """Return a session; see ``UploadLedger.find``."""
        found = partial(rows.find_upload, t=self._tables.upload, upload_id=upload_id, discard=self._discard)
        return self._run(self._database.read, found)

    def lock(self, upload_id: str, holder: str, *, lease: int) -> UploadSession | None:
        """Take a session; see ``UploadLedger.lock``."""
        t = self._tables.upload
        return self._write(lambda c: rows.lock_upload(c, t, upload_id, holder, self._discard, lease=lease))

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
        """Record what has come; see ``UploadLedger.record``."""
        what: dict[str, Any] = {"offset": offset, "length": length, "progress": progress}
        when: dict[str, Any] = {"lease": lease, "expires_in": expires_in}
        return self._write(lambda c: rows.record_upload(c, self._tables.upload, upload_id, holder, **what, **when))

    def renew(self, upload_id: str, holder: str, *, lease: int) -> bool:
        """Hold a session for longer, or give it back; see ``UploadLedger.renew``."""
        return self._write(lambda c: rows.renew_upload(c, self._tables.upload, upload_id, holder, lease=lease))

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
        """Say that the object is there; see ``UploadLedger.finish``."""
        t = self._tables

        def step(connection: Connection) -> UploadSession | None:
            before = rows.find_upload(connection, t.upload, upload_id, self._discard)
            if before is None or not rows.finish_upload(
                connection, t.upload, upload_id, holder, file, expires_in=expires_in
            ):
                return None
            if file.location != before.location:
                self._check_age(connection, file, manager)
                move_usage(connection, t, before.location, file.location)
            left = (*before.progress.leftovers, *leftovers)
            rows.bury(connection, t, before.backend, before.storage_key, left)
            return rows.find_upload(connection, t.upload, upload_id, self._discard)

        return self._write(step)

    def _check_age(self, connection: Connection, ref: StoredObjectRef, manager: StorageManager) -> None:
        """A session is a row: what gets into it was stored lately."""
        within = quarter_on(connection, self._tables.state, manager.grace)
        if not is_fresh(ref, manager, within):
            raise StaleRefError(
                f"this file was not stored within the last {within}: store it again",
                operation="hold",
                backend=ref.backend,
                location=ref.location,
                limit=within,
            )

    def end(self, upload_id: str, holder: str | None = None) -> EndedUpload | None:
        """End a session; see ``UploadLedger.end``."""
        return self._write(lambda c: rows.end_upload(c, self._tables, upload_id, holder, hold=HOLD))

    def forget(self, ended: EndedUpload, *, leftovers: Sequence[str] = ()) -> None:
        """Remove the row of a session that has ended; see ``UploadLedger.forget``."""
        self._write(lambda c: rows.forget_upload(c, self._tables, ended, leftovers))

    async def arun(self, call: Callable[[], T], stop: threading.Event) -> T:
        """Run it for an asynchronous caller; joined when that is cancelled.

        On a synchronous engine too it runs beside the loop, and only its steps in the database, and what it does in a
        store, run in threads, each in their own few: a thread that waits for the store keeps nobody's lease from being
        renewed. Without greenlet, which only asynchronous engines need, all of it runs in the few for the database.
        """
        if self._needs_loop or _has_greenlet():
            return await joined(asyncio.ensure_future(greenlet_spawn(call)), stop.set)
        return await hop_to(self._database.threads(), call, on_cancel=stop.set)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._database.close()

    def _discard(self, ref: StoredObjectRef) -> None:
        """Never called: what a session holds is deleted by the collector alone."""

    def _write(self, step: Callable[[Connection], T]) -> T:
        return self._run(self._database.write, step)

    @staticmethod
    def _run(run: Callable[[Callable[[Connection], T]], T], step: Callable[[Connection], T]) -> T:
        try:
            return run(step)
        except LedgerBusyError as busy:
            raise UploadBusyError(str(busy), operation="upload") from busy


@cache
def _has_greenlet() -> bool:
    return find_spec("greenlet") is not None
