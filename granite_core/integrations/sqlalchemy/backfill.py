"""A file column filled from a path or a text that the rows have already: batch by batch, as often as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Column, Connection, Engine, MetaData, Table, inspect, select

from granite_core.errors import ConfigurationError, StaleRefError, StorageError
from granite_core.integrations.sqlalchemy._admitting import is_fresh
from granite_core.integrations.sqlalchemy._graces import quarter_for
from granite_core.integrations.sqlalchemy._rows import register_columns
from granite_core.integrations.sqlalchemy._storing import put
from granite_core.integrations.sqlalchemy._transaction import Transaction
from granite_core.integrations.sqlalchemy.tables import OPT_OUT_KEY
from granite_core.integrations.sqlalchemy.types import portable_storage_ref_type
from granite_core.keys import clean_segment
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.sources import UnsavedFile

__all__ = ["BackfillReport", "backfill_files"]


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill did.

    Args:
        stored: Rows that got their file.
        skipped: Rows for which there was no content.
        failed: Rows whose content could not be read or stored.
        left: Rows that somebody else changed meanwhile, or whose file was stored for too long to be attached: the next
            run takes them.
    """

    stored: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0


def backfill_files(
    bind: Engine | Connection,
    manager: StorageManager,
    storage_key: str,
    *,
    table: str,
    key: str,
    old: str,
    new: str,
    content: Callable[[Any], StoredObjectRef | None],
    schema: str | None = None,
    batch_size: int = 100,
    on_error: Callable[[Any, Exception], object] | None = None,
    progress: Callable[[BackfillReport], object] | None = None,
) -> BackfillReport:
    """Store a file for each row that has something in its old column and nothing in its new one.

    Names instead of models, which go on changing after a migration was written. Each batch is committed by itself;
    a run that ends half-way, however it ends, is gone on with by the next. While it runs, others may read and write
    the rows: one whose old column changes meanwhile is left to the next run. The old column stays as it is.

    The new column is registered with Granite's tables, so that a collector which does not know it yet stops. What a
    run stored and could not write down is found by the reconcile.

    Args:
        bind: An engine; or, in a migration, ``op.get_bind()`` inside ``with op.get_context().autocommit_block()``.
        manager: Stores the files.
        storage_key: The policy whose rules apply.
        table: The table's name.
        key: Name of the column that is its primary key.
        old: Name of the column with the path or the text.
        new: Name of the file column.
        content: Makes a row's content of its old value: ``lambda path: unsaved(ROOT / path)``; None for nothing.
        schema: The table's schema.
        batch_size: Rows that are read, stored and committed at a time.
        on_error: Called with a row's key and what went wrong with its content; the row stays without a file. Where
            absent, the first failure ends the run, after what was stored before it is written down.
        progress: Called after each batch with the report so far.

    Raises:
        ConfigurationError: There is no such policy, or a connection would not commit by itself.
        TypeError: ``content`` returns something that ``unsaved()`` did not make.
        StaleRefError: A batch took so long to be written down that its files may not be attached any more.
        StorageError: A file cannot be stored, and there is no ``on_error``.
        OSError: A file cannot be read, and there is no ``on_error``.
    """
    manager.get_policy(storage_key)
    work = _Backfill(bind, manager, storage_key, _Place(bind, schema, table, key, old, new))
    report, after = BackfillReport(), None
    while rows := work.read(after, batch_size):
        staged: list[_Staged] = []
        try:
            for row in rows:
                try:
                    file = work.store(row, content(row.value))
                except (OSError, ValueError, StorageError) as error:
                    if on_error is None:
                        work.write(staged)
                        raise
                    on_error(row.key, error)
                    report = replace(report, failed=report.failed + 1)
                    continue
                if file is None:
                    report = replace(report, skipped=report.skipped + 1)
                    continue
                staged.append((row, file))
                if work.is_late(staged[0][1]):
                    report = _count(report, work.write(staged), len(staged))
                    staged = []
            report = _count(report, work.write(staged), len(staged))
        finally:
            _discard(staged)
        if progress is not None:
            progress(report)
        after = rows[-1].key
    return report


class _Old(NamedTuple):
    """A row as it was read."""

    key: Any
    value: Any


_Staged: TypeAlias = tuple[_Old, StagedFile]


def _count(report: BackfillReport, written: int, of: int) -> BackfillReport:
    return replace(report, stored=report.stored + written, left=report.left + of - written)


def _discard(staged: Sequence[_Staged]) -> None:
    """Let go what no statement has seen."""
    for _, file in staged:
        with suppress(StorageError):
            file.discard()


class _Place:
    """The three columns, and Granite's tables where the database has them."""

    def __init__(self, bind: Engine | Connection, schema: str | None, table: str, key: str, old: str, new: str) -> None:
        self.key: Final = Column[Any](key, primary_key=True)
        self.old: Final = Column[Any](old)
        self.new: Final = Column[Any](new, portable_storage_ref_type())
        self.table: Final = Table(table, _metadata(bind, schema), self.key, self.old, self.new, schema=schema)


def _metadata(bind: Engine | Connection, schema: str | None) -> MetaData:
    """Granite's tables are in the schema of the models' metadata: the table's own, or the default one."""
    inspector = inspect(bind)
    translated: dict[str | None, str | None] = bind.get_execution_options().get("schema_translate_map") or {}
    for each in dict.fromkeys([schema, None]):
        if inspector.has_table("granite_column", schema=translated.get(each, each)):
            return MetaData(schema=each)
    return MetaData(info={OPT_OUT_KEY: False})


class _Backfill:
    """The steps of a run: reading, storing and writing a batch."""

    def __init__(self, bind: Engine | Connection, manager: StorageManager, storage_key: str, place: _Place) -> None:
        if isinstance(bind, Connection) and bind.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            raise ConfigurationError(
                "a backfill commits batch by batch: give it an engine; in a migration, call it inside "
                "`with op.get_context().autocommit_block():`"
            )
        self._bind = bind
        self._manager = manager
        self._storage_key = storage_key
        self._place = place

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if isinstance(self._bind, Connection):
            yield self._bind
            driver: Any = self._bind.connection.driver_connection
            if self._bind.dialect.name == "sqlite" and driver.in_transaction:
                self._bind.exec_driver_sql("COMMIT")  # a listener of the engine had sent its own BEGIN
        else:
            with self._bind.begin() as connection:
                yield connection

    def read(self, after: Any, limit: int) -> list[_Old]:
        place = self._place
        query = select(place.key, place.old)
        query = query.where(place.new.is_(None), place.old.is_not(None)).order_by(place.key).limit(limit)
        if after is not None:
            query = query.where(place.key > after)
        with self._transaction() as connection:
            return [_Old(*row) for row in connection.execute(query)]

    def store(self, row: _Old, content: object) -> StagedFile | None:
        """Store a row's content, while no transaction is open."""
        if content is None:
            return None
        if not isinstance(content, UnsavedFile):
            raise TypeError(f"content must return unsaved(…) or None, not {type(content).__name__}")
        return put(
            self._manager,
            self._storage_key,
            content,
            model_name=self._place.table.name,
            entity_id=clean_segment(row.key),
            field_name=self._place.new.name,
        )

    def is_late(self, file: StagedFile) -> bool:
        """Whether a batch must not grow any more: half of the time that its first file has is over."""
        staged_at = datetime.fromisoformat(file.created_at or "")
        return self._manager.now() - staged_at >= self._manager.attach_within / 2

    def write(self, staged: Sequence[_Staged]) -> int:
        """Write refs into their rows, where those are as they were read; return how many."""
        fresh: list[_Staged] = []
        late: list[_Staged] = []
        for each in staged:
            (fresh if is_fresh(each[1], self._manager) else late).append(each)
        _discard(late)
        if not fresh:
            return 0
        place, written = self._place, 0
        with self._transaction() as connection:
            register_columns(Transaction(), connection, [place.new])
            for row, file in fresh:
                file.mark_used()
                there = place.key == row.key, place.old == row.value, place.new.is_(None)
                done = connection.execute(place.table.update().where(*there).values({place.new: file.to_dict()}))
                written += done.rowcount
            lasting = isinstance(self._bind, Engine)
            within = quarter_for(Transaction(), connection, place.new, self._manager, lasting=lasting)
            if not all(is_fresh(file, self._manager, within) for _, file in fresh):
                raise StaleRefError(
                    f"a batch was not written within {within} of its files being stored: run it again, with a smaller "
                    "batch_size",
                    operation="backfill",
                    limit=within,
                )
        return written
