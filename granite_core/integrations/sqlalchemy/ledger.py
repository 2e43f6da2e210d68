"""The collector's ledger in the tables that lie beside the models, over one or several engines."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar, cast
from uuid import uuid4

from msgspec.structs import asdict
from sqlalchemy import Connection, Executable, MetaData, Table, bindparam, func, or_, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.util import await_only

from granite_core._chunks import chunks
from granite_core.errors import CollectionRefusedError, ConfigurationError
from granite_core.gc.plan import Note, RunState, Tombstone
from granite_core.gc.ports import Batch, Look, RowId
from granite_core.integrations.sqlalchemy._calls import Calls
from granite_core.integrations.sqlalchemy._database import AnyEngine, Database
from granite_core.integrations.sqlalchemy._diagnosis import Diagnosis
from granite_core.integrations.sqlalchemy._expressions import WANTED, among, at_once, packed
from granite_core.integrations.sqlalchemy._graces import forget_longer, longest_grace, record_grace
from granite_core.integrations.sqlalchemy._greenlet import in_greenlet
from granite_core.integrations.sqlalchemy._quota_rows import release_usage, unproven_usage
from granite_core.integrations.sqlalchemy._row_files import RowFiles
from granite_core.integrations.sqlalchemy._rows import has_table
from granite_core.integrations.sqlalchemy._upload_rows import (
    expire_upload,
    expired_uploads,
    forget_upload,
    receiving_locations,
)
from granite_core.integrations.sqlalchemy.references import find_held
from granite_core.integrations.sqlalchemy.tables import QUOTA_TABLES, GraniteTables, db_now, home_of, is_upload_column
from granite_core.quotas import Counted
from granite_core.uploads.sessions import EndedUpload

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

__all__ = ["SQLAlchemyLedger"]

P = ParamSpec("P")
T = TypeVar("T")

_Seen: TypeAlias = "tuple[list[Any], frozenset[str], int]"
"""The tombstones of some locations, those that a row holds, and the longest grace that was written down."""

_POLL: Final = 0.1
"""So many seconds pass at most until a pause on an event loop heeds a stop."""

_SKIP_LOCKED: Final = ("postgresql", "mysql", "mariadb", "oracle")
_IDENTITY: Final = "database"
_NAME: Final = ("schema_name", "table_name", "column_name")


class SQLAlchemyLedger(RowFiles, Diagnosis, Calls):
    """The collector's ledger in the tables that lie beside the models.

    The first database that has the tables keeps the lease, the identity and the position of a reconcile; tombstones
    are in all of them. A tenant's schema is an engine with ``execution_options(schema_translate_map=…)``.

    Args:
        engines: Every engine whose rows may point at objects, of either colour; one whose models have a metadata of
            their own comes as ``(engine, metadata)``. What is left out here looks like garbage.
        metadata: The metadata of the engines that come without one.

    Raises:
        ConfigurationError: There is no engine, or one without metadata.
    """

    def __init__(
        self, engines: Sequence[AnyEngine | tuple[AnyEngine, MetaData]], metadata: MetaData | None = None
    ) -> None:
        found: dict[tuple[int, str, str | None], tuple[AnyEngine, list[MetaData]]] = {}
        for each in engines:
            engine, its = each if isinstance(each, tuple) else (each, metadata)
            if its is None:
                raise ConfigurationError("the ledger needs the metadata of its engines' models")
            options = engine.get_execution_options()
            home = home_of(its)
            # Tables in another schema are tables of their own, as those of another database are.
            schema = home.schema if home is not None else None
            translated = repr(sorted(dict(options.get("schema_translate_map") or {}).items(), key=repr))
            place = id(engine.pool), translated, schema
            found.setdefault(place, (engine, []))[1].append(its)
        if not found:
            raise ConfigurationError("the ledger needs at least one engine")
        self._all = [Database(engine, its) for engine, its in found.values()]

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def durable(self) -> bool:
        """Whether any metadata has the tables."""
        return bool(self.databases)

    def check(self) -> None:
        """See that every row can be seen; see ``Ledger.check``."""
        for database in self._all:
            database.find_columns()
        if all(is_upload_column(column) for database in self._all for column in database.columns):
            raise CollectionRefusedError(
                "this process knows no model with a file field, so every object would look like nobody's: import the "
                "models before the collector runs",
                operation="check",
            )
        for database in self._all:
            database.read(partial(_check, database))
            database.find_indexes()

    def register_columns(self) -> None:
        """Write down the columns this process knows."""
        for number in self.databases:
            database, t = self._all[number], self._tables(number).column
            known = {_name(column.table, column.name) for column in database.columns}
            missing = known - database.read(partial(_registered, t))
            if missing:
                rows = [dict(zip(_NAME, each, strict=True)) for each in sorted(missing)]
                database.write(partial(_execute, t.insert(), rows))

    def identity(self) -> str | None:
        """Return the database's lasting name, made at first use; None without tables; see ``Ledger.identity``."""
        if not self.durable:
            return None
        if (found := self.peek_identity()) is None:
            self._add_state(_IDENTITY, uuid4().hex, self._home.read(_origin))
            found = self.peek_identity()
        return found

    def peek_identity(self) -> str | None:
        """Return the database's lasting name, or None while it has none; see ``Ledger.identity``."""
        if not self.durable:
            return None
        name, was, now = self._home.read(self._read_identity)
        if was is not None and now is not None and was != now:
            raise CollectionRefusedError(
                f"{self._home.label} is a copy, or was moved: its identity was made elsewhere ({was}, not {now}), and "
                "the database that owns the stores may still be at work; point a copy at its own stores; then, or "
                "when this one has taken the other's place for good, call adopt(…) on the collector for each backend",
                operation="check",
                limit=was,
                value=now,
            )
        return name

    def renew_identity(self) -> str | None:
        """Return the database's lasting name; a copy gets one of its own first."""
        if not self.durable:
            return None
        _, was, now = self._home.read(self._read_identity)
        if was is not None and now is not None and was != now:
            t = self._state
            of_copy = t.c.name == _IDENTITY, t.c.holder == was
            self._home.write(partial(_execute, t.update().where(*of_copy).values(data=uuid4().hex, holder=now), None))
        return self.identity()

    def _read_identity(self, connection: Connection) -> tuple[str | None, str | None, str | None]:
        """The name, where it was made, and where the database is now."""
        t = self._state
        row = connection.execute(select(t.c.data, t.c.holder).where(t.c.name == _IDENTITY)).one_or_none()
        return (row.data, row.holder, _origin(connection)) if row is not None else (None, None, None)

    def now(self, database: int = 0) -> int:
        """Return a database's clock."""
        return int(self._all[database].read(lambda c: c.execute(select(db_now())).scalar_one()))

    def record_grace(self, grace: int) -> int:
        """Write down that somebody works with a grace; return the longest that anybody does."""
        known = {number: self._longest_grace(number) for number in self.databases}
        for number, longest in known.items():
            if longest < grace:
                state = self._tables(number).state
                self._all[number].write(partial(record_grace, state=state, grace=grace))
        return max(grace, *known.values()) if known else grace

    def longest_grace(self) -> int:
        """Return the longest grace that was written down; 0 where none was."""
        return max(map(self._longest_grace, self.databases), default=0)

    def forget_longer_graces(self, grace: int) -> Sequence[int]:
        """Remove the graces that are longer than one; return them, the longest first."""
        found: set[int] = set()
        for number in self.databases:
            state = self._tables(number).state
            found.update(self._all[number].write(partial(forget_longer, state=state, grace=grace)))
        return sorted(found, reverse=True)

    def _longest_grace(self, number: int) -> int:
        state = self._tables(number).state
        return int(self._all[number].read(lambda c: c.scalar(select(longest_grace(state)))) or 0)

    # -- the lease -----------------------------------------------------------------------------------------------------

    def take_lease(self, name: str, holder: str, duration: int) -> str | None:
        """Take or renew a lease; None when it is ours now, else who holds it."""
        t = self._state
        free = or_(t.c.holder.is_(None), t.c.holder == holder, t.c.expires_at < db_now())

        def take(connection: Connection) -> str | None:
            taken = connection.execute(
                t.update().where(t.c.name == name, free).values(holder=holder, expires_at=db_now() + duration)
            )
            if taken.rowcount:
                return holder
            return connection.scalar(select(t.c.holder).where(t.c.name == name))

        winner = self._home.write(take)
        if winner is None:  # no row yet, or given back this very moment
            self._add_state(name)
            winner = self._home.write(take) or "nobody"
        return None if winner == holder else winner

    def drop_lease(self, name: str, holder: str) -> None:
        """Give a lease back."""
        t = self._state
        ours = t.c.name == name, t.c.holder == holder
        self._home.write(lambda c: c.execute(t.update().where(*ours).values(holder=None, expires_at=0)))

    # -- the sweep -----------------------------------------------------------------------------------------------------

    def clocks(self) -> Sequence[int]:
        """Return the clock of every database."""
        return [self.now(number) for number in range(len(self._all))]

    def due(self, database: int, *, grace: int, until: int, limit: int, after: tuple[int, int] | None) -> Batch:
        """Return due tombstones, the oldest first, that come after the last one of the batch before."""
        t = self._tables(database).tombstone
        # A younger tombstone of the same object is found by the look; then these are dropped, and that one decides.
        query = select(t.c.location, t.c.written_at, t.c.id).where(*_due(t, grace, until))
        query = query.order_by(t.c.written_at, t.c.id).limit(limit)
        if after is not None:
            written_at, row = after
            later = or_(t.c.written_at > written_at, t.c.id > row)
            query = query.where(t.c.written_at >= written_at, later)  # so said, an index is read from there on
        rows = self._all[database].read(lambda c: c.execute(query).all())
        return Batch(tuple(dict.fromkeys([row[0] for row in rows])), (rows[-1][1], rows[-1][2]) if rows else None)

    def look(self, locations: Collection[str], *, grace: int, clocks: Sequence[int] | None = None) -> Look:
        """Say what is known of locations; in each database tombstones and columns are read in one snapshot."""
        clocks = clocks or self.clocks()
        # The graces last: who writes one down later than that relies on nothing that was seen here.
        seen = [database.read(partial(_look, database, locations)) for database in self._all]
        unsettled = self._unsettled(seen, locations)
        grace = max(grace, *(longest for _, _, longest in seen))
        tombstones = [
            Tombstone(number, row, location, backend, due_by <= clocks[number] - grace, attempts, storage_key)
            for number, (rows, _, _) in enumerate(seen)
            for row, location, backend, storage_key, due_by, attempts in rows
            if location not in unsettled
        ]
        return Look(tuple(tombstones), frozenset().union(*(held for _, held, _ in seen)))

    def _unsettled(self, seen: Sequence[_Seen], locations: Collection[str]) -> set[str]:
        """Return the locations whose tombstones changed while one database was looked at after the other.

        Another sweep found them held, or somebody let go of them again: what was seen is no picture of any moment, and
        a file may have moved from a row that was not seen yet to one that was.
        """
        if len(self._all) == 1:
            return set()
        changed: set[str] = set()
        for database, (rows, _, _) in zip(self._all, seen, strict=True):
            again = database.read(partial(_tombstones, database, locations))
            before, after = ({(row[0], row[1]) for row in each} for each in (rows, again))
            changed.update(location for _, location in before ^ after)
        return changed

    def drop(self, rows: Collection[RowId], gone: Collection[str] = ()) -> None:
        """Remove tombstones, and count the objects that are gone no more.

        The latter comes first: who dies in between leaves tombstones, and the next one gives back again, once.
        """
        if gone and len(self.databases) > 1:
            self.release(gone)
            gone = ()
        for number, ids in _by_database(rows).items():
            self._all[number].write(partial(_drop, self._tables(number), sorted(ids), gone))

    def postpone(self, rows: Collection[tuple[RowId, int]]) -> None:
        """Count a failed attempt on tombstones, and retry each after its delay."""
        delays = dict(rows)
        for number, ids in _by_database(delays).items():
            t = self._tables(number).tombstone
            later = (
                t.update()
                .where(t.c.id == bindparam("row_id"))
                .values(attempts=t.c.attempts + 1, retry_at=db_now() + bindparam("delay", type_=t.c.retry_at.type))
            )
            values = [{"row_id": each, "delay": delays[number, each]} for each in sorted(ids)]
            self._all[number].write(partial(_execute, later, values))

    def write_notes(self, notes: Collection[Note]) -> None:
        """Write released tombstones, as of now."""
        if notes:
            self._home.write(lambda c: _insert_notes(c, self._tables(self._home_number).tombstone, notes, None))

    # -- quotas --------------------------------------------------------------------------------------------------------

    def release(self, locations: Collection[str], *, older_than: int | None = None) -> None:
        """Count objects no more, in each database."""
        for number in self.databases if locations else ():
            tables = self._tables(number)
            self._all[number].write(partial(release_usage, tables=tables, locations=locations, older_than=older_than))

    def counted(
        self, database: int, *, older_than: int, after: int | None, limit: int
    ) -> Sequence[tuple[int, Counted]]:
        """Return a page of what was counted longer ago than that."""
        t = self._tables(database).usage
        page = partial(unproven_usage, usage=t, older_than=older_than, after=after, limit=limit)
        return self._all[database].read(page)

    # -- uploads -------------------------------------------------------------------------------------------------------

    def expire_uploads(self, database: int, *, limit: int, hold: int) -> Sequence[EndedUpload]:
        """End the uploads that have expired; see ``Ledger.expire_uploads``."""
        tables, here = self._tables(database), self._all[database]
        found = here.read(partial(expired_uploads, t=tables.upload, limit=limit))
        each = partial(expire_upload, tables=tables, database=database, hold=hold)
        return [ended for one in found if (ended := here.write(partial(each, upload_id=one))) is not None]

    def forget_upload(self, upload: EndedUpload, *, leftovers: Sequence[str] = ()) -> None:
        """Remove the row of an upload that has ended."""
        tables = self._tables(upload.database)
        self._all[upload.database].write(lambda c: forget_upload(c, tables, upload, leftovers))

    def receiving(self) -> frozenset[str]:
        """Return the keys that are being written in several goes."""
        found = [
            self._all[number].read(partial(receiving_locations, t=self._tables(number).upload))
            for number in self.databases
        ]
        return frozenset().union(*found)

    # -- the reconcile -------------------------------------------------------------------------------------------------

    def loose(self, locations: Sequence[str]) -> set[str]:
        """Return the locations that no row holds and that have no tombstone in any database."""
        left: Collection[str] = locations
        for database in self._all:
            if left:
                left = database.read(partial(_loose, database, left))
        return set(left)

    def open_run(self, name: str, holder: str, *, not_within: int) -> RunState | int:
        """Begin or take over a reconcile, and remove the notes of those that nobody can go on with."""
        state, t = self._state, self._tables(self._home_number).tombstone
        self._add_state(name)

        def step(connection: Connection) -> RunState | int:
            # First the write: it locks the row against another one who opens the same run.
            connection.execute(state.update().where(state.c.name == name).values(holder=holder))
            data = json.loads(connection.scalar(select(state.c.data).where(state.c.name == name)) or "{}")
            ended = data.get("ended_at")
            if ended is not None and not_within > 0:
                now = int(connection.execute(select(db_now())).scalar_one())
                if now - ended < not_within:
                    return int(ended)
            run = RunState(**data["run"]) if data.get("run") else RunState(uuid4().hex)
            connection.execute(state.update().where(state.c.name == name).values(data=json.dumps({"run": asdict(run)})))
            under_way = [
                known["run"]["run"]
                for found in connection.scalars(select(state.c.data).where(state.c.name.startswith("reconcile:")))
                if (known := json.loads(found or "{}")).get("run")
            ]
            connection.execute(t.delete().where(t.c.run.is_not(None), t.c.run.not_in(under_way)))
            return run

        return self._home.write(step)

    def save_page(self, name: str, holder: str, state: RunState, notes: Collection[Note]) -> bool:
        """Write a page's notes, unreleased, and the new position, both or neither."""

        def step(connection: Connection) -> bool:
            if not self._set_data(connection, name, holder, {"run": asdict(state)}):
                return False
            if notes:
                _insert_notes(connection, self._tables(self._home_number).tombstone, notes, state.run)
            return True

        return self._home.write(step)

    def close_run(self, name: str, holder: str, state: RunState, *, release: bool) -> bool:
        """End a reconcile: release its notes as of now, or remove them."""
        t = self._tables(self._home_number).tombstone

        def step(connection: Connection) -> bool:
            now = int(connection.execute(select(db_now())).scalar_one())
            if not self._set_data(connection, name, holder, {"ended_at": now}):
                return False
            ours = t.c.run == state.run
            connection.execute(
                t.update().where(ours).values(run=None, written_at=db_now()) if release else t.delete().where(ours)
            )
            return True

        return self._home.write(step)

    # -- how calls are made --------------------------------------------------------------------------------------------

    def pause(self, seconds: float, stop: threading.Event) -> None:
        """Wait, but no longer than until ``stop`` is set."""
        if not in_greenlet():
            stop.wait(seconds)
            return
        end = time.monotonic() + seconds
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            await_only(asyncio.sleep(min(left, _POLL)))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for each in self._all:
            each.engine.dispose()

    # -- small things --------------------------------------------------------------------------------------------------

    @property
    def _needs_loop(self) -> bool:
        return any(each.is_async for each in self._all)

    @property
    def _home_number(self) -> int:
        return self.databases[0]

    @property
    def _home(self) -> Database:
        return self._all[self._home_number]

    @property
    def _state(self) -> Table:
        return self._tables(self._home_number).state

    def _tables(self, number: int) -> GraniteTables:
        return cast("GraniteTables", self._all[number].tables)

    def _add_state(self, name: str, data: str | None = None, holder: str | None = None) -> None:
        """Add a row of the state where there is none, whoever else does so at the same time."""
        t = self._state

        def step(connection: Connection) -> None:
            if connection.scalar(select(t.c.name).where(t.c.name == name)) is None:
                connection.execute(t.insert().values(name=name, data=data, holder=holder))

        with suppress(IntegrityError):
            self._home.write(step)

    def _set_data(self, connection: Connection, name: str, holder: str, data: dict[str, Any]) -> bool:
        t = self._state
        ours = t.c.name == name, t.c.holder == holder
        return connection.execute(t.update().where(*ours).values(data=json.dumps(data))).rowcount == 1


def _check(database: Database, connection: Connection) -> None:
    tables = list(dict.fromkeys(column.table for column in database.columns))
    if database.tables is not None:
        tables += [each for each in database.tables.all if each not in tables]
        tables = [each for each in tables if each.name not in QUOTA_TABLES or has_table(connection, each)]
    for table in tables:
        try:
            connection.execute(select(*table.columns).limit(0))
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            raise CollectionRefusedError(
                f"table {table.fullname!r} in {database.label} cannot be read, so what it points at would look like "
                "nobody's: create it (create_all or a migration), or grant SELECT on it",
                operation="check",
                value=table.fullname,
            ) from error
    _check_row_security(connection, database, tables)
    if database.tables is None:
        return
    known = {_name(column.table, column.name) for column in database.columns}
    unknown = sorted(".".join(filter(None, each)) for each in _registered(database.tables.column, connection) - known)
    if unknown:
        raise CollectionRefusedError(
            f"{database.label} has held files in {', '.join(unknown)}, which this process does not know: import the "
            "model before the collector runs; where the column is gone for good, delete its row in granite_column",
            operation="check",
            value=unknown,
        )


def _check_row_security(connection: Connection, database: Database, tables: Iterable[Table]) -> None:
    if connection.dialect.name != "postgresql":
        return
    quote = connection.dialect.identifier_preparer.quote
    for table in tables:
        schema = database.schemas.get(table.schema, table.schema)
        name = ".".join(quote(part) for part in (schema, table.name) if part)
        if connection.scalar(select(func.row_security_active(name))):
            raise CollectionRefusedError(
                f"row-level security hides rows of {name} in {database.label} from this user, so what they point at "
                "would look like nobody's: let the collector connect as a user with BYPASSRLS",
                operation="check",
                value=name,
            )


def _origin(connection: Connection) -> str | None:
    """What tells a database from its restored dump: on PostgreSQL the cluster and the database's number in it."""
    if connection.dialect.name != "postgresql":
        return None
    if not connection.scalar(text("SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")):
        return None
    here = "SELECT s.system_identifier || '/' || d.oid FROM pg_control_system() s, pg_database d"
    return str(connection.execute(text(f"{here} WHERE d.datname = current_database()")).scalar_one())


def _registered(table: Table, connection: Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute(select(*(table.c[each] for each in _NAME)).distinct())
    return {(row[0], row[1], row[2]) for row in rows}


def _name(table: Any, column: str) -> tuple[str, str, str]:
    return table.schema or "", table.name, column


def _due(t: Table, grace: int, until: int) -> tuple[ColumnElement[bool], ...]:
    return (
        t.c.run.is_(None),
        t.c.written_at <= until - grace,  # implied by the next line, and can use the index
        t.c.written_at + t.c.retention <= until - grace,
        t.c.retry_at <= until,
    )


def _tombstones(database: Database, locations: Collection[str], connection: Connection) -> list[Any]:
    rows: list[Any] = []
    if database.tables is not None:
        t, dialect = database.tables.tombstone, connection.dialect.name
        columns = t.c.id, t.c.location, t.c.backend, t.c.storage_key, t.c.written_at + t.c.retention, t.c.attempts
        query = select(*columns).where(among(t.c.location, dialect), t.c.run.is_(None))
        for some in chunks(sorted(locations), at_once(dialect)):
            rows += connection.execute(query, {WANTED: packed(dialect, some)}).all()
    return rows


def _look(database: Database, locations: Collection[str], connection: Connection) -> _Seen:
    """The tombstones of locations, those that a row holds, and the longest grace: as of one moment."""
    _plainly(connection)
    rows = _tombstones(database, locations, connection)
    longest = 0
    if database.tables is not None:
        longest = connection.scalar(select(longest_grace(database.tables.state))) or 0
    held = find_held(connection, database.columns, locations, {}, indexed=database.indexed)
    return rows, frozenset(held), longest


def _drop(tables: GraniteTables, rows: Sequence[int], gone: Collection[str], connection: Connection) -> None:
    if gone:
        release_usage(connection, tables, gone)
    t, dialect = tables.tombstone, connection.dialect.name
    for some in chunks(rows, at_once(dialect)):
        connection.execute(t.delete().where(among(t.c.id, dialect)), {WANTED: packed(dialect, some)})


def _loose(database: Database, locations: Collection[str], connection: Connection) -> set[str]:
    _plainly(connection)
    return database.loose.find(connection, locations)


def _plainly(connection: Connection) -> None:
    """Keep PostgreSQL from compiling the look-up: thousands of short walks look like one that is worth it."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL jit = off"))


def _execute(statement: Executable, values: Any, connection: Connection) -> None:
    connection.execute(statement, values)


def _insert_notes(connection: Connection, t: Table, notes: Collection[Note], run: str | None) -> None:
    connection.execute(
        t.insert().values(written_at=db_now(), run=run),
        [
            {
                "location": each.location,
                "backend": each.backend,
                "storage_key": each.storage_key,
                "retention": each.retention,
            }
            for each in notes
        ],
    )


def _by_database(rows: Iterable[RowId]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for number, each in rows:
        found[number].append(each)
    return found
