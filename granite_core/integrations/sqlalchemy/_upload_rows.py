"""Upload sessions as rows: plain statements, in transactions that are handed in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, func, or_, select

from granite_core.gc.ports import UploadCounts
from granite_core.integrations.sqlalchemy._quota_rows import release_usage
from granite_core.integrations.sqlalchemy.tables import GraniteTables, db_now
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.uploads.sessions import EndedUpload, NewUpload, Progress, UploadSession, UploadStatus

__all__ = [
    "add_upload",
    "bury",
    "count_uploads",
    "end_upload",
    "expire_upload",
    "expired_uploads",
    "find_upload",
    "finish_upload",
    "forget_upload",
    "lock_upload",
    "receiving_locations",
    "record_upload",
    "renew_upload",
]

_RECEIVING: Final = UploadStatus.RECEIVING.value
_FINISHED: Final = UploadStatus.FINISHED.value
_ENDING: Final = UploadStatus.ENDING.value

Discard = Callable[[StoredObjectRef], None]


def add_upload(connection: Connection, t: Table, upload: NewUpload, *, expires_in: int) -> None:
    """Insert a session."""
    connection.execute(
        t.insert().values(
            id=upload.id,
            kind=upload.kind,
            subject=upload.subject,
            status=upload.status.value,
            storage_key=upload.file.storage_key,
            backend=upload.file.backend,
            location=upload.file.location,
            file=upload.file,
            received=upload.file.size,
            length=upload.length,
            details=json.dumps(dict(upload.details)) if upload.details else None,
            progress=upload.progress.to_json(),
            created_at=db_now(),
            expires_at=db_now() + expires_in,
        )
    )


def find_upload(connection: Connection, t: Table, upload_id: str, discard: Discard) -> UploadSession | None:
    """Return a session."""
    row = connection.execute(_reading(t).where(t.c.id == upload_id)).one_or_none()
    return None if row is None else _session(row, discard)


def lock_upload(
    connection: Connection, t: Table, upload_id: str, holder: str, discard: Discard, *, lease: int
) -> UploadSession | None:
    """Take a session that receives, unless somebody else has it."""
    free = or_(t.c.holder.is_(None), t.c.holder == holder, t.c.held_until < db_now())
    taken = connection.execute(
        t.update()
        .where(t.c.id == upload_id, t.c.status == _RECEIVING, t.c.expires_at >= db_now(), free)
        .values(holder=holder, held_until=db_now() + lease)
    )
    return find_upload(connection, t, upload_id, discard) if taken.rowcount else None


def record_upload(
    connection: Connection,
    t: Table,
    upload_id: str,
    holder: str,
    *,
    offset: int,
    length: int | None,
    progress: Progress,
    lease: int,
    expires_in: int,
) -> datetime | None:
    """Record what has come; the statement itself says that the session is the holder's, and has not expired."""
    recorded = connection.execute(
        t.update()
        .where(*_ours(t, upload_id, holder), t.c.expires_at >= db_now())
        .values(
            received=offset,
            length=length,
            progress=progress.to_json(),
            expires_at=db_now() + expires_in,
            **_lease(holder, lease),
        )
    )
    if not recorded.rowcount:
        return None
    return _moment(connection.execute(select(t.c.expires_at).where(t.c.id == upload_id)).scalar_one())


def renew_upload(connection: Connection, t: Table, upload_id: str, holder: str, *, lease: int) -> bool:
    """Hold a session for longer, or give it back."""
    renewed = connection.execute(t.update().where(*_ours(t, upload_id, holder)).values(**_lease(holder, lease)))
    return renewed.rowcount == 1


def finish_upload(
    connection: Connection, t: Table, upload_id: str, holder: str, file: StoredObjectRef, *, expires_in: int
) -> bool:
    """Let a session hold the object that is there."""
    finished = connection.execute(
        t.update()
        .where(*_ours(t, upload_id, holder))
        .values(
            status=_FINISHED,
            file=file,
            location=file.location,
            backend=file.backend,
            progress=None,
            received=file.size,
            length=file.size,
            holder=None,
            held_until=0,
            expires_at=db_now() + expires_in,
        )
    )
    return finished.rowcount == 1


def end_upload(
    connection: Connection,
    tables: GraniteTables,
    upload_id: str,
    holder: str | None = None,
    *,
    hold: int,
    database: int = 0,
) -> EndedUpload | None:
    """Let a session hold nothing any more, and leave a tombstone of its object.

    Args:
        connection: Where.
        tables: Granite's.
        upload_id: Which.
        holder: Who must hold it, and it must not be finished; anybody where absent.
        hold: For how long others leave it to the caller to clear it away, in milliseconds.
        database: Number of the database.
    """
    t = tables.upload
    which = (t.c.id == upload_id, t.c.status != _ENDING) if holder is None else _ours(t, upload_id, holder)
    if not _end_one(connection, tables, upload_id, *which, hold=hold):
        return None
    row = connection.execute(select(t).where(t.c.id == upload_id)).one()
    bury(connection, tables, row.backend, row.storage_key, [row.location])
    return _ended(row, database)


def expired_uploads(connection: Connection, t: Table, *, limit: int) -> list[str]:
    """Return the ids of sessions that have expired, and of those whose clearing was not brought to its end."""
    query = select(t.c.id).where(or_(_is_due(t), _is_abandoned(t))).order_by(t.c.expires_at).limit(limit)
    return list(connection.execute(query).scalars())


def expire_upload(
    connection: Connection, tables: GraniteTables, upload_id: str, *, database: int, hold: int
) -> EndedUpload | None:
    """End a session that has expired, or take over the clearing of one that has ended; None where there is neither.

    Whether it has expired is said by the statement that ends it: bytes may have come since it was found. One session
    is one transaction: the sums that it locks are everybody's, and those of several sessions come in no order.
    """
    t = tables.upload
    if _end_one(connection, tables, upload_id, _is_due(t), hold=hold):
        row = connection.execute(select(t).where(t.c.id == upload_id)).one()
        bury(connection, tables, row.backend, row.storage_key, [row.location])
        return _ended(row, database)
    taken = t.update().where(t.c.id == upload_id, _is_abandoned(t)).values(held_until=db_now() + hold)
    if not connection.execute(taken).rowcount:
        return None
    return _ended(connection.execute(select(t).where(t.c.id == upload_id)).one(), database)


def _end_one(
    connection: Connection, tables: GraniteTables, upload_id: str, *where: ColumnElement[bool], hold: int
) -> bool:
    """End one session. What was not finished counts no more; a finished file counts until it is swept."""
    t = tables.upload
    ours = t.c.id == upload_id
    received = connection.execute(t.update().where(ours, t.c.status == _RECEIVING, *where).values(**_ending(hold)))
    if received.rowcount:
        location = connection.execute(select(t.c.location).where(ours)).scalar_one()
        release_usage(connection, tables, [location])
        return True
    return connection.execute(t.update().where(ours, *where).values(**_ending(hold))).rowcount == 1


def forget_upload(connection: Connection, tables: GraniteTables, ended: EndedUpload, leftovers: Sequence[str]) -> None:
    """Delete the row of a session that has ended, and leave tombstones of what may be written yet."""
    t = tables.upload
    bury(connection, tables, ended.backend, ended.storage_key, leftovers)
    connection.execute(t.delete().where(t.c.id == ended.id, t.c.status == _ENDING))


def receiving_locations(connection: Connection, t: Table) -> frozenset[str]:
    """Return the keys that are being written in several goes, or by clients."""
    found: set[str] = set()
    for location, progress in connection.execute(select(t.c.location, t.c.progress).where(t.c.status == _RECEIVING)):
        found.add(location)
        found.update(Progress.from_json(progress).leftovers)
    return frozenset(found)


def count_uploads(connection: Connection, t: Table) -> UploadCounts:
    """Count the sessions, and the bytes that have come."""
    status, received = t.c.status, t.c.received

    def of(value: str) -> tuple[Any, Any]:
        size = func.coalesce(func.sum(case((status == value, received), else_=0)), 0)
        return func.count(case((status == value, 1))), size

    expired = func.count(case((_is_due(t), 1)))
    counts = connection.execute(select(*of(_RECEIVING), *of(_FINISHED), of(_ENDING)[0], expired)).one()
    return UploadCounts(*map(int, counts))


def bury(
    connection: Connection, tables: GraniteTables, backend: str, storage_key: str, locations: Sequence[str]
) -> None:
    """Leave tombstones. What no row ever held does not wait for its policy's retention.

    Args:
        connection: Where.
        tables: Granite's.
        backend: ``backend_key`` of where the objects are.
        storage_key: Their policy.
        locations: Their keys.
    """
    if locations:
        connection.execute(
            tables.tombstone.insert().values(written_at=db_now()),
            [{"location": each, "backend": backend, "storage_key": storage_key} for each in locations],
        )


# -- small things ------------------------------------------------------------------------------------------------------


def _ours(t: Table, upload_id: str, holder: str) -> Sequence[ColumnElement[bool]]:
    return t.c.id == upload_id, t.c.holder == holder, t.c.status == _RECEIVING


def _lease(holder: str, lease: int) -> dict[str, Any]:
    return {"holder": holder, "held_until": db_now() + lease} if lease else {"holder": None, "held_until": 0}


def _ending(hold: int) -> dict[str, Any]:
    return {"status": _ENDING, "file": None, "holder": None, "held_until": db_now() + hold}


def _is_due(t: Table) -> ColumnElement[bool]:
    """Whether a session has expired, and nobody is at work on it: who completes one renews a lease meanwhile."""
    now = db_now()
    return and_(t.c.status != _ENDING, t.c.expires_at < now, or_(t.c.holder.is_(None), t.c.held_until < now))


def _is_abandoned(t: Table) -> ColumnElement[bool]:
    return and_(t.c.status == _ENDING, t.c.held_until < db_now())


def _reading(t: Table) -> Select[Any]:
    return select(
        t,
        case((t.c.expires_at < db_now(), 1), else_=0).label("expired"),
        case((t.c.held_until >= db_now(), 1), else_=0).label("held"),
    )


def _session(row: Any, discard: Discard) -> UploadSession:
    status = UploadStatus(row.status)
    ref: StoredObjectRef | None = row.file
    file = None
    if ref is not None and status is UploadStatus.FINISHED:
        fields = ref.storage_key, ref.backend, ref.location, ref.size, ref.checksum, ref.content_type
        file = StagedFile(*fields, ref.original_filename, ref.created_at, ref.extra, discard=discard, upload=row.id)
    return UploadSession(
        id=row.id,
        kind=row.kind,
        subject=row.subject,
        status=status,
        storage_key=row.storage_key,
        backend=row.backend,
        location=row.location,
        planned=ref,
        file=file,
        offset=row.received,
        length=row.length,
        details=json.loads(row.details) if row.details else {},
        progress=Progress.from_json(row.progress),
        held=bool(row.held) and row.holder is not None,
        created_at=_moment(row.created_at),
        expires_at=_moment(row.expires_at),
        expired=bool(row.expired),
    )


def _ended(row: Any, database: int) -> EndedUpload:
    return EndedUpload(database, row.id, row.storage_key, row.backend, row.location, Progress.from_json(row.progress))


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
