"""Granite's own tables, which join the user's metadata: tombstones, columns, the collector's state, uploads, quotas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Column, ColumnElement, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from granite_core.errors import ConfigurationError
from granite_core.integrations.sqlalchemy.fields import INDEX_KEY, add_index
from granite_core.integrations.sqlalchemy.references import OWN_KEY, file_columns
from granite_core.integrations.sqlalchemy.types import StoredObjectRefType

__all__ = [
    "OPT_OUT_KEY",
    "QUOTA_TABLES",
    "GraniteTables",
    "db_now",
    "held_columns",
    "home_of",
    "is_upload_column",
    "tables_of",
    "there_already",
]

OPT_OUT_KEY: Final = "granite_tables"
QUOTA_TABLES: Final = ("granite_quota", "granite_usage")
"""The tables without which all but policies with quotas work."""
"""What a metadata's ``info`` may say before the first model: False, or the metadata that declares the tables for it."""

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up by itself only where the type is INTEGER
_Text = String(1024)
_Long = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


@dataclass(frozen=True, slots=True)
class GraniteTables:
    """The tables in one metadata. Times are milliseconds since 1970 by the database's clock.

    Attributes:
        tombstone: After ``written_at`` + grace + ``retention``: look whether this object may go. A row whose ``run``
            is set was noted by a reconcile that has not ended, and is not looked at yet.
        column: Columns that ever held a ref, so that a process that does not know one of them collects nothing.
        state: The lease, the database's identity, where a reconcile stands, and what the last runs found.
        upload: Upload sessions. Their ``file`` is a file column like the models' own: what it holds is held.
        quota: What each scope has: the sum of ``usage``.
        usage: Objects that are counted for a scope, stored or on their way in. A row is the receipt: it goes in the
            transaction that lowers the sum.
    """

    tombstone: Table
    column: Table
    state: Table
    upload: Table
    quota: Table
    usage: Table

    @property
    def all(self) -> tuple[Table, ...]:
        """Every one of them."""
        return self.tombstone, self.column, self.state, self.upload, self.quota, self.usage


class db_now(FunctionElement[int]):  # noqa: N801 - named as a SQL function is
    """The database's clock as milliseconds since 1970: the moment of asking, not of the transaction's start."""

    type = BigInteger()
    inherit_cache = True
    name = "granite_now"


@compiles(db_now)
def _now_default(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) * 1000 AS BIGINT)"


@compiles(db_now, "postgresql")
def _now_postgresql(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(db_now, "mysql", "mariadb")
def _now_mysql(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"


def tables_of(metadata: MetaData) -> GraniteTables | None:
    """Return the tables that a metadata's models use, declaring them where they are not yet; None after an opt-out.

    A second metadata of the same database uses the first one's: ``MetaData(info={"granite_tables": Base.metadata})``.

    Raises:
        ConfigurationError: The metadata says where its tables are declared, and has declared them itself already.
    """
    home = home_of(metadata)
    if home is None:
        return None
    known = home.info.get(_TABLES_KEY)
    if not isinstance(known, GraniteTables) or known.tombstone.key not in home.tables:
        known = home.info[_TABLES_KEY] = _make(home)
    return known


def held_columns(metadata: MetaData) -> tuple[Column[Any], ...]:
    """Return every column that holds refs for a metadata's models: theirs, and that of the upload sessions."""
    found = file_columns(metadata)
    tables = tables_of(metadata) if found else None  # asking for them declares them
    return tuple(dict.fromkeys([*found, *([tables.upload.c.file] if tables is not None else ())]))


def is_upload_column(column: Column[Any]) -> bool:
    """Tell whether a column that holds refs is that of the upload sessions."""
    return bool(column.info.get(OWN_KEY))


def there_already(column: Column[Any]) -> tuple[ColumnElement[bool], ...]:
    """Return conditions for the rows of a column that holds refs whose object is there: not if it is still received."""
    return (column.table.c.status == "finished",) if is_upload_column(column) else ()


def home_of(metadata: MetaData) -> MetaData | None:
    """Return the metadata that declares the tables for another one, or for itself; None after an opt-out.

    Raises:
        ConfigurationError: It says so too late, or in a way that cannot be meant.
    """
    said = metadata.info.get(OPT_OUT_KEY)
    if said is None or said is True or said is metadata:
        return metadata
    if said is False:
        return None
    if not isinstance(said, MetaData) or said.info.get(OPT_OUT_KEY, True) is not True:
        raise ConfigurationError(
            f'metadata.info["{OPT_OUT_KEY}"] is False, or the MetaData of the same database that declares the tables '
            f"itself, not {said!r}"
        )
    if _TABLES_KEY in metadata.info:
        raise ConfigurationError(
            f'metadata.info["{OPT_OUT_KEY}"] comes too late: this metadata has declared the tables itself already; '
            "give it to MetaData(info=…), before the first model"
        )
    return said


_TABLES_KEY: Final = "granite_table_objects"


def _make(metadata: MetaData) -> GraniteTables:
    def table(name: str, *columns: Column[Any]) -> Table:
        # Reflected before the first model was declared: what the database has is what is used.
        reflected = metadata.tables.get(f"{metadata.schema}.{name}" if metadata.schema else name)
        return Table(name, metadata, *columns) if reflected is None else reflected

    tables = GraniteTables(
        tombstone=table(
            "granite_tombstone",
            Column("id", _Id, primary_key=True, autoincrement=True),
            Column("location", _Text, nullable=False, index=True),
            Column("backend", String(255), nullable=False),
            Column("storage_key", String(255), nullable=False),
            Column("written_at", BigInteger, nullable=False, index=True),
            Column("retention", BigInteger, nullable=False, server_default="0"),
            Column("attempts", Integer, nullable=False, server_default="0"),
            Column("retry_at", BigInteger, nullable=False, server_default="0"),
            Column("run", String(32), nullable=True),
        ),
        column=table(
            "granite_column",
            Column("id", _Id, primary_key=True, autoincrement=True),
            Column("schema_name", String(255), nullable=False),
            Column("table_name", String(255), nullable=False),
            Column("column_name", String(255), nullable=False),
        ),
        state=table(
            "granite_state",
            Column("name", String(255), primary_key=True),
            Column("holder", String(64), nullable=True),
            Column("expires_at", BigInteger, nullable=False, server_default="0"),
            Column("data", Text, nullable=True),
        ),
        upload=table(
            "granite_upload",
            Column("id", String(64), primary_key=True),
            Column("kind", String(32), nullable=False),
            Column("subject", String(255), nullable=False),
            Column("status", String(16), nullable=False),
            Column("storage_key", String(255), nullable=False),
            Column("backend", String(255), nullable=False),
            Column("location", _Text, nullable=False),
            Column("file", StoredObjectRefType(), nullable=True),
            Column("received", BigInteger, nullable=False, server_default="0"),
            Column("length", BigInteger, nullable=True),
            Column("details", _Long, nullable=True),
            Column("progress", _Long, nullable=True),
            Column("holder", String(64), nullable=True),
            Column("held_until", BigInteger, nullable=False, server_default="0"),
            Column("created_at", BigInteger, nullable=False),
            Column("expires_at", BigInteger, nullable=False, index=True),
        ),
        quota=table(
            QUOTA_TABLES[0],
            Column("scope", String(255), primary_key=True),
            Column("bytes", BigInteger, nullable=False, server_default="0"),
            Column("files", BigInteger, nullable=False, server_default="0"),
        ),
        usage=table(
            QUOTA_TABLES[1],
            Column("id", _Id, primary_key=True, autoincrement=True),
            Column("location", _Text, nullable=False, index=True),
            Column("backend", String(255), nullable=False),
            Column("storage_key", String(255), nullable=False),
            Column("scope", String(255), nullable=False, index=True),
            Column("bytes", BigInteger, nullable=False),
            Column("max_bytes", BigInteger, nullable=True),
            Column("touched_at", BigInteger, nullable=False, index=True),
        ),
    )
    held = tables.upload.c.file
    held.type = StoredObjectRefType()  # reflected, the database does not tell what its JSON holds
    held.info.update({INDEX_KEY: True, OWN_KEY: True})
    add_index(held)
    return tables
