"""A backend of one's own: objects in an SQLite database, in pieces of 1 MiB."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from granite_core import (
    NO_OPTIONS,
    BackendError,
    BackendUnavailableError,
    Capability,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    StorageBackend,
    WriteOptions,
)
from granite_core.keys import is_reserved

PIECE = 1024 * 1024
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS object (key TEXT PRIMARY KEY, id TEXT, size INTEGER, modified REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS piece (id TEXT, number INTEGER, data BLOB, written REAL, PRIMARY KEY (id, number));
"""


class SQLiteBackend(StorageBackend):
    """Keeps objects in a database file."""

    capabilities = frozenset({Capability.ATOMIC_CREATE})

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.connection() as connection:
            connection.executescript(SCHEMA)

    @property
    def identity(self) -> tuple[str, ...]:
        return ("sqlite", str(self.path.resolve()))

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """One connection a call: a backend is used by many threads."""
        try:
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                with connection:  # commits, or rolls back
                    yield connection
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise BackendUnavailableError(str(error)) from error
        except sqlite3.DatabaseError as error:
            raise BackendError(str(error)) from error

    def find(self, location: str) -> tuple[str, int, float]:
        with self.connection() as connection:
            row = connection.execute("SELECT id, size, modified FROM object WHERE key = ?", [location]).fetchone()
        if row is None:
            raise ObjectNotFoundError("no such object", location=location)
        return row

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        return SQLiteWriter(self, location)

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        return SQLiteReader(self, location, offset, length)

    def stat(self, location: str) -> ObjectStat:
        object_id, size, modified = self.find(location)
        return ObjectStat(location, size, datetime.fromtimestamp(modified, UTC), object_id)

    def delete(self, location: str) -> None:
        with self.connection() as connection:
            connection.execute("DELETE FROM piece WHERE id = (SELECT id FROM object WHERE key = ?)", [location])
            connection.execute("DELETE FROM object WHERE key = ?", [location])

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        last, first = start_after or "", prefix
        while True:  # page by page: nothing stays locked while the caller works
            with self.connection() as connection:
                page = connection.execute(
                    "SELECT key, size, modified, id FROM object"
                    " WHERE key > ? AND key >= ? AND substr(key, 1, ?) = ? ORDER BY key LIMIT 1000",
                    [last, first, len(prefix), prefix],
                ).fetchall()
            for key, size, modified, object_id in page:
                last = key
                if not is_reserved(key):
                    yield ObjectStat(key, size, datetime.fromtimestamp(modified, UTC), object_id)
            if len(page) < 1000:
                return

    def clear_unfinished(self, older_than: timedelta) -> int:
        before = time.time() - older_than.total_seconds()
        with self.connection() as connection:
            dead = connection.execute(
                "SELECT id FROM piece WHERE id NOT IN (SELECT id FROM object) GROUP BY id HAVING max(written) < ?",
                [before],
            ).fetchall()
            connection.executemany("DELETE FROM piece WHERE id = ?", dead)
        return len(dead)


class SQLiteWriter(ObjectWriter):
    def __init__(self, backend: SQLiteBackend, location: str) -> None:
        self.backend = backend
        self.location = location
        self.id = uuid4().hex
        self.buffer = bytearray()
        self.number = 0
        self.size = 0
        self.closed = False

    def write(self, data: Any, /) -> None:
        self.check_open()
        view = memoryview(data).cast("B")
        while view:
            room = PIECE - len(self.buffer)
            self.buffer += view[:room]  # a copy: the caller may reuse its buffer
            view = view[room:]
            if len(self.buffer) == PIECE:
                self.flush()

    def flush(self) -> None:
        piece = [self.id, self.number, bytes(self.buffer), time.time()]
        try:
            with self.backend.connection() as connection:
                connection.execute("INSERT INTO piece VALUES (?, ?, ?, ?)", piece)
        except BackendError:
            self.abort()
            raise
        self.number += 1
        self.size += len(self.buffer)
        self.buffer.clear()

    def commit(self) -> None:
        self.check_open()
        self.flush()
        try:
            with self.backend.connection() as connection:
                (stored,) = connection.execute("SELECT count(*) FROM piece WHERE id = ?", [self.id]).fetchone()
                if stored != self.number:
                    raise BackendError("the pieces were cleared meanwhile", location=self.location)
                row = [self.location, self.id, self.size, time.time()]
                if connection.execute("INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?)", row).rowcount == 0:
                    raise ObjectExistsError("the key is taken", location=self.location)
        except BaseException:
            self.abort()
            raise
        self.closed = True

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            try:
                with self.backend.connection() as connection:
                    connection.execute("DELETE FROM piece WHERE id = ?", [self.id])
            except BackendError:
                pass  # clear_unfinished comes by

    def check_open(self) -> None:
        if self.closed:
            raise BackendError("the writer is closed", location=self.location)


class SQLiteReader(ObjectReader):
    def __init__(self, backend: SQLiteBackend, location: str, offset: int, length: int | None) -> None:
        self.backend = backend
        self.location = location
        self.id, self.size, _ = backend.find(location)
        self.position = min(offset, self.size)
        self.end = self.size if length is None else min(self.size, offset + length)

    def read(self, size: int = -1, /) -> bytes:
        wanted = self.end - self.position if size < 0 else min(size, self.end - self.position)
        pieces = []
        while wanted > 0:
            number, skip = divmod(self.position, PIECE)
            with self.backend.connection() as connection:
                row = connection.execute(
                    "SELECT substr(data, ?, ?) FROM piece WHERE id = ? AND number = ?",
                    [skip + 1, wanted, self.id, number],
                ).fetchone()
            if row is None:
                raise ObjectNotFoundError("the object has gone", location=self.location)
            pieces.append(row[0])
            self.position += len(row[0])
            wanted -= len(row[0])
        return b"".join(pieces)

    def close(self) -> None:
        self.end = self.position
