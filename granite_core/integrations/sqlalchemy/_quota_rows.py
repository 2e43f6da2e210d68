"""What scopes have stored, as rows: plain statements, in transactions that are handed in.

A row of ``granite_usage`` is the receipt of what an object adds to the sum in ``granite_quota``: both change in one
transaction, so nothing is added or given back twice. Rows are locked in one order everywhere: those of an object, then
the sums of their scopes by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError

from granite_core._chunks import chunks
from granite_core.errors import QuotaExceededError
from granite_core.integrations.sqlalchemy._expressions import WANTED, among, at_once, packed
from granite_core.integrations.sqlalchemy._rows import has_table
from granite_core.integrations.sqlalchemy.tables import GraniteTables, db_now
from granite_core.quotas import MAX_SUM, Counted, QuotaLimit, QuotaUsage, Share, plan_hold

__all__ = ["hold_usage", "list_scopes", "move_usage", "read_usage", "recount_usage", "release_usage", "unproven_usage"]

_HALF: Final = 2**32


def hold_usage(
    connection: Connection,
    tables: GraniteTables,
    counted: Counted,
    shares: Sequence[Share] | None,
    *,
    size: int,
    wish: int,
    beside: Collection[str],
    field: str,
) -> int:
    """Count an object with a number of bytes; see ``QuotaLedger.hold``."""
    quota, usage = tables.quota, tables.usage
    ours = select(usage).where(usage.c.location == counted.location)
    rows = connection.execute(ours.order_by(usage.c.scope).with_for_update()).all()
    if shares is None:
        shares = [Share(row.scope, QuotaLimit(max_bytes=row.max_bytes)) for row in rows]
    shares = sorted(shares, key=lambda each: each.scope)  # not by the database, whose collation may say otherwise
    if beside:
        shares = _widened(connection, usage, shares, beside)
    known = {row.scope: row for row in rows}
    used = [_locked(connection, quota, share.scope) for share in shares]
    if new := [share.scope for share in shares if share.scope not in known]:
        # Again, with the sums locked: somebody else may have counted it while this one waited for them.
        known.update((row.scope, row) for row in connection.execute(ours.where(usage.c.scope.in_(new))))
    held = [known[share.scope].bytes if share.scope in known else None for share in shares]
    taken = plan_hold(shares, used, held, size=size, wish=wish, field=field)
    for share, before in zip(shares, held, strict=True):
        _add(connection, quota, share, taken - (before or 0), int(before is None), asked=size, field=field)
        row = known.get(share.scope)
        if row is not None:
            values = {"bytes": taken, "touched_at": db_now()}
            connection.execute(usage.update().where(usage.c.id == row.id).values(**values))
            continue
        connection.execute(
            usage.insert().values(
                location=counted.location,
                backend=counted.backend,
                storage_key=counted.storage_key,
                scope=share.scope,
                bytes=taken,
                max_bytes=None if share.limit.max_bytes is None else share.limit.most_bytes,
                touched_at=db_now(),
            )
        )
    return taken


def _widened(connection: Connection, usage: Table, shares: Sequence[Share], beside: Collection[str]) -> Sequence[Share]:
    """Let scopes have so much more as is counted for what goes soon."""
    sums = select(usage.c.scope, func.sum(usage.c.bytes), func.count()).where(usage.c.location.in_(beside))
    more = {scope: (int(size), int(files)) for scope, size, files in connection.execute(sums.group_by(usage.c.scope))}

    def widened(share: Share) -> Share:
        (size, files), limit = more.get(share.scope, (0, 0)), share.limit
        return Share(
            share.scope,
            QuotaLimit(
                max_bytes=None if limit.max_bytes is None else limit.max_bytes + size,
                max_files=None if limit.max_files is None else limit.max_files + files,
            ),
        )

    return [widened(each) for each in shares]


def release_usage(
    connection: Connection, tables: GraniteTables, locations: Collection[str], *, older_than: int | None = None
) -> None:
    """Count objects no more; each is given back by whoever deletes its row.

    Without the table nothing is counted: an application without quotas may do without it.

    Args:
        connection: Where.
        tables: Granite's.
        locations: The objects.
        older_than: Leave what was touched less than so many milliseconds ago; None for nothing.
    """
    if not has_table(connection, tables.usage):
        return
    usage, dialect = tables.usage, connection.dialect.name
    columns = usage.c.id, usage.c.scope, usage.c.bytes
    given: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for some in chunks(sorted(locations), at_once(dialect)):
        query = select(*columns).where(among(usage.c.location, dialect)).order_by(usage.c.location, usage.c.scope)
        if older_than is not None:
            query = query.where(usage.c.touched_at < db_now() - older_than)
        for row in connection.execute(query.with_for_update(), {WANTED: packed(dialect, some)}).all():
            if connection.execute(usage.delete().where(usage.c.id == row.id)).rowcount == 1:
                given[row.scope][0] += row.bytes
                given[row.scope][1] += 1
    for scope, (size, files) in sorted(given.items()):
        t = tables.quota
        values = {"bytes": t.c.bytes - size, "files": t.c.files - files}
        connection.execute(t.update().where(t.c.scope == scope).values(**values))


def move_usage(connection: Connection, tables: GraniteTables, before: str, after: str) -> None:
    """Count an object in place of another one; see ``QuotaLedger.move``."""
    usage = tables.usage
    if not has_table(connection, usage):
        return
    if connection.scalar(select(usage.c.id).where(usage.c.location == after).limit(1)) is not None:
        release_usage(connection, tables, [before])
        return
    moved = {"location": after, "touched_at": db_now()}
    connection.execute(usage.update().where(usage.c.location == before).values(**moved))


def read_usage(connection: Connection, quota: Table, scope: str) -> QuotaUsage:
    """Return what a scope has."""
    row = connection.execute(select(quota).where(quota.c.scope == scope)).one_or_none()
    return QuotaUsage(scope, 0, 0) if row is None else QuotaUsage(scope, int(row.bytes), int(row.files))


def list_scopes(connection: Connection, quota: Table, *, after: str | None, limit: int) -> list[QuotaUsage]:
    """Return what scopes have, in the order of their names."""
    query = select(quota).order_by(quota.c.scope).limit(limit)
    rows = connection.execute(query if after is None else query.where(quota.c.scope > after))
    return [QuotaUsage(row.scope, int(row.bytes), int(row.files)) for row in rows]


def recount_usage(connection: Connection, tables: GraniteTables, scope: str) -> QuotaUsage:
    """Correct the sum of a scope. With the sum locked, nobody's receipt can be seen without what it added."""
    quota, usage = tables.quota, tables.usage
    _locked(connection, quota, scope)
    # In two halves: whoever changed the rows by hand may have made a sum that the database cannot tell.
    upper, lower = func.sum(usage.c.bytes // _HALF), func.sum(usage.c.bytes % _HALF)
    high, low, files = connection.execute(select(upper, lower, func.count()).where(usage.c.scope == scope)).one()
    size = min(int(high or 0) * _HALF + int(low or 0), MAX_SUM)
    connection.execute(quota.update().where(quota.c.scope == scope).values(bytes=size, files=int(files)))
    return QuotaUsage(scope, size, int(files))


def unproven_usage(
    connection: Connection, usage: Table, *, older_than: int, after: int | None, limit: int
) -> list[tuple[int, Counted]]:
    """Return what was counted longer ago than some milliseconds, in the order of the rows' ids."""
    if not has_table(connection, usage):
        return []
    query = select(usage).where(usage.c.touched_at < db_now() - older_than).order_by(usage.c.id).limit(limit)
    rows = connection.execute(query if after is None else query.where(usage.c.id > after))
    return [(row.id, Counted(row.location, row.backend, row.storage_key)) for row in rows]


def _locked(connection: Connection, quota: Table, scope: str) -> QuotaUsage:
    """Lock the sum of a scope, which is made where there is none, and return it."""
    query = select(quota).where(quota.c.scope == scope).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        _make(connection, quota, scope)
        row = connection.execute(query).one()
    return QuotaUsage(scope, int(row.bytes), int(row.files))


def _make(connection: Connection, quota: Table, scope: str) -> None:
    """Insert the sum of a scope, whoever else does so at the same time."""
    values: dict[str, Any] = {"scope": scope, "bytes": 0, "files": 0}
    dialect = connection.dialect.name
    if dialect == "postgresql":
        connection.execute(postgresql.insert(quota).values(**values).on_conflict_do_nothing())
    elif dialect == "sqlite":
        from sqlalchemy.dialects import sqlite  # there already, with the connection

        connection.execute(sqlite.insert(quota).values(**values).on_conflict_do_nothing())
    elif dialect in ("mysql", "mariadb"):
        connection.execute(quota.insert().prefix_with("IGNORE").values(**values))
    else:
        with suppress(IntegrityError), connection.begin_nested():
            connection.execute(quota.insert().values(**values))


def _add(connection: Connection, quota: Table, share: Share, size: int, files: int, *, asked: int, field: str) -> None:
    """Add to a sum; the statement itself says that there is room, for databases that lock no row they read."""
    statement = quota.update().where(quota.c.scope == share.scope)
    if size > 0:
        statement = statement.where(quota.c.bytes <= share.limit.most_bytes - size)
    if files and share.limit.max_files is not None:
        statement = statement.where(quota.c.files <= min(share.limit.max_files, MAX_SUM) - files)
    if connection.execute(statement.values(bytes=quota.c.bytes + size, files=quota.c.files + files)).rowcount != 1:
        now = read_usage(connection, quota, share.scope)
        raise QuotaExceededError.of_bytes(field, limit=share.limit.most_bytes, used=now.bytes, asked=asked)
